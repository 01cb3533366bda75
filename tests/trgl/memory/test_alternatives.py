"""What docs/memory.md says of torch.compile and of offloading: ResNet-110, 3×96×96, batch 64."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch._functorch import config
from torch._inductor.compile_fx import compile_fx
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torchvision.models.resnet import BasicBlock

import trgl
from trgl import per_module
from trgl.forecast import predict_steps
from trgl.measure import measure_steps
from trgl.memory import SavedCounter, count_whole
from trgl.memory.fake import Fakes
from trgl.memory.live import LiveBytes
from trgl.memory.saved import tensors_of
from trgl_kernels import regularize

MiB, GiB = 2**20, 2**30
SHAPE, BATCH, CLASSES = (3, 96, 96), 64, 10


class Row(NamedTuple):
    """A row of the table of docs/memory.md.

    Args:
        saved: bytes between the passes, in % of plain end-to-end training.
        peak: of a step, in % of its peak.
    """

    saved: str
    peak: str


TABLE = {
    "checkpointing of every block": Row("26", "27"),  # counted in test_resnet110.py
    "`torch.compile`": Row("100", "103"),
    "`torch.compile`, budget 0.5": Row("49", "76"),
    "`torch.compile`, budget 0": Row("0.1", "100"),
    "offloading": Row("0.1", "4"),
}
TRANSFERRED = "6.81 GiB"  # by offloading, each way


def classifier(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(shape[0], classes))


def resnet(blocks: int = 18, recompute: str | None = None) -> trgl.GreedyNetwork:
    """ResNet-110, or one with fewer blocks per stage; of torchvision's blocks by default."""
    model = trgl.models.resnet110()
    for stage in ("layer1", "layer2", "layer3"):
        setattr(model, stage, getattr(model, stage)[:blocks])
    model = regularize(model, recompute or "none")
    greedy = trgl.split(model, 1, SHAPE, CLASSES, classifier, "depth")
    for layer in greedy.modules():
        if recompute is None and isinstance(layer, BasicBlock):
            layer.__class__ = BasicBlock
    return greedy


@pytest.fixture(scope="module")
def plain() -> trgl.GreedyNetwork:
    return resnet()


@pytest.fixture(scope="module")
def everything(plain) -> int:
    """What plain end-to-end training keeps for backward, in bytes."""
    total = count_whole(plain, BATCH).total
    assert round(total / MiB) == 4615
    return total


@pytest.fixture(scope="module")
def highest(plain) -> int:
    """The peak of a step of plain end-to-end training, in bytes."""
    (peak,) = predict_steps(plain, BATCH, regime="end-to-end")
    return peak.activations


def percent(part: int, whole: int) -> str:
    share = 100 * part / whole
    return f"{share:.1f}" if share < 1 else f"{share:.0f}"


def loss_of(module: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(module(x)[1], labels)


def saved_by(step: Callable[..., Tensor], module: nn.Module, x: Tensor, labels: Tensor):
    """The loss, and the bytes of the input and of everything that is saved for backward."""
    counter = SavedCounter(tensors_of(module))
    counter.hold(x, "input")
    with counter.watch():
        loss = step(module, x, labels)
    return loss, counter.total


def compiled(run: Callable[[fx.GraphModule], Callable[[list[Tensor]], object]]):
    """`loss_of` under torch.compile, up to Inductor's two graphs, which go to `run`.

    Dynamo, Inductor's decompositions and the partitioner, which decides what is saved, are those of
    torch.compile. What is left out is the code that Inductor writes.
    """

    def inner(graph: fx.GraphModule, *_: object, **__: object):
        function = run(graph)

        def boxed(arguments: list[Tensor]) -> object:
            return function(arguments)

        boxed._boxed_call = True  # empties the list: what was saved dies when it was last read
        return boxed

    return torch.compile(
        loss_of, backend=partial(compile_fx, inner_compile=inner), fullgraph=True, dynamic=False
    )


class Counted(NamedTuple):
    """Bytes of a compiled step, and the convolutions in its graphs."""

    saved: int
    peak: int
    convolutions: list[int]


def count_compiled(greedy: trgl.GreedyNetwork, budget: float, batch: int = BATCH) -> Counted:
    """Counts on tensors without data; for the peak both graphs run operator by operator."""
    fakes = Fakes()
    module = fakes.module(greedy.whole()).train()
    x, labels = fakes.images(batch, SHAPE, module), fakes.labels(batch, module)
    convolutions: list[int] = []

    def run(graph: fx.GraphModule):
        targets = [node.target for node in graph.graph.nodes]
        convolutions.append(targets.count(torch.ops.aten.convolution.default))
        interpreter = fx.Interpreter(graph)

        def function(arguments: list[Tensor]) -> object:
            with live:
                return interpreter.boxed_run(arguments)

        return function

    torch.compiler.reset()
    with fakes.mode, config.patch(activation_memory_budget=budget):
        live = LiveBytes([*tensors_of(module), x, labels])
        loss, saved = saved_by(compiled(run), module, x, labels)
        loss.backward()
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        peak = live.peak([*tensors_of(module), *gradients])
    return Counted(saved, peak, convolutions)


def without_running(graph: fx.GraphModule):
    return fx.Interpreter(graph).boxed_run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "budget", "again"),
    [
        ("`torch.compile`", 1.0, 0),
        ("`torch.compile`, budget 0.5", 0.5, 1),
        ("`torch.compile`, budget 0", 0.0, 109),
    ],
)
def test_compiled(name, budget, again, plain, everything, highest) -> None:
    found = count_compiled(plain, budget)
    assert Row(percent(found.saved, everything), percent(found.peak, highest)) == TABLE[name]
    assert found.convolutions == [109, again]


def real_batch() -> tuple[Tensor, Tensor]:
    return torch.randn(2, *SHAPE), torch.zeros(2, dtype=torch.long)


def test_compiled_equals_what_tensors_with_data_save() -> None:
    greedy = resnet(blocks=1)
    torch.compiler.reset()
    with config.patch(activation_memory_budget=0.5):
        _, saved = saved_by(compiled(without_running), greedy.whole().train(), *real_batch())
    assert saved == count_compiled(greedy, 0.5, batch=2).saved


@pytest.mark.slow
def test_inductors_code_saves_copies_of_input_and_weights_besides() -> None:
    module = resnet(blocks=1).whole().train()
    x, labels = real_batch()
    torch.compiler.reset()
    _, counted = saved_by(compiled(without_running), module, x, labels)
    torch.compiler.reset()
    _, saved = saved_by(torch.compile(loss_of), module, x, labels)
    weights = sum(parameter.nbytes for parameter in module.parameters())
    assert 0 <= saved - counted <= x.nbytes + weights


@pytest.mark.slow
def test_inductors_code_peaks_near_what_is_counted(monkeypatch) -> None:
    greedy, batch = resnet(blocks=4), 8
    counted = count_compiled(greedy, 0.5, batch).peak
    monkeypatch.setattr(per_module, "steps_of", partial(per_module.steps_of, compile=True))
    torch.compiler.reset()
    with config.patch(activation_memory_budget=0.5):
        (measured,) = measure_steps(greedy, batch, regime="end-to-end")
    # Inductor fuses operators, and allocates in an order of its own
    assert measured.activations == pytest.approx(counted, rel=0.05)


@pytest.mark.parametrize("blocks", [1, pytest.param(18, marks=pytest.mark.slow)])
def test_our_blocks_keep_the_same_when_compiled(blocks, everything) -> None:
    greedy = resnet(blocks, recompute="activation")
    expected = count_whole(greedy, BATCH).total
    fakes = Fakes()
    module = fakes.module(greedy.whole()).train()
    x, labels = fakes.images(BATCH, SHAPE, module), fakes.labels(BATCH, module)
    torch.compiler.reset()
    with fakes.mode:
        _, saved = saved_by(compiled(without_running), module, x, labels)
    assert abs(saved - expected) <= labels.nbytes  # the criterion is torch's
    if blocks == 18:
        assert percent(saved, everything) == "75"


def test_offloaded(plain, everything, highest) -> None:
    there: list[int] = []
    back: list[int] = []
    offload = save_on_cpu()

    def pack(tensor: Tensor) -> tuple[torch.Size, torch.dtype]:
        copy = offload.pack_hook(tensor)[1]
        there.append(copy.nbytes)
        return copy.shape, copy.dtype  # nothing stays

    def unpack(packed: tuple[torch.Size, torch.dtype]) -> Tensor:
        tensor = torch.empty(packed[0], dtype=packed[1])
        back.append(tensor.nbytes)
        return tensor

    fakes = Fakes()
    module = fakes.module(plain.whole()).train()
    x, labels = fakes.images(BATCH, SHAPE, module), fakes.labels(BATCH, module)
    own = tensors_of(module)
    with fakes.mode, LiveBytes([*own, x, labels]) as live:
        with saved_tensors_hooks(pack, unpack):
            loss = loss_of(module, x, labels)
        between = sum(size for _, size in live.events) - sum(tensor.nbytes for tensor in own)
        loss.backward()
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        peak = live.peak([*own, *gradients])
    assert Row(percent(between, everything), percent(peak, highest)) == TABLE["offloading"]
    assert sorted(there) == sorted(back)
    assert f"{sum(there) / GiB:.2f} GiB" == TRANSFERRED
    assert percent(sum(there), everything) == "151"


def test_the_document_says_so() -> None:
    text = (Path(__file__).parents[3] / "docs" / "memory.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:]] for line in text.splitlines()]
    assert {cells[0]: Row(*cells[1:3]) for cells in rows if cells and cells[0] in TABLE} == TABLE
    assert TRANSFERRED in text
