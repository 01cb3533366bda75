"""Runs and comparisons as they are read, whole and damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
from written_runs import change, write_comparison, write_run

from trgl.report.groups import group_runs, pairs
from trgl.report.records import read_runs


def test_a_comparison_stands_for_its_runs(tmp_path: Path) -> None:
    runs = {"vanilla-seed0": {"method": "vanilla"}, "transport-seed0": {}}
    write_comparison(tmp_path / "cmp", runs, missing=["end-to-end-seed0"])
    found = read_runs([tmp_path / "cmp", tmp_path / "cmp" / "vanilla-seed0"])
    assert [run.name for run in found] == ["cmp/vanilla-seed0", "cmp/transport-seed0"]
    assert [(run.method, run.seed, run.done, run.side_by_side) for run in found] == [
        ("vanilla", 0, True, 2),
        ("transport", 0, True, 2),
    ]


def test_a_run_that_goes_on_or_was_killed_is_read_as_far_as_it_came(tmp_path: Path) -> None:
    write_run(tmp_path / "run", state="unfinished")
    with (tmp_path / "run" / "metrics.jsonl").open("a") as stream:
        stream.write('{"epoch": 5, "module": 1, "train_lo')  # cut off in the middle of a line
    (run,) = read_runs([tmp_path / "run"])
    assert not run.done
    assert run.summary["state"] == "unfinished"
    assert "4 epochs are there" in run.summary["reason"]
    (group,) = group_runs([run])
    assert group.result.last is None
    assert group.curves("train_loss")[2][4].mean == 0.5


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no run of trgl .* give a directory that trgl tra"):
        read_runs([tmp_path])
    write_comparison(tmp_path / "cmp", {}, missing=["vanilla-seed0"])
    with pytest.raises(ValueError, match="a comparison of which no run has begun"):
        read_runs([tmp_path / "cmp"])


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "is no JSON"), ("[1]", "must hold a JSON object, received a list")],
)
def test_a_damaged_file_is_named(tmp_path: Path, content: str, message: str) -> None:
    write_run(tmp_path / "run")
    (tmp_path / "run" / "summary.json").write_text(content)
    with pytest.raises(ValueError, match=rf"run/summary\.json {message}"):
        read_runs([tmp_path / "run"])


def test_a_configuration_without_what_is_needed_is_named(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run")
    file = path / "config.json"
    file.write_text(file.read_text().replace('"method"', '"manner"'))
    with pytest.raises(ValueError, match="says nothing of method"):
        read_runs([path])


def test_runs_that_differ_in_their_seed_are_one_group(tmp_path: Path) -> None:
    paths = [
        write_run(tmp_path / f"{method}{seed}", method, seed, 0.6 + 0.1 * seed)
        for seed in (1, 0)
        for method in ("transport", "vanilla")
    ]
    groups = group_runs(read_runs(paths))
    assert [group.label for group in groups] == ["transport (tau = 0.05)", "vanilla"]
    assert [run.seed for run in groups[0].runs] == [0, 1]
    assert groups[0].result.last is not None
    assert groups[0].result.last.mean == pytest.approx(0.65)
    assert groups[0].result.last.count == 2
    (pair,) = pairs(groups)
    assert (pair.group.label, pair.other.label) == ("vanilla", "transport (tau = 0.05)")
    assert pair.interval.mean == pytest.approx(0.0)


def test_groups_that_differ_in_their_penalty_are_pairs_and_others_are_not(tmp_path: Path) -> None:
    paths = [
        write_run(tmp_path / "vanilla", "vanilla", accuracy=0.5),
        write_run(tmp_path / "weak", accuracy=0.7, changes={"tau": 5.0}),
        write_run(tmp_path / "strong", accuracy=0.8, changes={"weighting": "multipliers"}),
        write_run(tmp_path / "longer", accuracy=0.9, changes={"batch_size": 7}),
    ]
    found = pairs(group_runs(read_runs(paths)))
    differences = [(p.group.runs[0].name, p.other.runs[0].name, p.interval.mean) for p in found]
    assert [names for *names, _ in differences] == [
        ["weak", "vanilla"],
        ["strong", "vanilla"],
        ["strong", "weak"],
    ]
    assert [mean for *_, mean in differences] == pytest.approx([0.2, 0.3, 0.1])


def test_labels_say_what_differs(tmp_path: Path) -> None:
    paths = [
        write_run(tmp_path / "a", changes={"tau": 0.5}),
        write_run(tmp_path / "b", changes={"tau": 0.05, "head": "conv"}),
        write_run(tmp_path / "c", method="end-to-end"),
    ]
    labels = [group.label for group in group_runs(read_runs(paths))]
    assert labels == [
        "transport (tau = 0.5), head linear",
        "transport (tau = 0.05), head conv",
        "end to end, head linear",
    ]


def test_the_runs_of_a_sweep_differ_in_tau_alone(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / "a", "vanilla", changes={"taus": (0.05, 0.5)})]
    for tau in (0.05, 0.5):
        paths.append(write_run(tmp_path / f"tau{tau}", changes={"tau": tau}))
    groups = group_runs(read_runs(paths))
    assert [group.label for group in groups] == [
        "vanilla",
        "transport (tau = 0.05)",
        "transport (tau = 0.5)",
    ]
    found = [(pair.group.label, pair.other.label) for pair in pairs(groups)]
    assert ("transport (tau = 0.5)", "vanilla") in found
    assert len(found) == 3


def test_labels_differ_also_where_nothing_else_does(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / name, seed=7) for name in ("one", "two")]
    groups = group_runs(read_runs(paths))
    assert [group.label for group in groups] == [
        "transport (tau = 0.05) [one]",
        "transport (tau = 0.05) [two]",
    ]
    assert all(group.result.last and group.result.last.count == 1 for group in groups)
    assert pairs(groups) == []  # nobody knows what they share


def test_curves_are_means_of_the_runs_that_ended_well(tmp_path: Path) -> None:
    whole = write_run(tmp_path / "a", seed=0)
    other = write_run(tmp_path / "b", seed=1)
    write_run(tmp_path / "c", seed=2, state="failed")
    lines = (other / "metrics.jsonl").read_text().replace('"train_loss": 3.0', '"train_loss": 5.0')
    (other / "metrics.jsonl").write_text(lines)
    (group,) = group_runs(read_runs([whole, other, tmp_path / "c"]))
    assert group.curves("train_loss")[3][1].mean == 4.0
    assert group.curves("train_loss")[3][1].count == 2
    assert list(group.curves("test_accuracy")[1]) == [2, 4]
    assert group.result.failed == {2: "Module 2 diverged."}


def test_other_data_is_another_group(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / name, dataset=name) for name in ("mnist", "signs")]
    change(paths[0] / "config.json", seed=1)
    labels = [group.label for group in group_runs(read_runs(paths))]
    assert labels == ["transport (tau = 0.05), mnist", "transport (tau = 0.05), signs"]
