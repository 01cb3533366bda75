"""The memory that the methods of a recipe take, predicted before they run."""

from __future__ import annotations

import torch

from trgl.forecast import predict_steps
from trgl.network import GreedyNetwork
from trgl.prepare import make_optimizer, make_transport
from trgl.recipes import Recipe


def bytes_by_method(recipe: Recipe, network: GreedyNetwork) -> dict[str, int]:
    """The most bytes that live during a training step, by method.

    Everything counts: parameters, gradients, the state of the recipe's own optimizer and, of
    module-wise training, the other modules too.

    Args:
        recipe: batches, optimizer, penalty and precision.
        network: that ``trgl.build.build_network`` made of it; it is left as it is.

    Returns:
        Bytes by key of ``trgl.recipes.METHODS``.
    """
    # of float16 the sizes are those of bfloat16, whose steps need no values for loss scaling
    autocast = None if recipe.autocast == "none" else torch.bfloat16
    found = {}
    for method in ("end-to-end", "vanilla", "transport"):
        whole = method == "end-to-end"
        peaks = predict_steps(
            network,
            recipe.largest_batch,
            regime="end-to-end" if whole else "parallel",
            transport=make_transport(recipe) if method == "transport" else None,
            optimizer=make_optimizer(recipe, network, whole),
            autocast=autocast,
        )
        found[method] = max(peak.total for peak in peaks)
    return found
