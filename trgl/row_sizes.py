"""The size of features, from a pass over tensors without data."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from .network import GreedyNetwork
from .store import row_bytes
from .untouched import untouched


def sizes_after(network: GreedyNetwork, runs: Sequence[Callable[[Tensor], Tensor]]) -> list[int]:
    """Bytes per sample after each of the parts of a network that run on its images, in order.

    In evaluation mode and without hooks; the network is left as it was.
    """
    layers = list(network.modules())
    modes = [layer.training for layer in layers]
    hooks = [(layer._forward_pre_hooks, layer._forward_hooks) for layer in layers]
    weight = next((p for p in network.parameters() if p.is_floating_point()), None)
    sizes = []
    network.eval()
    try:
        for layer in layers:  # a hook may look at the data
            layer._forward_pre_hooks, layer._forward_hooks = OrderedDict(), OrderedDict()
        fake = FakeTensorMode(allow_non_fake_inputs=True)
        with torch.no_grad(), untouched(network), fake:
            x = torch.empty(
                2,
                *network.input_shape,
                dtype=None if weight is None else weight.dtype,
                device=None if weight is None else weight.device,
            )
            for run in runs:
                x = run(x)
                sizes.append(row_bytes(x))
    finally:
        for layer, mode, (before, after) in zip(layers, modes, hooks, strict=True):
            layer.training = mode
            layer._forward_pre_hooks, layer._forward_hooks = before, after
    return sizes
