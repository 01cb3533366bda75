"""Modules under torch.compile."""

import pytest
import torch
from small import SHAPE, batches, differing, network, sgd, state

import trgl
from trgl import per_module
from trgl.compiled import replays

GRAPHS = [{"mode": "reduce-overhead"}, {"mode": "max-autotune"}]
GRAPHS += [{"options": {"triton.cudagraphs": True}}]
NO_GRAPHS = [{}, {"mode": "default"}, {"mode": "max-autotune-no-cudagraphs"}, {"dynamic": True}]
NO_GRAPHS += [{"options": {"max_autotune": True}}]
CUDA = torch.device("cuda")


@pytest.mark.parametrize("options", GRAPHS, ids=str)
def test_options_of_compile_that_replay_cuda_graphs(options) -> None:
    assert replays(options, CUDA)
    assert not replays(options, torch.device("cpu"))


@pytest.mark.parametrize("options", NO_GRAPHS, ids=str)
def test_options_of_compile_that_do_not(options) -> None:
    assert not replays(options, CUDA)


def test_gradients_of_cuda_graphs_are_not_accumulated() -> None:
    modules = network(modules=2).trained
    criteria = [torch.nn.CrossEntropyLoss()] * 2
    with pytest.raises(ValueError, match=r"accumulate=2 with compile=\{.mode"):
        per_module.steps_of(modules, sgd, criteria, CUDA, compile=GRAPHS[0], accumulate=2)


# torch keeps what an autograd function saves in a graph that the compiled module runs
@pytest.mark.filterwarnings("ignore::trgl_kernels.boundary.BoundaryWarning")
def test_many_modules_are_all_compiled() -> None:
    torch.compiler.reset()
    most = torch._dynamo.config.recompile_limit
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    # the last batch is smaller: another variant of each module
    images, labels = torch.randn(11, *SHAPE), torch.arange(11) % 3
    data = [(images[:8], labels[:8]), (images[8:], labels[8:])]
    trained = []
    for options in ({"backend": backend, "fullgraph": True}, False):
        net = network(modules=most + 2, blocks=most + 2)
        trgl.Trainer(net, optimizer=sgd, epochs=2, compile=options).fit(data)
        trained.append(state(net))
    assert len(graphs) == 2 * (most + 2)
    assert not differing(*trained)
    # and another training of the same process begins with nothing
    net = network(modules=2)
    transport = trgl.Transport(0.5)
    options = {"backend": backend, "fullgraph": True}
    trgl.Trainer(net, optimizer=sgd, epochs=1, compile=options, transport=transport).fit(data[:1])
    assert len(graphs) == 2 * (most + 2) + 2


def test_hooks_of_a_module_run() -> None:
    torch.compiler.reset()
    net, seen = network(modules=2), []
    net[0].register_forward_hook(lambda module, inputs, output: seen.append(output[1].shape))
    trainer = trgl.Trainer(net, optimizer=sgd, epochs=1, compile={"backend": "eager"})
    trainer.fit(batches(2))
    assert len(seen) == 2
