"""A run's network comes back from its directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import few_digits

from trgl import recipes, rundir
from trgl.prepare import Task, prepare
from trgl.recipes import Recipe
from trgl.restore import load_network
from trgl.run import perform
from trgl.rundir import RunDirectory


def small(**changes: Any) -> Recipe:
    tiny = {"modules": 2, "filters": 4, "epochs": 2, "evaluate_every": 2, "train_size": 30}
    return recipes.find("digits-20x1").override({**tiny, **changes})


@pytest.mark.parametrize("method", ["transport", "end-to-end"])
def test_the_network_of_a_run_is_the_one_that_was_trained(tmp_path: Path, method: str) -> None:
    images = few_digits(60)
    prepared = prepare(Task(small(schedule="milestones", milestones=(1,)), method, 3), images)
    with RunDirectory.create(tmp_path / "run") as directory:
        perform(prepared, directory)
    network, recipe = load_network(tmp_path / "run")
    assert recipe == prepared.task.recipe
    assert dict(recipe.sources) == dict(prepared.task.recipe.sources)
    assert not network.training
    x, _ = next(iter(prepared.loaders.test))
    with torch.no_grad():
        assert torch.equal(network(x), prepared.network(x))
        assert torch.equal(network(x, depth=1), prepared.network(x, depth=1))


def test_a_network_of_ones_own_is_built_by_its_file_which_may_have_changed(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import trgl\n"
        "def net(shape, classes):\n"
        "    return trgl.models.chain(2, 4, shape[0], kernel_size=3, stride=1)\n"
    )
    own = small(network=f"{file}:net", encoder="stem", shared_head=False)
    prepared = prepare(Task(own, "transport", 3), few_digits(60))
    with RunDirectory.create(tmp_path / "run") as directory:
        perform(prepared, directory)
    network, _ = load_network(tmp_path / "run")
    x, _ = next(iter(prepared.loaders.test))
    with torch.no_grad():
        assert torch.equal(network(x), prepared.network(x))
    file.write_text(file.read_text() + "# and more\n")
    with pytest.warns(UserWarning, match=r"mine\.py, .* has changed since the run began"):
        load_network(tmp_path / "run")
    file.unlink()
    with pytest.raises(ValueError, match="cannot be read"):
        load_network(tmp_path / "run")


def test_a_directory_without_a_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no run of trgl"):
        load_network(tmp_path)
    with RunDirectory.create(tmp_path / "all") as run:
        run.write_config({rundir.RUNS: ["vanilla-seed0"]})
    with pytest.raises(ValueError, match="directories in it: vanilla-seed0"):
        load_network(tmp_path / "all")
    with RunDirectory.create(tmp_path / "one") as run:
        run.write_config({})
    with pytest.raises(ValueError, match="no checkpoint"):
        load_network(str(tmp_path / "one"))
