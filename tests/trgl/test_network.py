import copy

import pytest
import torch
from small import CLASSES, SHAPE, batches, differing, network, state
from torch import nn

import trgl
from trgl.body import Body
from trgl.network import GreedyModule, GreedyNetwork
from trgl_kernels import RegularizedResidual, collect_energy

IMAGES = batches()[0][0]


def residual(features: int = 4) -> RegularizedResidual:
    return RegularizedResidual(nn.Linear(features, features))


def test_a_network_is_a_sequence_of_its_modules():
    net = network(modules=3)
    assert len(net) == 3
    assert list(net) == [net[0], net[1], net[2]]
    assert net[-1] is net[2]
    assert [number for number, _ in net.trained] == [1, 2, 3]
    assert net.encoder is None


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_early_exit_gives_the_logits_of_that_depth_without_running_deeper_modules(depth):
    net = network(modules=3).eval()
    for module in list(net)[depth:]:
        module.body.register_forward_hook(lambda *_: pytest.fail("a deeper module ran"))
    logits = net(IMAGES, depth=depth)
    x = IMAGES
    for module in list(net)[:depth]:
        x = module.body(x)
    assert torch.equal(logits, net[depth - 1].head(x))


def test_all_logits_are_those_of_every_depth():
    net = network(modules=3, encoder="stem").eval()
    found = net.all_logits(IMAGES)
    assert len(found) == 3
    assert all(torch.equal(found[k - 1], net(IMAGES, depth=k)) for k in (1, 2, 3))
    assert torch.equal(net(IMAGES), found[-1])
    numbers = [number for number, _, _ in net.walk(IMAGES)]
    assert numbers == [0, 1, 2, 3]  # the encoder trains, so it has logits of its own


@pytest.mark.parametrize("depth", [0, 4, -1, 1.5])
def test_a_depth_out_of_range_is_an_error(depth):
    with pytest.raises(ValueError, match="from 1 to 3"):
        network(modules=3)(IMAGES, depth=depth)


def test_images_of_another_shape_are_an_error():
    net = network()
    with pytest.raises(ValueError, match=r"\[N, 2, 6, 6\], but got \[5, 3, 6, 6\]"):
        net(torch.zeros(5, 3, 6, 6))
    with pytest.raises(ValueError, match="Split it with the input_shape"):
        net(torch.zeros(2, 6, 6))


@pytest.mark.parametrize("encoder", [None, "stem"])
@pytest.mark.parametrize("depth", [1, 3])
def test_assemble_gives_an_ordinary_model_with_the_keys_of_the_one_that_was_split(encoder, depth):
    model = trgl.models.chain(3, 4, 2, kernel_size=3, stride=1)
    keys = [key for key in model.state_dict() if not key.startswith("blocks.")]
    keys += [key for key in model.state_dict() if key.startswith("blocks.") and key[7] < str(depth)]
    net = trgl.split(model, 3, SHAPE, CLASSES, "linear", encoder=encoder).eval()
    assembled = net.assemble(depth)
    mine = assembled.state_dict()
    assert [key for key in mine if not key.startswith("head.")] == keys
    assert any(key.startswith("head.") for key in mine)
    assert torch.equal(assembled(IMAGES), net(IMAGES, depth=depth))
    assert torch.equal(copy.deepcopy(assembled)(IMAGES), net(IMAGES, depth=depth))


def test_bodies_hold_the_keys_of_the_model():
    model = trgl.models.chain(2, 4, 2, kernel_size=3, stride=1)
    keys = set(model.state_dict())
    net = trgl.split(model, 2, SHAPE, CLASSES, "linear")
    bodies = [set(module.body.state_dict()) for module in net]
    assert bodies[0] | bodies[1] == keys
    assert not bodies[0] & bodies[1]


def test_the_state_of_a_network_goes_into_an_equal_one():
    first, second = network(seed=0), network(seed=1)
    assert differing(state(first), state(second))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.eval()(IMAGES), second.eval()(IMAGES))


def test_a_frozen_encoder_does_not_move_and_stays_in_evaluation_mode():
    net = network(encoder="stem", freeze_encoder=True)
    assert isinstance(net.encoder, trgl.FrozenEncoder)
    before = state(net.encoder)
    net.train()
    assert all(not module.training for module in net.encoder.modules())
    assert all(not parameter.requires_grad for parameter in net.encoder.parameters())
    net(IMAGES)
    assert not differing(before, state(net.encoder))
    assembled = net.assemble(2).train()
    assembled(IMAGES)
    assert not differing(before, state(net.encoder))
    assert assembled.training
    assert assembled.get_submodule("blocks.0").training


def test_a_frozen_head_keeps_weights_and_mode():
    net = network(head="mlp", freeze_head=True).train()
    assert all(not module.head.training and module.body.training for module in net)
    assert all(not p.requires_grad for module in net for p in module.head.parameters())


def test_calibration_normalizes_exactly_over_all_images_whatever_the_batches():
    encoder = nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4, eps=1e-9),
        nn.ReLU(),
        nn.Conv2d(4, 5, 3),
        nn.BatchNorm2d(5, eps=1e-9),
    )
    images = torch.randn(23, *SHAPE, generator=torch.Generator().manual_seed(0))
    found = []
    for sizes in ([23], [1, 2, 20], [8, 8, 7]):
        frozen = trgl.FrozenEncoder([("encoder", copy.deepcopy(encoder))])
        assert not frozen.calibrated
        frozen.calibrate([(part,) for part in images.split(sizes)])
        assert frozen.calibrated
        y = frozen(images).double().transpose(0, 1).flatten(1)
        torch.testing.assert_close(y.mean(1), torch.zeros(5).double(), atol=1e-6, rtol=0)
        torch.testing.assert_close(y.var(1), torch.ones(5).double(), atol=1e-6, rtol=0)
        found.append(frozen.state_dict()["encoder.4.running_var"])
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])
    # the first normalization: PyTorch's own statistics of one batch, with momentum 1
    reference = encoder[:2].train()
    reference[1].momentum = 1.0
    reference(images)
    mine = frozen.state_dict()
    torch.testing.assert_close(mine["encoder.1.running_mean"], reference[1].running_mean)
    torch.testing.assert_close(mine["encoder.1.running_var"], reference[1].running_var)


def test_calibration_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="this network has none"):
        network().calibrate(batches())
    net = network(encoder="stem", freeze_encoder=True)
    with pytest.raises(ValueError, match="at least one batch"):
        net.calibrate([])
    for once in (iter(batches()), (batch for batch in batches()), None):
        with pytest.raises(ValueError, match=r"iterated again, but got .*Pass a DataLoader"):
            net.calibrate(once)
    with pytest.raises(ValueError, match="Adapt the loader"):
        net.calibrate([IMAGES])
    with pytest.raises(ValueError, match="at least two values"):
        trgl.FrozenEncoder([("bn", nn.BatchNorm1d(3))]).calibrate([(torch.randn(1, 3),)])
    with pytest.raises(ValueError, match="track_running_stats=True"):
        trgl.FrozenEncoder([("bn", nn.BatchNorm2d(3, track_running_stats=False))])


def test_a_measured_span_reports_its_displacement_and_silences_the_blocks_inside():
    torch.manual_seed(0)
    units = [("a", residual()), ("b", nn.Linear(4, 4)), ("c", nn.ReLU()), ("d", residual())]
    body = Body(units, measured=[(0, 0), (1, 2)])
    x = torch.randn(5, 4)
    with collect_energy(p=3.0) as energies:
        y = body(x)
    a = units[0][1](x)
    c = units[1][1](a).relu()
    d = units[3][1](c)
    assert torch.equal(y, d)
    expected = [(v - u).abs().pow(3).sum(1) for u, v in ((x, a), (a, c), (c, d))]
    assert len(energies) == 3
    for found, wanted in zip(energies.energies, expected, strict=True):
        torch.testing.assert_close(found, wanted)
    assert torch.equal(body(x), y)  # outside a collector nothing changes


def test_the_head_of_a_module_adds_no_energy():
    module = GreedyModule(Body([("a", residual())]), nn.Sequential(residual(), nn.Linear(4, 2)))
    with collect_energy() as energies:
        module(torch.randn(3, 4))
    assert len(energies) == 1


def test_the_whole_network_is_one_module_with_all_bodies_and_the_last_head():
    net = network(modules=3, encoder="stem", energy="displacement").eval()
    whole = net.whole()
    assert torch.equal(whole(IMAGES)[1], net(IMAGES))
    assert whole.energy_terms == 3
    assert whole.head is net[2].head
    spans = [Body([("a", nn.Linear(2, 2)), ("b", nn.Linear(2, 2))], [(1, 1)]) for _ in range(2)]
    units = [GreedyModule(s, nn.Linear(2, 2)) for s in spans]
    units[1].body = Body([("c", nn.Linear(2, 2))], [(0, 0)])
    pair = GreedyNetwork(units, input_shape=(2,), num_classes=2)
    assert pair.whole().body.measured == ((1, 1), (2, 2))


def test_networks_that_cannot_be_trained_module_by_module_are_refused():
    with pytest.raises(ValueError, match="at least one module"):
        GreedyNetwork([], input_shape=(2,), num_classes=2)
    layer = nn.Linear(2, 2)
    twice = [GreedyModule(Body([(name, layer)]), nn.Linear(2, 2)) for name in "ab"]
    with pytest.raises(ValueError, match="also belongs to module"):
        GreedyNetwork(twice, input_shape=(2,), num_classes=2)
    head = nn.Linear(2, 2)
    heads = [head, head, nn.Linear(2, 2)]
    some = [GreedyModule(Body([("a", nn.Linear(2, 2))]), one) for one in heads]
    with pytest.raises(ValueError, match="3 modules have 2 heads"):
        GreedyNetwork(some, input_shape=(2,), num_classes=2)


@pytest.mark.parametrize("name", ["train", "a.0", "", "a..b"])
def test_names_that_a_body_cannot_have_are_refused(name):
    with pytest.raises(ValueError, match=r"Rename|inside another"):
        Body([("a", nn.ReLU()), (name, nn.ReLU())])
    with pytest.raises(ValueError, match="at least one layer"):
        Body([])


def bn(features=2):
    return nn.BatchNorm1d(features, affine=False)


def linear_net(encoder=None, bodies=(None, None), heads=(None, None)):
    """Two modules, and maybe an encoder, from the layers given or layers of their own."""
    pairs = [
        (body or nn.Linear(2, 2), head or nn.Linear(2, 2))
        for body, head in zip(bodies, heads, strict=True)
    ]
    modules = [GreedyModule(Body([(name, b)]), h) for name, (b, h) in zip("ab", pairs, strict=True)]
    front = None if encoder is None else GreedyModule(Body([("e", nn.Linear(2, 2))]), encoder)
    return GreedyNetwork(modules, front, input_shape=(2,), num_classes=2)


def test_no_parameter_and_no_buffer_has_two_owners():
    layer, norm, head = nn.Linear(2, 2), bn(), nn.Linear(2, 2)
    linear_net()
    for wrong in (
        {"bodies": (norm, norm)},
        {"heads": (nn.Sequential(layer), nn.Sequential(layer, bn()))},
        {"bodies": (layer, None), "heads": (None, nn.Sequential(layer))},
        {"encoder": head, "heads": (head, head)},
        {"encoder": nn.Sequential(head), "heads": (head, None)},
        {"bodies": (layer, None), "heads": (layer, layer)},
    ):
        with pytest.raises(ValueError, match=r"also belongs to .*copy.deepcopy"):
            linear_net(**wrong)
    assert linear_net(heads=(head, head), encoder=layer).head_is_shared
    linear_net(bodies=(layer, None), heads=(nn.Sequential(layer), None))  # tied inside a module


def test_a_head_that_a_callable_gives_to_all_is_not_that_of_a_trained_encoder():
    model = trgl.models.chain(2, 4, 2, kernel_size=3, stride=1)
    head = nn.Sequential(nn.Flatten(), nn.Linear(4 * 6 * 6, CLASSES))
    with pytest.raises(ValueError, match="module 0"):
        trgl.split(model, 2, SHAPE, CLASSES, lambda shape, classes: head, encoder="stem")


def test_a_slice_of_a_network_and_images_that_are_no_tensor_are_refused():
    with pytest.raises(ValueError, match=r"network\.assemble"):
        network()[:1]
    with pytest.raises(ValueError, match=r"torch\.as_tensor"):
        network()(IMAGES.numpy())
    with pytest.raises(ValueError, match="got Linear"):
        GreedyNetwork([nn.Linear(2, 2)], input_shape=(2,), num_classes=2)
    with pytest.raises(IndexError):
        network()[7]


@pytest.mark.parametrize("mode", [True, False])
def test_assemble_takes_the_mode_of_the_network_and_keeps_a_frozen_head_frozen(mode):
    net = network(modules=2, head="mlp", freeze_head=True).train(mode)
    assembled = net.assemble(1)
    assert assembled.training is mode
    assert {m.training for name, m in assembled.named_modules() if "head" not in name} == {mode}
    assembled.train()
    assert not any(module.training for module in assembled.head.modules())
    assert assembled.get_submodule("blocks.0").training
