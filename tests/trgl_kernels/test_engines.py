"""The engines against each other: the same words for the same mistake, the same gradients."""

import os
import subprocess
import sys

import pytest

MISTAKES = """
import torch, trgl_kernels as t
x, v = torch.zeros(2, 3, 4, 4), torch.ones(3)
calls = [
    lambda: t.residual_energy(x, x[:, :2]),
    lambda: t.residual_energy(x.int(), x),
    lambda: t.residual_energy(x[0, 0, 0], x[0, 0, 0]),
    lambda: t.residual_energy(x, x, activation="gelu"),
    lambda: t.residual_energy(x, x, p=0.5),
    lambda: t.residual_energy(x, x, keep=torch.ones(3)),
    lambda: t.residual_energy(x, x, keep=torch.ones(2).int()),
    lambda: t.residual_energy(x, x, scale=torch.ones(4)),
    lambda: t.residual_energy(x, x, scale=torch.ones(3).long()),
    lambda: t.batch_norm_residual_energy(x, x, torch.ones(4), None, None, None, training=True),
    lambda: t.batch_norm_residual_energy(x, x, None, None, v, None, training=True),
    lambda: t.batch_norm_residual_energy(x, x, None, None, None, None, training=False),
    lambda: t.batch_norm_residual_energy(
        x[:1, :, :1, :1], x[:1, :, :1, :1], None, None, None, None, training=True),
    lambda: t.batch_norm_residual_energy(
        x, x, None, None, None, None, training=True, momentum=float("inf")),
    lambda: t.batch_norm_residual_energy(x, x, None, None, None, None, training=True, eps=-1.0),
    lambda: t.residual_energy_layer_norm(x, x[:1], None, None),
    lambda: t.residual_energy_layer_norm(x, x, v, None),
    lambda: t.residual_energy_layer_norm(x, x, None, torch.ones(4).int()),
    lambda: t.residual_energy_layer_norm(x, x, None, torch.ones(1, 4)),
    lambda: t.residual_energy_layer_norm(x, x, None, None, scale=torch.ones(4, 1, 1)),
    lambda: t.residual_energy_layer_norm(x, x, None, None, scale=torch.ones(1, 1, 1, 1, 4)),
    lambda: t.residual_energy_layer_norm(x, x, None, None, keep=torch.ones(3)),
    lambda: t.residual_energy_layer_norm(x, x, None, None, p=0.5),
    lambda: t.residual_energy_layer_norm(x, x, None, None, eps=float("nan")),
    lambda: t.displacement_energy(x, x[:, :2]),
    lambda: t.displacement_energy(x, x.int()),
    lambda: t.displacement_energy(x[0, 0, 0], x[0, 0, 0]),
    lambda: t.displacement_energy(x, x, p=float("nan")),
    lambda: t.displacement_energy(x, x.to("meta")),
    lambda: t.batch_norm_relu(x.int(), None, None, None, None, training=True),
    lambda: t.batch_norm_relu(v, None, None, None, None, training=True),
    lambda: t.batch_norm_relu(x, v, torch.ones(2), None, None, training=True),
    lambda: t.batch_norm_relu(x, v, v, None, None, training=False),
]
for call in calls:
    try:
        call()
    except ValueError as error:
        print(str(error).splitlines()[0])
"""


def test_mistakes_are_told_in_the_same_words(engine) -> None:
    if engine != "compiled":
        pytest.skip("needs the compiled engine beside the reference")
    told = []
    for disabled in ("0", "1"):
        environment = {**os.environ, "TRGL_KERNELS_DISABLE_EXTENSION": disabled}
        command = [sys.executable, "-c", MISTAKES]
        told.append(subprocess.run(command, env=environment, capture_output=True, text=True).stdout)
    assert told[0] == told[1]
    assert len(told[0].splitlines()) == MISTAKES.count("lambda:")


@pytest.mark.parametrize("content", ["{}", "null", "[]", '{"reason": null}', "3"])
def test_facts_that_are_none_do_not_stop_the_import(content, tmp_path, monkeypatch) -> None:
    from trgl_kernels import extension

    facts = tmp_path / "_C.json"
    facts.write_text(content)
    monkeypatch.setattr(extension, "FACTS", facts)
    monkeypatch.delenv(extension.DISABLE, raising=False)
    status = extension.load.__wrapped__()
    assert not status.loaded
    assert status.reason
    assert status.remedy
