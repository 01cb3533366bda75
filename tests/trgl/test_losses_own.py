"""Local losses of one's own, and what does not fit."""

import copy
import functools

import pytest
import torch
from small import CLASSES, batches, network, sgd
from torch import nn

import trgl
from trgl import losses


def test_other_local_losses_plug_in_and_see_features_images_and_labels() -> None:
    class Watch(nn.Module):
        def __init__(self, shape):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(shape[0], 1, 1))
            self.seen = []

        def forward(self, criterion, features, images, labels):
            self.seen.append([t.detach().clone() for t in (criterion, features, images, labels)])
            return criterion + (self.scale * features).square().mean()

    net = network(2, 2, local_loss=lambda shape, classes, images: Watch(shape))
    for module in net:
        module.local_loss.seen.clear()  # of the dry run
    start = copy.deepcopy(net)
    data = batches(1, 6)  # copies of at most 4 KiB outlive the boundary
    trgl.Trainer(net, optimizer=sgd, epochs=1).fit(data)
    x = data[0][0]
    for module, fresh in zip(net, start.train(), strict=True):
        criterion, features, images, labels = module.local_loss.seen[-1]
        wanted, logits = fresh(x)
        torch.testing.assert_close(features, wanted.detach())
        torch.testing.assert_close(criterion, nn.functional.cross_entropy(logits, data[0][1]))
        assert torch.equal(images, data[0][0])
        assert torch.equal(labels, data[0][1])
        x = wanted.detach()


def test_a_list_has_one_for_each_module_that_trains() -> None:
    net = network(2, 2, encoder="stem", local_loss=["similarity", None, "reconstruction"])
    kinds = [type(module.local_loss) for _, module in net.trained]
    assert kinds == [losses.Similarity, type(None), losses.Reconstruction]
    history = trgl.Trainer(net, optimizer=sgd, epochs=3).fit(batches())
    assert set(history.records[-1].train_loss) == {0, 1, 2}
    frozen = network(2, 2, encoder="stem", freeze_encoder=True, local_loss=[None, "similarity"])
    assert [module.local_loss is None for module in frozen] == [True, False]


def test_what_a_local_loss_keeps_for_later_is_of_the_training() -> None:
    class Masked(nn.Module):
        mask = None

        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, criterion, features, images, labels):
            self.calls += 1
            if self.mask is None:
                self.mask = torch.ones_like(features[:1])
            return criterion + (self.mask * features).square().mean()

    net = network(2, 2, local_loss=lambda *_: Masked())
    for module in net:
        assert module.local_loss.mask is None  # and no tensor without data
        assert module.local_loss.calls == 0
        features, logits = module(torch.randn(4, *module_input(module)))
        loss = module.local_loss(logits.sum(), features, features, torch.zeros(4))
        assert loss.isfinite()


def module_input(module: trgl.GreedyModule) -> tuple[int, ...]:
    convolution = next(layer for layer in module.modules() if isinstance(layer, nn.Conv2d))
    return (convolution.in_channels, 6, 6)


class Wrong(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, criterion, features, images, labels):
        if self.kind == "fails":
            raise TypeError("no such thing")
        if self.kind == "in place":
            features.add_(1)
        return features if self.kind == "maps" else criterion


@pytest.mark.parametrize(
    ("local", "message"),
    [
        ("simmilarity", "'similarity', 'reconstruction' or a callable .* got 'simmilarity'"),
        (losses.Similarity(nn.Identity(), 3, 0.5), "got Similarity. Wrap a module"),
        (lambda shape: nn.Identity(), r"takes \(shape, num_classes, input_shape\)"),
        (lambda shape, classes, images: 3, "must return an nn.Module, but it returned int"),
        (lambda *_: Wrong("fails"), "module 1 .*no such thing"),
        (lambda *_: Wrong("in place"), "module 1 changes them in place"),
        (lambda *_: Wrong("maps"), r"module 1 returned shape \[2, 4, 6, 6\]"),
        (["similarity"], "each module that trains, 2, but got 1"),
        (functools.partial(losses.similarity, weight=1.5), "from 0 to 1, but got 1.5"),
        (functools.partial(losses.reconstruction, weight=-1), "at least 0, but got -1"),
        (functools.partial(losses.reconstruction, width=0), "at least 1, but got 0"),
    ],
)
def test_what_does_not_fit_is_refused(local, message) -> None:
    with pytest.raises(ValueError, match=message):
        network(2, 2, local_loss=local)


def test_one_for_several_modules_is_refused() -> None:
    one = losses.Similarity(nn.Conv2d(4, 4, 3, padding=1), CLASSES, 0.5)
    with pytest.raises(ValueError, match="must belong to one module"):
        network(2, 2, local_loss=lambda *_: one)
