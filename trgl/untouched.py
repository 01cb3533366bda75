"""Running layers on tensors without data, after which the layers are as they were."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.parameter import is_lazy


@contextmanager
def untouched(*models: nn.Module) -> Iterator[None]:
    """After the context buffers have their values, and no layer keeps a tensor without data.

    A layer's forward may count its calls in a buffer, or keep a mask in an attribute. In a run on
    tensors without data the one is not meant to be counted, and the other would be a tensor without
    data for good.

    Args:
        models: whose layers run.
    """
    layers = [layer for model in models for layer in model.modules()]
    before = [(layer, dict(layer._buffers), dict(vars(layer))) for layer in layers]
    buffers = [(b, b._version, b.clone()) for b in _buffers_of(models)]
    try:
        yield
    finally:
        for buffer, version, value in buffers:
            if buffer._version != version:
                buffer.copy_(value)
        for layer, own, attributes in before:
            layer._buffers.clear()
            layer._buffers.update(own)
            for name in [name for name, value in vars(layer).items() if _is_fake(value)]:
                if name in attributes:
                    vars(layer)[name] = attributes[name]
                else:
                    del vars(layer)[name]


def _buffers_of(models: Sequence[nn.Module]) -> Iterator[Tensor]:
    return (b for model in models for b in model.buffers() if not is_lazy(b))


def _is_fake(value: object) -> bool:
    inside = value if isinstance(value, list | tuple) else [value]
    return any(isinstance(item, FakeTensor) for item in inside)
