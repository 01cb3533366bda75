"""Local losses against the formulas of their papers, written out in float64."""

import copy

import numpy
import pytest
import torch
from small import CLASSES, SHAPE, batches, differing, network, sgd, state
from torch import Tensor, nn

import trgl
from trgl import Transport, losses
from trgl_kernels import collect_energy
from trgl_kernels.boundary import BoundaryWarning

NAMES = ["similarity", "reconstruction"]


def similarities_by_hand(rows: Tensor) -> Tensor:
    """Entry by entry."""
    table = rows.detach().double().numpy()
    found = numpy.zeros((len(table), len(table)))
    for i, a in enumerate(table):
        for j, b in enumerate(table):
            u, v = a - a.mean(), b - b.mean()
            norms = numpy.sqrt((u**2).sum()) * numpy.sqrt((v**2).sum())
            found[i, j] = (u * v).sum() / norms if norms > 0 else 0.0
    return torch.from_numpy(found)


def test_similarities_of_rows_and_maps() -> None:
    rows = torch.randn(5, 7, dtype=torch.float64)
    torch.testing.assert_close(losses.similarity_matrix(rows), similarities_by_hand(rows))
    torch.testing.assert_close(
        losses.similarity_matrix(3 * rows + 2), losses.similarity_matrix(rows)
    )
    maps = torch.randn(5, 4, 3, 2, dtype=torch.float64)
    spread = maps.flatten(2).numpy().std(axis=2, ddof=1)
    wanted = similarities_by_hand(torch.from_numpy(spread))
    torch.testing.assert_close(losses.similarity_matrix(maps), wanted)
    few = torch.randn(5, 3, 3, 2, dtype=torch.float64)  # too few channels to compare spreads
    torch.testing.assert_close(losses.similarity_matrix(few), similarities_by_hand(few.flatten(1)))


def test_similarities_of_classes_are_one_within_and_equal_across() -> None:
    found = losses.similarity_matrix(torch.eye(3, dtype=torch.float64)[[0, 0, 1, 2]])
    across = -0.5  # −1 / (classes − 1)
    wanted = torch.tensor(
        [
            [1, 1, across, across],
            [1, 1, across, across],
            [across, across, 1, across],
            [across, across, across, 1],
        ],
        dtype=torch.float64,
    )
    torch.testing.assert_close(found, wanted)


def test_a_constant_row_has_neither_similarity_nor_nan_in_its_gradient() -> None:
    rows = torch.randn(3, 4, dtype=torch.float64)
    rows[1] = 2.0
    rows.requires_grad_()
    found = losses.similarity_matrix(rows)
    assert not found[1].any()
    found.square().sum().backward()
    assert rows.grad.isfinite().all()
    maps = torch.ones(3, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    losses.similarity_matrix(maps).sum().backward()
    assert maps.grad.isfinite().all()


def hand_written(module: trgl.GreedyModule, name: str, x: Tensor, images: Tensor, labels: Tensor):
    """The loss of a module by the formulas of the papers, from its layers."""
    features = module.body(x)
    criterion = nn.functional.cross_entropy(module.head(features), labels)
    if name == "similarity":
        weight = module.local_loss.project.weight
        h = nn.functional.conv2d(features, weight, padding=1).flatten(2)
        mean = h.mean(2, keepdim=True)
        z = ((h - mean).square().sum(2) / (h.shape[2] - 1)).sqrt()
        y = torch.eye(CLASSES, dtype=x.dtype)[labels]
        matrices = []
        for rows in (z, y):
            centred = rows - rows.mean(1, keepdim=True)
            norms = centred.square().sum(1).sqrt()
            matrices.append((centred @ centred.T) / torch.outer(norms, norms))
        distance = (matrices[0] - matrices[1]).square().sum() / len(x) ** 2
        return 0.01 * criterion + 0.99 * distance
    resize, first, norm, _, second = module.local_loss.decoder
    assert tuple(resize.size) == SHAPE[1:]
    large = nn.functional.interpolate(features, SHAPE[1:], mode="bilinear", align_corners=True)
    inner = first(large)
    mean = inner.mean((0, 2, 3), keepdim=True)
    variance = (inner - mean).square().mean((0, 2, 3), keepdim=True)
    inner = (inner - mean) / (variance + norm.eps).sqrt()
    inner = inner * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)
    drawn = second(inner.clamp(min=0))
    return criterion + (drawn - images).square().sum() / images.numel()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("transport", [None, Transport(0.3)], ids=["vanilla", "transport"])
def test_a_step_of_every_module_descends_the_loss_of_the_paper(name, transport) -> None:
    net = network(2, 3, local_loss=name).double()
    twin = copy.deepcopy(net)
    images, labels = batches(1)[0]
    images = images.double()

    def plain(parameters):
        return torch.optim.SGD(parameters, lr=0.1)

    trainer = trgl.Trainer(net, optimizer=plain, transport=transport, epochs=1)
    record = trainer.fit([(images, labels)]).records[0]

    x = images
    for number, module in enumerate(twin.train(), 1):
        with collect_energy() as energies:
            loss = local = hand_written(module, name, x, images, labels)
        if transport is not None:
            loss = loss + energies.total() / (2 * 0.3)
        own = list(module.parameters())
        gradients = torch.autograd.grad(loss, own)
        assert all(gradient.any() for gradient in gradients)
        x = module.body(x).detach()
        with torch.no_grad():
            for parameter, gradient in zip(own, gradients, strict=True):
                parameter -= 0.1 * gradient
        assert record.train_loss[number] == pytest.approx(local.item(), rel=1e-9)
    for (key, found), wanted in zip(net.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(found, wanted, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("regime", ["parallel", "sequential", "multi-lap"])
def test_the_loss_falls_and_its_layers_train(name, regime) -> None:
    net = network(2, 2, local_loss=name)
    before = state(net)
    laps = {"laps": 2} if regime == "multi-lap" else {}
    trainer = trgl.Trainer(net, regime, optimizer=sgd, transport=Transport(1.0), epochs=10, **laps)
    records = trainer.fit(batches(2)).records
    for number in (1, 2):
        seen = [r.train_loss[number] for r in records if number in r.trained]
        assert seen[-1] < 0.9 * seen[0]
    moved = {key for key in differing(before, state(net)) if "local_loss" in key}
    assert {key.split(".")[1] for key in moved} == {"0", "1"}


def test_state_holds_them_and_assembled_models_do_not() -> None:
    net = network(2, 2, local_loss="reconstruction")
    keys = {key for key in net.state_dict() if "local_loss" in key}
    assert {key.split(".local_loss.")[0] for key in keys} == {"stages.0", "stages.1"}
    other = network(2, 2, seed=1, local_loss="reconstruction")
    other.load_state_dict(net.state_dict())
    assert not differing(state(net), state(other))
    plain = network(2, 2)
    assert list(net.assemble().state_dict()) == list(plain.assemble().state_dict())
    assert not any("local_loss" in key for key in net.assemble().state_dict())
    images = batches(1)[0][0]
    assert torch.equal(net.eval().assemble()(images), net(images))


def test_heads_are_drawn_as_without_them() -> None:
    plain, with_loss = (
        trgl.split(
            trgl.models.chain(2, 4, SHAPE[0], kernel_size=3, stride=1),
            2,
            SHAPE,
            CLASSES,
            local_loss=local,
            seed=3,
        )
        for local in (None, "similarity")
    )
    for one, other in zip(plain, with_loss, strict=True):
        assert not differing(state(one.head), state(other.head))


def test_end_to_end_training_leaves_them_out() -> None:
    runs = []
    start = network(2, 2).state_dict()
    for local in (None, "reconstruction"):
        net = network(2, 2, local_loss=local)
        net.load_state_dict(start, strict=False)
        before = state(net)
        trgl.Trainer(net, "end-to-end", optimizer=sgd, epochs=2).fit(batches())
        after = state(net)
        assert not any("local_loss" in key for key in differing(before, after))
        runs.append({key: value for key, value in after.items() if "local_loss" not in key})
    assert not differing(*runs)


def test_their_tensors_are_protected_and_what_they_made_is_gone() -> None:
    held = []

    class Leak(losses.Similarity):
        def forward(self, criterion, features, images, labels):
            held.append(self.project(features).repeat(1, 8, 1, 1))
            return super().forward(criterion, features, images, labels)

    def build(shape, classes, images):
        return Leak(nn.Conv2d(shape[0], shape[0], 3, padding=1), classes, 0.5)

    net = network(2, 2, local_loss=build)
    held.clear()  # of the dry run
    trainer = trgl.Trainer(net, optimizer=sgd, epochs=2)
    for step in trainer.steps:
        step.boundary.find = "always"
    with pytest.warns(BoundaryWarning, match="still held"):
        trainer.fit(batches(1))
    for tensor in held:
        with pytest.raises(RuntimeError, match="boundary 'module"):
            tensor.sum()
    for value in net.state_dict().values():
        assert value.isfinite().all()
    x, labels = batches(1)[0]
    for step in trainer.steps:
        step.boundary.release = False
        step.module.local_loss.__class__ = losses.Similarity
        x = step(x, labels)
        assert step.boundary.held == ()


@pytest.mark.parametrize("name", NAMES)
def test_precision_may_be_lower(name) -> None:
    net = network(1, 2, local_loss=name)
    trainer = trgl.Trainer(net, optimizer=sgd, epochs=8, autocast=torch.bfloat16)
    seen = [record.train_loss[1] for record in trainer.fit(batches(1)).records]
    assert seen[-1] < 0.9 * seen[0]


def test_transformers() -> None:
    torchvision = pytest.importorskip("torchvision")
    swin = torchvision.models.SwinTransformer([2, 2], 8, [1, 1], [1, 2], [2, 2], num_classes=3)
    images, labels = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    for name in NAMES:
        net = trgl.split(copy.deepcopy(swin), 2, (3, 8, 8), 3, "pool-linear", local_loss=name)
        trgl.Trainer(net, optimizer=sgd, epochs=1).fit([(images, labels)])
        weights = [w for w in net[1].local_loss.parameters() if w.dim() == 4]
        assert weights[0].shape[1] == 16  # channels, which come last
    vit = torchvision.models.VisionTransformer(8, 4, 2, 2, 8, 16, num_classes=3)
    net = trgl.split(copy.deepcopy(vit), 2, (3, 8, 8), 3, "pool-linear", local_loss="similarity")
    assert net[0].local_loss.project.weight.shape == (8, 8)
    trgl.Trainer(net, optimizer=sgd, epochs=1).fit([(images, labels)])
    with pytest.raises(ValueError, match=r"from feature maps \(C, H, W\), but the features are"):
        trgl.split(vit, 2, (3, 8, 8), 3, "pool-linear", local_loss="reconstruction")


def test_soft_labels() -> None:
    images, labels = batches(1)[0]
    soft = torch.eye(CLASSES)[labels]
    nets = [network(1, 1, local_loss="similarity") for _ in range(2)]
    for net, targets in zip(nets, (labels, soft), strict=True):
        trgl.Trainer(net, optimizer=sgd, epochs=1).fit([(images, targets)])
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(one, other)
