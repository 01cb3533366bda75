"""What the steps of modules are made of."""

import pytest
import torch
from small import network, sgd

from trgl import per_module

GRAPHS = [{"mode": "reduce-overhead"}, {"mode": "max-autotune"}]
GRAPHS += [{"options": {"triton.cudagraphs": True}}]
NO_GRAPHS = [{}, {"mode": "default"}, {"mode": "max-autotune-no-cudagraphs"}, {"dynamic": True}]
NO_GRAPHS += [{"options": {"max_autotune": True}}]
CUDA = torch.device("cuda")


@pytest.mark.parametrize("options", GRAPHS, ids=str)
def test_options_of_compile_that_replay_cuda_graphs(options) -> None:
    assert per_module.replays(options, CUDA)
    assert not per_module.replays(options, torch.device("cpu"))


@pytest.mark.parametrize("options", NO_GRAPHS, ids=str)
def test_options_of_compile_that_do_not(options) -> None:
    assert not per_module.replays(options, CUDA)


def test_gradients_of_cuda_graphs_are_not_accumulated() -> None:
    modules = network(modules=2).trained
    criteria = [torch.nn.CrossEntropyLoss()] * 2
    with pytest.raises(ValueError, match=r"accumulate=2 with compile=\{.mode"):
        per_module.steps_of(modules, sgd, criteria, CUDA, compile=GRAPHS[0], accumulate=2)
