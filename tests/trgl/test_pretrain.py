"""The autoencoder that pretrains an encoder."""

import copy

import pytest
import torch
from small import differing, state
from torch import nn

import trgl
from trgl.data import Batches, load
from trgl.encoder import FrozenEncoder
from trgl.models import chain
from trgl.prepare import Task, prepare
from trgl.pretrain import Decoder, pretrain
from trgl.recipes import find


def encoder(filters=4, channels=1, layers=2, kernel_size=5, stride=2):
    torch.manual_seed(0)
    model = chain(
        1, filters, channels, kernel_size=kernel_size, stride=stride, encoder_layers=layers
    )
    return FrozenEncoder([("encoder", model.encoder)])


def images(count=60):
    data = load("digits")
    return Batches(data.x_train[:count], data.y_train[:count], 20, shuffle=True, crop_padding=1)


def test_the_papers_encoder_has_two_convolutions():
    model = chain(1, 32, 1, encoder_layers=2)
    kinds = [type(layer).__name__ for layer in model.encoder]
    assert kinds == ["Conv2d", "BatchNorm2d", "ReLU"] * 2
    first, second = model.encoder[0], model.encoder[3]
    assert (first.in_channels, first.out_channels, first.kernel_size) == (1, 16, (3, 3))
    assert (second.in_channels, second.out_channels, second.kernel_size) == (16, 32, (5, 5))
    assert (first.stride, second.stride) == ((1, 1), (2, 2))
    assert model(torch.randn(2, 1, 28, 28)).shape == (2, 32, 14, 14)


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (28, 28), (5, 6)])
@pytest.mark.parametrize(("kernel_size", "stride"), [(5, 2), (3, 1), (3, 3)])
def test_a_decoder_gives_images_of_the_same_shape(size, kernel_size, stride):
    body = encoder(4, 3, 2, kernel_size, stride)
    convolutions = [m for m in body.modules() if isinstance(m, nn.Conv2d)]
    x = torch.randn(2, 3, *size)
    sizes = [list(size), list(size)]  # the first convolution keeps its
    assert Decoder(convolutions)(body(x), sizes).shape == x.shape


def test_it_is_what_one_writes_by_hand():
    body = encoder(4, 1, 1)
    plain = copy.deepcopy(body.units[0]).requires_grad_(True).train()
    x = torch.randn(6, 1, 8, 8)
    losses = pretrain(body, [(x,)], 2, 0.01, seed=3)

    torch.manual_seed(3)
    back = nn.ConvTranspose2d(4, 1, 5, 2, 2)
    adam = torch.optim.Adam([*plain.parameters(), *back.parameters()], 0.01)
    expected = []
    for _ in range(2):
        loss = ((back(plain(x), output_size=[8, 8]) - x) ** 2).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        expected.append(loss.item())
    assert losses == pytest.approx(expected, rel=1e-5)
    for own, other in zip(body.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(own, other.detach(), atol=1e-6, rtol=1e-5)


def test_it_learns_repeats_and_leaves_the_encoder_frozen_and_the_loader_where_it_was():
    loader = images()
    loader.set_epoch(7)
    body = encoder()
    before, draws = state(body), torch.get_rng_state()
    losses = pretrain(body, loader, 40, 0.01, seed=1)
    assert losses[-1] < 0.5 * losses[0]
    assert loader.epoch == 7
    assert torch.equal(torch.get_rng_state(), draws)
    assert not any(m.training for m in body.modules())
    assert all(not p.requires_grad and p.grad is None for p in body.parameters())
    assert len(differing(before, state(body))) == len(before)

    twin = encoder()
    assert pretrain(twin, images(), 40, 0.01, seed=1) == losses
    assert not differing(state(twin), state(body))


def test_a_recipe_pretrains_its_encoder_on_its_subset():
    data = load("digits")
    recipe = find("digits-20x1").override(
        {"modules": 2, "filters": 4, "encoder_layers": 2, "epochs": 1, "pretrain_epochs": 3}
    )
    runs = {
        kind: prepare(Task(recipe.override({"encoder": kind}), "vanilla", 0), data)
        for kind in ("random", "pretrained")
    }
    random, pretrained = (run.network for run in runs.values())
    assert pretrained.encoder.calibrated
    moved = differing(state(random), state(pretrained))
    assert moved
    assert all(name.startswith("encoder.") for name in moved)
    again = prepare(Task(recipe.override({"encoder": "pretrained"}), "vanilla", 0), data)
    assert not differing(state(again.network), state(pretrained))
    # exactly normalized over the training images, as a random one is
    found = []
    norm = next(m for m in pretrained.encoder.modules() if isinstance(m, nn.BatchNorm2d))
    norm.register_forward_hook(lambda m, i, y: found.append(y))
    for x, _ in runs["pretrained"].loaders.plain:
        pretrained.encoder(x)
    mean = torch.cat(found).mean((0, 2, 3))
    torch.testing.assert_close(mean, norm.bias.detach(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("layers", "options", "message"),
    [
        ([nn.Conv2d(1, 2, 3), nn.MaxPool2d(2)], {}, "but got MaxPool2d"),
        ([nn.BatchNorm2d(1)], {}, r"but got \['BatchNorm2d'\]"),
        ([nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3, groups=2)], {}, "Pretrain it yourself"),
        ([nn.Conv2d(1, 2, 3, padding="same")], {}, "padding='same'"),
        ([nn.Conv2d(1, 2, 3)], {"epochs": 0}, "at least one epoch"),
        ([nn.Conv2d(1, 2, 3)], {"learning_rate": 0.0}, "learning rate above 0"),
        ([nn.Conv2d(1, 2, 3)], {"loader": []}, "the loader gave none"),
        ([nn.Conv2d(1, 2, 3)], {"loader": iter([])}, "can be iterated again"),
        ([nn.Conv2d(1, 2, 3)], {"learning_rate": 1e30, "epochs": 3}, "autoencoder diverged"),
    ],
)
def test_what_cannot_be_pretrained_is_refused(layers, options, message):
    body = FrozenEncoder([(str(k), layer) for k, layer in enumerate(layers)])
    arguments = {"loader": images(20), "epochs": 1, **options}
    with pytest.raises(ValueError, match=message):
        pretrain(body, arguments.pop("loader"), **arguments)
    assert isinstance(body, trgl.FrozenEncoder)
    assert all(not p.requires_grad for p in body.parameters())
