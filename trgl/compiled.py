"""Modules under torch.compile, each with a cache of compiled code of its own."""

import types
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def compiled(
    module: nn.Module, number: int, options: Mapping[str, Any]
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """The module, to be compiled when it first runs.

    PyTorch keeps compiled code by code object, and stops compiling one after a few variants
    (`torch._dynamo.config.recompile_limit`). All modules have one class and so one `forward`: the
    later ones of many would run eager, or fail under `fullgraph`. So each is called by a function
    whose code is its own; its name keeps the shapes of modules apart, too.

    Args:
        module: gives (features, logits).
        number: k, for the name.
        options: of `torch.compile`.
    """

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = module(x)
        return found

    code = forward.__code__.replace(co_name=f"module_{number}")
    own = types.FunctionType(code, globals(), closure=forward.__closure__)
    run: Callable[[Tensor], tuple[Tensor, Tensor]] = torch.compile(own, **options)
    return run


def replays(
    options: Mapping[str, Any],
    device: torch.device,
) -> bool:
    """Whether torch.compile with these options may replay CUDA graphs."""
    graphs = (options.get("options") or {}).get("triton.cudagraphs", False)
    named = options.get("mode") in ("reduce-overhead", "max-autotune")
    return device.type == "cuda" and (named or bool(graphs))
