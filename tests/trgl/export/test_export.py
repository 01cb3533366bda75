"""Exported models give the network's logits, and run where trgl is not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from small import CLASSES, SHAPE, differing, network, state
from torch import nn

import trgl
from trgl.build import build_model
from trgl.export import CheckError, export
from trgl.export.plain import plain_program


def trained(**options: Any) -> trgl.GreedyNetwork:
    """A network whose BN statistics are not the fresh ones."""
    made = network(modules=3, blocks=3, **options)
    generator = torch.Generator().manual_seed(1)
    for name, value in made.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            # means near 0: behind others each ReLU would be shut, and all logits the same
            shift = -0.1 if name.endswith("mean") else 0.1
            value.copy_(torch.rand(value.shape, generator=generator) / 5 + shift)
    return made.train()


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("head", ["linear", "conv"])
def test_a_state_dict_gives_the_same_logits_bit_by_bit(
    tmp_path: Path, depth: int, head: str
) -> None:
    net = trained(head=head)
    before, modes = state(net), [module.training for module in net.modules()]
    written = export(net, tmp_path / "model.pt", depth=depth, format="state-dict")
    assert differing(state(net), before) == []
    assert [module.training for module in net.modules()] == modes
    assert written.difference == 0.0
    assert written.largest > 0.01
    assert written.bytes == os.path.getsize(tmp_path / "model.pt")
    weights = torch.load(tmp_path / "model.pt", weights_only=True)
    assert written.parameters == sum(p.numel() for p in net.assemble(depth).parameters())
    other = network(modules=3, blocks=3, head=head, seed=9).assemble(depth)
    other.load_state_dict(weights)
    images = torch.randn(7, *SHAPE)
    with torch.no_grad():
        assert torch.equal(other.eval()(images), net.eval()(images, depth))


def test_a_state_dict_loads_into_torchvisions_own_model(tmp_path: Path) -> None:
    net = trgl.split(torchvision.models.resnet18(), 4, (3, 64, 64), 10, "pool-linear")
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)
    export(net, tmp_path / "model.pt", depth=4, format="state-dict")
    weights = torch.load(tmp_path / "model.pt", weights_only=True)
    plain = torchvision.models.resnet18()
    missing, unexpected = plain.load_state_dict(weights, strict=False)
    assert missing == ["fc.weight", "fc.bias"]
    assert all(name.startswith("head.") for name in unexpected)
    head = net[3].head
    plain.avgpool, plain.fc = nn.Identity(), nn.Identity()
    plain.flatten = None
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features = plain.eval()(images).view(2, 512, 2, 2)
        torch.testing.assert_close(head.eval()(features), net.eval()(images))


def test_a_state_dict_loads_into_trgls_own_model(tmp_path: Path) -> None:
    recipe = trgl.recipes.find("digits-20x1").override({"modules": 2, "filters": 4})
    digits = trgl.data.load("digits")
    net = trgl.build.build_network(recipe, digits, seed=3)
    export(net, tmp_path / "model.pt", depth=2, format="state-dict")
    weights = torch.load(tmp_path / "model.pt", weights_only=True)
    missing, unexpected = build_model(recipe, (1, 8, 8), 10).load_state_dict(weights, strict=False)
    assert missing == []
    assert unexpected == ["head.0.weight", "head.0.bias"]


def test_a_program_needs_nothing_of_trgl_and_takes_any_batch(tmp_path: Path) -> None:
    net = trained()
    written = export(net, tmp_path / "model.pt2", depth=2, format="torch-export")
    assert written.difference <= 1e-4 * written.largest
    program = torch.export.load(tmp_path / "model.pt2")
    assert operators(program)
    assert all(name.startswith("aten.") for name in operators(program))
    images = torch.randn(11, *SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(images), net.eval()(images, 2))


def operators(program: torch.export.ExportedProgram) -> set[str]:
    """Names of all that a program calls, but for arithmetic of Python's numbers."""
    called = (node.target for node in program.graph.nodes if node.op == "call_function")
    return {str(target) for target in called if not str(target).startswith("<built-in")}


def post_activation() -> trgl.GreedyNetwork:
    return trained(block="post-activation").eval()


def transformer() -> trgl.GreedyNetwork:
    model = torchvision.models.VisionTransformer(6, 3, 2, 2, 8, 16, num_classes=CLASSES)
    model.conv_proj = nn.Conv2d(SHAPE[0], 8, 3, 3)
    return trgl.split(model, 2, SHAPE, CLASSES, "pool-linear").eval()


@pytest.mark.parametrize("build", [post_activation, transformer])
def test_a_program_has_pytorchs_own_operators_only(build: Any) -> None:
    net = build()
    program = plain_program(net.assemble(), torch.randn(2, *SHAPE))
    assert operators(program)
    assert all(name.startswith("aten.") for name in operators(program))
    images = torch.randn(5, *SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(images), net(images), rtol=1e-4, atol=1e-5)


def test_onnx_gives_the_same_logits(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    net = trained()
    written = export(net, tmp_path / "model.onnx", depth=3, format="onnx")
    assert written.difference <= 1e-4 * written.largest
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model)
    assert [value.name for value in model.graph.input] == ["images"]
    assert [value.name for value in model.graph.output] == ["logits"]
    assert {node.domain for node in model.graph.node} == {""}
    reference = pytest.importorskip("onnx.reference")
    images = torch.randn(5, *SHAPE)
    (found,) = reference.ReferenceEvaluator(model).run(None, {"images": images.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.as_tensor(found), net.eval()(images), rtol=1e-4, atol=1e-5)


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"onnx and onnxscript.*pip install 'trgl\[onnx\]'"):
        export(network(), tmp_path / "model.onnx", depth=1, format="onnx")
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize("format", ["state-dict", "torch-export"])
@pytest.mark.parametrize(
    ("dtype", "relative"),
    # bfloat16 steps by up to 8e-3 of the largest logit: a step or two of it is rounding
    [(torch.float64, 1e-12), (torch.float16, 1e-2), (torch.bfloat16, 3e-2)],
    ids=str,
)
def test_networks_of_other_types_are_exported_in_their_type(
    tmp_path: Path, format: str, dtype: torch.dtype, relative: float
) -> None:
    net = trained(block="post-activation").to(dtype).eval()
    path = tmp_path / "model"
    written = export(net, path, depth=3, format=format)
    assert written.largest > 0.01
    images = torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(2)).to(dtype)
    with torch.no_grad():
        expected = net(images, 3)
        if format == "torch-export":
            found = torch.export.load(path).module()(images)
        else:
            model = trained(block="post-activation", seed=9).to(dtype).assemble(3).eval()
            model.load_state_dict(torch.load(path, weights_only=True))
            found = model(images)
            assert written.difference == 0.0
    assert found.dtype == dtype
    largest = float(expected.double().abs().max())
    assert float((found.double() - expected.double()).abs().max()) <= relative * largest


def test_a_float64_program_is_held_to_float64(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = torch.export.load

    def bent(*arguments: Any, **options: Any) -> torch.export.ExportedProgram:
        program = original(*arguments, **options)
        program.state_dict["head.0.bias"].data.add_(1e-9)
        return program

    monkeypatch.setattr(torch.export, "load", bent)
    with pytest.raises(CheckError, match="differ by up to 1e-09 where"):
        export(trained().double(), tmp_path / "model", depth=2, format="torch-export")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("format", "dtype"),
    [
        ("onnx", torch.float64),
        ("onnx", torch.bfloat16),
        ("state-dict", torch.float8_e4m3fn),
    ],
)
def test_types_that_a_format_does_not_take_are_refused(
    tmp_path: Path, format: str, dtype: torch.dtype
) -> None:
    net = network().to(dtype)
    with pytest.raises(
        ValueError, match=rf"{format} takes networks of .*, received one of {dtype}"
    ):
        export(net, tmp_path / "model", depth=1, format=format)
    assert os.listdir(tmp_path) == []


def test_a_model_that_differs_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = torch.load

    def bent(*arguments: Any, **options: Any) -> dict[str, torch.Tensor]:
        weights = original(*arguments, **options)
        weights["head.0.bias"] += 1e-3
        return weights

    monkeypatch.setattr(torch, "load", bent)
    with pytest.raises(CheckError, match=r"differ by up to 0\.001 where 0 is allowed; nothing was"):
        export(network(), tmp_path / "model.pt", depth=2, format="state-dict")
    assert os.listdir(tmp_path) == []


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be one of state-dict, torch-export, onnx"):
        export(network(), tmp_path / "model", depth=1, format="pickle")
    with pytest.raises(ValueError, match="from 1 to 3, but got 4"):
        export(network(), tmp_path / "model", depth=4, format="state-dict")
