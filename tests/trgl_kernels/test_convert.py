"""regularize: torchvision's ResNet family, in place, with everything kept."""

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models import resnet

from trgl_kernels import RegularizedBasicBlock, RegularizedBottleneck, collect_energy, regularize
from trgl_kernels.blocks import Regularized


def blocks(model: nn.Module) -> list[Regularized]:
    return [m for m in model.modules() if isinstance(m, Regularized)]


@pytest.mark.parametrize(
    ("name", "count"),
    [("resnet18", 8), ("resnet50", 16), ("resnext50_32x4d", 16), ("wide_resnet50_2", 16)],
)
def test_outputs_and_keys_stay(name, count) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(torchvision.models, name)(num_classes=7).eval()
    x = torch.randn(2, 3, 40, 40)
    keys, parameters = list(model.state_dict()), dict(model.named_parameters())
    with torch.no_grad():
        expected = model(x)
        converted = regularize(model)
        assert converted is model
        with collect_energy() as energies:
            torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
    assert len(energies) == len(blocks(model)) == count
    assert list(model.state_dict()) == keys
    assert all(parameters[k] is p for k, p in model.named_parameters())


def test_training_follows_torchvision() -> None:
    torch.manual_seed(0)
    plain = torchvision.models.resnet18(num_classes=3)
    ours = torchvision.models.resnet18(num_classes=3)
    ours.load_state_dict(plain.state_dict())
    regularize(ours)
    images, labels = torch.randn(8, 3, 32, 32), torch.randint(3, (8,))
    losses = []
    for model in (plain, ours):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
        losses.append([])
        for _ in range(4):
            loss = nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_hooks_modes_and_buffers_are_kept() -> None:
    model = torchvision.models.resnet18(num_classes=3)
    model.layer1.eval()
    calls: list[int] = []
    model.layer1[0].register_forward_hook(lambda *args: calls.append(1))
    regularize(model)
    assert not model.layer1[0].training
    assert model.layer2[0].training
    model(torch.randn(2, 3, 32, 32))
    assert calls == [1]


def test_a_block_alone_is_returned_as_its_twin() -> None:
    assert isinstance(regularize(resnet.BasicBlock(4, 4)), RegularizedBasicBlock)
    assert isinstance(regularize(resnet.Bottleneck(4, 1)), RegularizedBottleneck)


def test_a_block_with_two_names_stays_one_block() -> None:
    shared = resnet.BasicBlock(4, 4)
    model = regularize(nn.Sequential(shared, nn.Identity(), shared))
    assert model[0] is model[2]
    assert isinstance(model[0], RegularizedBasicBlock)


def test_whatever_refers_to_a_block_still_does() -> None:
    block = resnet.BasicBlock(4, 4)
    calls: list[str] = []
    block.register_load_state_dict_pre_hook(lambda *args: calls.append("loaded"))
    model = nn.Sequential(block)
    order = [block]
    regularize(model)
    with collect_energy() as energies:
        order[0](torch.randn(2, 4, 5, 5))
    assert len(energies) == 1
    model.load_state_dict(model.state_dict())
    assert calls == ["loaded"]


def test_subclasses_with_a_forward_of_their_own_are_left_alone() -> None:
    class Other(resnet.BasicBlock):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    model = regularize(nn.Sequential(Other(4, 4), resnet.BasicBlock(4, 4)))
    assert type(model[0]) is Other


def test_again_changes_only_the_energy() -> None:
    model = regularize(nn.Sequential(resnet.BasicBlock(4, 4)))
    block = model[0]
    assert regularize(model, energy="displacement")[0] is block
    assert block.energy == "displacement"


def test_mistakes_are_explained() -> None:
    with pytest.raises(
        ValueError, match="must have a residual block that is known; received Linear"
    ):
        regularize(nn.Linear(3, 3))
    with pytest.raises(ValueError, match="recompute must be one of none"):
        regularize(torchvision.models.resnet18(), recompute="everything")
    with pytest.raises(ValueError, match="energy of a block must be one of"):
        regularize(torchvision.models.resnet18(), energy="module")
