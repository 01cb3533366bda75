"""Calls that every engine refuses, and what it says: the arguments of each operator, one wrong."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from oracle import DEVICE

import trgl_kernels

MAP, SAMPLES, CHANNELS, FEATURES = (torch.zeros(s) for s in ((2, 3, 4, 5), (2,), (3,), (5,)))
STATISTICS = dict.fromkeys(("weight", "bias", "running_mean", "running_var"))
NORMALIZED = dict.fromkeys(("weight", "bias", "mean", "rstd"), CHANNELS)

# arguments that are right
GOOD: dict[str, dict[str, Any]] = {
    "residual_energy": {"x": MAP, "r": MAP},
    "batch_norm_residual_energy": {"z": MAP, "x": MAP, **STATISTICS, "training": True},
    "batch_norm_relu": {"z": MAP, **STATISTICS, "training": True},
    "residual_energy_layer_norm": {"x": MAP, "r": MAP, "weight": None, "bias": None},
    "displacement_energy": {"x": MAP, "y": MAP},
}
# changes to them, and words of the message
MISTAKES: dict[str, list[tuple[dict[str, Any], str]]] = {
    "residual_energy": [
        (
            {"r": torch.zeros(2, 3, 4, 6)},
            r"x and r must have the same shape; received \(2, 3, 4, 5\) and \(2, 3, 4, 6\)",
        ),
        (
            {"scale": torch.ones(3, device="meta")},
            f"scale must be on the device .* meta beside {DEVICE}",
        ),
        (
            {"keep": torch.ones(2, device="meta")},
            f"keep must be on the device .* meta beside {DEVICE}",
        ),
        (
            {"r": torch.zeros(2, 3, 4, 5, dtype=torch.int32)},
            r"r must be float32, .*; received torch.int32\. Convert",
        ),
        ({"x": torch.zeros(3), "r": torch.zeros(3)}, "a batch and a feature dimension"),
        ({"activation": "gelu"}, "activation must be one of none, relu; received 'gelu'"),
        ({"p": 0.5}, "p must be finite and at least 1; received 0.5"),
        ({"p": float("nan")}, "p must be finite and at least 1"),
        ({"keep": torch.ones(3)}, r"one floating-point factor per sample, shape \(2,\)"),
        ({"keep": torch.ones(2, requires_grad=True)}, "gets no gradient"),
        ({"scale": torch.ones(4)}, "one floating-point factor per channel"),
        ({"scale": torch.ones(3, 4, 1)}, "one floating-point factor per channel"),
    ],
    "batch_norm_residual_energy": [
        ({"x": torch.zeros(2, 3, 4, 6)}, "z and x must have the same shape; received"),
        (
            {"weight": torch.ones(4)},
            r"weight must hold one floating-point value per channel, \(3,\)",
        ),
        ({"running_mean": torch.ones(3)}, "must be given together"),
        ({"training": False}, "evaluation needs running statistics"),
        ({"z": torch.zeros(1, 3), "x": torch.zeros(1, 3)}, "more than one value per channel"),
        ({"momentum": float("inf")}, "momentum must be finite; received inf"),
        (
            {"weight": torch.ones(3, device="meta")},
            f"weight must be on the device .* meta beside {DEVICE}",
        ),
        ({"eps": -1.0}, "eps must be finite and not negative"),
        ({"activation": "tanh"}, "activation must be one of none, relu; received 'tanh'"),
        ({"p": 0.0}, "p must be finite and at least 1"),
        ({"keep": torch.ones(5)}, r"one floating-point factor per sample, shape \(2,\)"),
    ],
    "batch_norm_relu": [
        ({"z": torch.zeros(2, 3).long()}, "z must be float32, float64, bfloat16 or float16; rec"),
        ({"z": torch.zeros(3)}, r"a batch and a feature dimension, .* received shape \(3,\)"),
        ({"weight": torch.ones(4)}, r"weight must hold one floating-point value per channel, \(3"),
        ({"bias": torch.ones(3).int()}, "bias must hold one floating-point value per channel"),
        ({"running_mean": torch.ones(3)}, "must be given together"),
        ({"training": False}, "evaluation needs running statistics"),
        ({"z": torch.zeros(1, 3)}, "more than one value per channel"),
        ({"momentum": float("inf")}, "momentum must be finite; received inf"),
        (
            {"weight": torch.ones(3, device="meta")},
            f"weight must be on the device .* meta beside {DEVICE}",
        ),
        ({"eps": -1.0}, "eps must be finite and not negative"),
    ],
    "residual_energy_layer_norm": [
        ({"r": torch.zeros(2, 3, 4, 6)}, r"x and r must have the same shape; received \(2, 3,"),
        ({"x": MAP.int()}, r"x must be float32, .*; received torch.int32\. Convert"),
        ({"x": torch.zeros(3), "r": torch.zeros(3)}, "a batch and a feature dimension"),
        ({"weight": torch.ones(3)}, r"weight must hold one floating-point value per feature, \(5,"),
        ({"weight": torch.ones(1, 5)}, r"weight must hold .*; received torch.float32 of shape"),
        ({"bias": torch.ones(5).int()}, r"bias must hold .*; received torch.int32 of shape"),
        (
            {"bias": torch.ones(5, device="meta")},
            f"bias must be on the device .* meta beside {DEVICE}",
        ),
        ({"scale": torch.ones(3, 1, 1)}, r"scale must hold .*; received torch.float32 of shape"),
        ({"scale": torch.ones(1)}, r"scale must hold .*; received torch.float32 of shape \(1,\)"),
        ({"scale": torch.ones(1, 1, 1, 1, 5)}, r"scale must hold one floating-point value"),
        (
            {"scale": torch.ones(5, device="meta")},
            f"scale must be on the device .* meta beside {DEVICE}",
        ),
        ({"keep": torch.ones(3)}, r"one floating-point factor per sample, shape \(2,\)"),
        ({"keep": torch.ones(2, requires_grad=True)}, "gets no gradient"),
        ({"p": 0.5}, "p must be finite and at least 1; received 0.5"),
        ({"eps": -1.0}, "eps must be finite and not negative; received -1.0"),
        ({"eps": float("nan")}, "eps must be finite and not negative; received nan"),
    ],
    "displacement_energy": [
        (
            {"y": torch.zeros(2, 3, 4, 6)},
            r"x and y must have the same shape; received \(2, 3, 4, 5\) and \(2, 3, 4, 6\)",
        ),
        (
            {"y": torch.zeros(2, 3, 4, 5, dtype=torch.int32)},
            r"y must be float32, .*; received torch.int32\. Convert",
        ),
        ({"y": torch.zeros(2, 3, 4, 5, device="meta")}, "must be on the same device"),
        ({"x": torch.zeros(3), "y": torch.zeros(3)}, "a batch and a feature dimension"),
        ({"p": 0.5}, "p must be finite and at least 1; received 0.5"),
        ({"p": float("nan")}, "p must be finite and at least 1"),
    ],
}
TYPES: dict[str, list[tuple[dict[str, Any], str]]] = {
    "residual_energy": [
        ({"x": [[1.0]]}, "x must be a torch.Tensor; received a list"),
        ({"r": MAP.cpu().numpy()}, "r must be a torch.Tensor; received a ndarray"),
        ({"keep": [1.0, 1.0]}, "keep must be a torch.Tensor or None; received a list"),
        ({"p": "2"}, r"p must be a number; received '2'\. Convert it with float"),
        ({"p": None}, r"p must be a number; received a NoneType\. Convert it with float"),
        ({"activation": torch.relu}, "activation must be a string; received a builtin_function"),
    ],
    "batch_norm_residual_energy": [
        ({"x": None}, "x must be a torch.Tensor; received a NoneType"),
        ({"training": "yes"}, "training must be True or False; received 'yes'"),
    ],
    "batch_norm_relu": [
        ({"weight": 1.0}, "weight must be a torch.Tensor or None; received a float"),
        ({"momentum": None}, "momentum must be a number; received a NoneType"),
    ],
    "residual_energy_layer_norm": [
        ({"scale": 0.1}, "scale must be a torch.Tensor or None; received a float"),
        ({"eps": "1e-5"}, "eps must be a number; received '1e-5'"),
    ],
    "displacement_energy": [({"y": (1.0,)}, "y must be a torch.Tensor; received a tuple")],
}

# the arguments of a backward operator called by hand
BACKWARD: dict[str, dict[str, Any]] = {
    "residual_energy_backward": {
        "grad_y": MAP,
        "grad_energy": SAMPLES,
        "y": MAP,
        "r": MAP,
        "x": None,
        "scale": CHANNELS,
        "keep": SAMPLES,
        "activation": "relu",
        "p": 2.0,
        "x_dtype": torch.float32,
        "output_mask": [True] * 3,
    },
    "batch_norm_residual_energy_backward": {
        "grad_y": MAP,
        "grad_energy": SAMPLES,
        "z": MAP,
        "y": MAP,
        **NORMALIZED,
        "training": True,
        "activation": "relu",
        "keep": SAMPLES,
        "p": 2.0,
        "x_dtype": torch.float32,
        "output_mask": [True] * 4,
    },
    "batch_norm_relu_backward": {
        "grad_y": MAP,
        "z": MAP,
        **NORMALIZED,
        "training": True,
        "output_mask": [True] * 3,
    },
    "batch_norm_relu_apply": {"z": MAP, **NORMALIZED},
    "residual_energy_layer_norm_backward": {
        "grad_y": MAP,
        "grad_normed": MAP,
        "grad_energy": SAMPLES,
        "y": MAP,
        "r": MAP,
        "x": None,
        "weight": FEATURES,
        "bias": FEATURES,
        "mean": MAP[..., 0],
        "rstd": MAP[..., 0],
        "scale": FEATURES,
        "keep": SAMPLES,
        "p": 2.0,
        "x_dtype": torch.float32,
        "r_dtype": torch.float32,
        "output_mask": [True] * 5,
    },
    "displacement_energy_backward": {
        "grad_energy": SAMPLES,
        "x": MAP,
        "y": MAP,
        "p": 2.0,
        "output_mask": [True] * 2,
    },
}
# what is refused beyond vectors and maps that are too short, which `short` makes
UNRECOVERABLE: list[tuple[str, dict[str, Any], str]] = [
    ("residual_energy_backward", {"x": MAP}, "; received x beside a ReLU's output"),
    (
        "residual_energy_backward",
        {"x": MAP, "y": None},
        "; received x with a gradient of scale wanted",
    ),
    (
        "residual_energy_layer_norm_backward",
        {"r": None, "x": MAP},
        "needs r or x, and that of scale r; received x",
    ),
    (
        "residual_energy_layer_norm_backward",
        {"r": None, "scale": None},
        "needs r or x, and that of scale r; received neither",
    ),
]


def short(name: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Changes to a backward operator's arguments: each tensor one value short, or of integers."""
    for argument, value in BACKWARD[name].items():
        if isinstance(value, torch.Tensor):
            size = (*value.shape[:-1], value.shape[-1] - 1)
            if name != "batch_norm_relu_apply" or argument != "z":  # whose planes may have any size
                yield {argument: value[..., 1:]}, str(size).replace("(", r"\(").replace(")", r"\)")
            yield {argument: value.int()}, "received torch.int32"


def forward(name: str, arguments: dict[str, Any]) -> Callable[[], Any]:
    """A call of a public operator."""
    return lambda: getattr(trgl_kernels, name)(**{**GOOD[name], **arguments})


def backward(name: str, arguments: dict[str, Any]) -> Callable[[], Any]:
    """A call of a backward operator by hand."""
    return lambda: getattr(torch.ops.trgl, name)(**{**BACKWARD[name], **arguments})


def all_calls() -> Iterator[Callable[[], Any]]:
    for table in (MISTAKES, TYPES):
        for name, cases in table.items():
            yield from (forward(name, arguments) for arguments, _ in cases)
    for name in BACKWARD:
        yield from (backward(name, arguments) for arguments, _ in short(name))
    yield from (backward(name, arguments) for name, arguments, _ in UNRECOVERABLE)
