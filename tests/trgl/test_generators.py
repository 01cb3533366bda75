"""The generators that a training seeds and gives back."""

import torch

from trgl import generators


def test_seeding_for_the_cpu_touches_no_other_device(monkeypatch) -> None:
    touched = []
    monkeypatch.setattr(torch.cuda, "manual_seed", touched.append)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", touched.append)
    generators.seed(7, torch.device("cpu"))
    drawn = torch.rand(3)
    assert not touched
    assert torch.equal(drawn, torch.rand(3, generator=torch.Generator().manual_seed(7)))
