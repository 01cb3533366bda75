"""Writing a model in one of several formats, after it was read back and compared."""

from __future__ import annotations

import copy
import importlib.util
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trgl.durable import write_atomically
from trgl.export.plain import plain_program
from trgl.network import GreedyNetwork

FORMATS = {
    "state-dict": "weights by name, for torch.load(FILE, weights_only=True)",
    "torch-export": "a program of PyTorch's own operators, for torch.export.load(FILE)",
    "onnx": "for ONNX Runtime and others; needs the extra onnx",
}
_IMAGES = 3
# Of the largest logit: programs add in another order, and round in a network of 16 bits after each
# operation where an operator of trgl rounds once. A ResNet-50 with random weights differs by 4e-15,
# 2e-6, 4e-3 and 3e-2.
_RELATIVE = {
    torch.float64: 1e-12,
    torch.float32: 1e-4,
    torch.float16: 2e-2,
    torch.bfloat16: 1e-1,
}
_ONNX_TYPES = (torch.float32, torch.float16)  # in which ONNX Runtime can convolve on the CPU
_MOST_ONNX_BYTES = 2**31


class CheckError(RuntimeError):
    """The logits of what was exported are not those of the network."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the file.
        format: a key of ``FORMATS``.
        depth: how many modules it has.
        parameters: how many numbers were learned.
        bytes: of the file.
        difference: largest difference of a logit from the network's, on noise images.
        largest: the largest of the network's logits there.
    """

    path: Path
    format: str
    depth: int
    parameters: int
    bytes: int
    difference: float
    largest: float


def export(network: GreedyNetwork, path: Path, *, depth: int, format: str) -> Exported:
    """Write the modules up to a depth and the head there as one ordinary model in evaluation mode.

    The file is made, read back, run on noise images and compared with the network before it appears
    at its place: a state-dict gives the same logits bit by bit, a program the same up to rounding.
    The images are of the type of the network's parameters.

    Args:
        network: trained, of float64, float32, float16 or bfloat16; it is left as it is.
        path: the file, which is replaced if it is there.
        depth: 1 to K.
        format: a key of ``FORMATS``.

    Raises:
        ValueError: an unknown format, a depth out of range, a missing extra, a type that the format
            does not take, or a model that has no such form.
        CheckError: the logits differ; nothing was written.
    """
    if format not in FORMATS:
        raise ValueError(
            f"the format must be one of {', '.join(FORMATS)}, received {format!r}; choose one."
        )
    dtype = _type_of(network, format)
    own = copy.deepcopy(network).cpu().eval()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(_IMAGES, *own.input_shape, generator=generator, dtype=dtype)
    with torch.no_grad():
        expected = own(images, depth)
    model = own.assemble(depth)
    if format == "state-dict":
        content = _saved(model.state_dict())
        found, allowed = _from_state(content, own, depth, images), 0.0
    else:
        allowed = _RELATIVE[dtype] * float(expected.abs().max())
        # another number of images than those it is checked on: the batch must be free
        program = plain_program(model, torch.cat([images, images])[: _IMAGES + 1])
        if format == "onnx":
            content = _onnx(program)
            found = _from_onnx(content, images)
        else:
            stream = io.BytesIO()
            torch.export.save(program, stream)
            content = stream.getvalue()
            with torch.no_grad():
                found = torch.export.load(io.BytesIO(content)).module()(images)
    difference = float((found.double() - expected.double()).abs().max())
    if found.shape != expected.shape or not difference <= allowed:
        raise CheckError(
            f"the exported model must give the network's logits, but they differ by up to "
            f"{difference:.3g} where {allowed:.3g} is allowed; nothing was written. Export another "
            "format, and report this."
        )
    write_atomically(path, content)
    return Exported(
        path,
        format,
        depth,
        sum(parameter.numel() for parameter in model.parameters()),
        len(content),
        difference,
        float(expected.abs().max()),
    )


def _type_of(network: GreedyNetwork, format: str) -> torch.dtype:
    """The type of the images that a network takes: that of its first floating-point parameter.

    Raises:
        ValueError: the format does not take a network of this type.
    """
    types = (p.dtype for p in network.parameters() if p.is_floating_point())
    dtype = next(types, torch.float32)
    taken = _ONNX_TYPES if format == "onnx" else tuple(_RELATIVE)
    if dtype not in taken:
        raise ValueError(
            f"the format {format} takes networks of {', '.join(map(str, taken))}, received one of "
            f"{dtype}; export network.float(), or another format."
        )
    return dtype


def _saved(value: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


@torch.no_grad()
def _from_state(content: bytes, network: GreedyNetwork, depth: int, images: Tensor) -> Tensor:
    """Logits of an empty model of the same layers after it has loaded the file."""
    model = copy.deepcopy(network).assemble(depth)
    for value in model.state_dict().values():
        value.zero_()
    model.load_state_dict(torch.load(io.BytesIO(content), weights_only=True))
    logits: Tensor = model(images)
    return logits


def _onnx(program: torch.export.ExportedProgram) -> bytes:
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"the format onnx needs {' and '.join(missing)}, which are not installed: run "
            "pip install 'trgl[onnx]'."
        )
    made = torch.onnx.export(
        program, (), dynamo=True, verbose=False, input_names=["images"], output_names=["logits"]
    )
    assert made is not None
    proto = made.model_proto
    if proto.ByteSize() >= _MOST_ONNX_BYTES:
        raise ValueError(
            "an ONNX file of one piece holds less than 2 GiB, and this model is larger; export a "
            "smaller --depth, or another format."
        )
    content: bytes = proto.SerializeToString()
    return content


def _from_onnx(content: bytes, images: Tensor) -> Tensor:
    """Logits by ONNX Runtime where it is installed, else by ONNX's reference."""
    inputs: dict[Any, Any] = {"images": images.numpy()}
    if importlib.util.find_spec("onnxruntime") is not None:
        import onnxruntime

        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        return torch.as_tensor(session.run(None, inputs)[0])
    import onnx.reference

    (logits,) = onnx.reference.ReferenceEvaluator(content).run(None, inputs)
    return torch.as_tensor(logits)
