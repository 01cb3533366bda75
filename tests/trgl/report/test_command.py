"""``trgl report``: where the page is left, and what is never replaced."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from commands import TINY, trgl
from pages import Page
from written_runs import write_comparison, write_run


def test_a_real_comparison_becomes_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cmp"
    command = ["compare", "digits-20x1", *TINY, "--seeds", "0", "--quiet", "--jobs", "1"]
    assert trgl(*command, "--out", out) == 0
    capsys.readouterr()
    assert trgl("report", out) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "3 runs, of which 3 ended well" in captured.out
    assert str(out / "report.html") in captured.out
    page = Page((out / "report.html").read_text())
    assert page.mistakes == []
    table = json.loads((out / "table.json").read_text())
    for method in table["methods"].values():
        assert f"{100 * method['last_module_last_epoch']['mean']:.1f} %" in page.texts
    for difference in table["differences"]:
        mean = difference["last_module_last_epoch"]["mean"]
        assert f"{100 * mean:+.1f}" in page.texts
    assert trgl("report", out) == 0  # an earlier report is replaced
    capsys.readouterr()
    assert trgl(*command, "--out", out, "--overwrite", "--methods", "vanilla") == 0
    assert "\n1 run in 0 min " in capsys.readouterr().out
    assert not (out / "report.html").exists()  # it was of runs that are gone
    assert trgl("report", out) == 0
    assert "1 run, of which 1 ended well" in capsys.readouterr().out


def test_several_runs_and_their_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_comparison(tmp_path / "cmp", {"vanilla-seed0": {"method": "vanilla"}}, missing=["x"])
    write_run(tmp_path / "run", "end-to-end", state="failed")
    assert trgl("report", "cmp", "run", "--png", "pictures/all") == 0
    assert "2 runs, of which 1 ended well" in capsys.readouterr().out
    assert "Module 2 diverged." in (tmp_path / "trgl-report.html").read_text()
    assert sorted(os.listdir(tmp_path / "pictures" / "all")) == [
        "accuracy-by-depth.png",
        "accuracy-by-epoch.png",
        "loss.png",
        "memory.png",
        "time.png",
    ]


def test_nothing_else_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run")
    mine = tmp_path / "thesis.html"
    mine.write_text("<html>years of work</html>")
    for out, message in (
        (mine, "no report of trgl, so that it is not replaced"),
        (tmp_path, "no report of trgl"),
        (tmp_path / "nowhere" / "page.html", "there is no directory"),
    ):
        assert trgl("report", run, "--out", out) == 2
        assert message in capsys.readouterr().err
    assert mine.read_text() == "<html>years of work</html>"
    assert trgl("report", run, "--png", mine) == 2
    assert not (run / "report.html").exists()


def test_what_is_no_run_is_wrong_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert trgl("report", tmp_path) == 2
    assert "holds no run of trgl" in capsys.readouterr().err
    assert trgl("report") == 2
    assert "RUN" in capsys.readouterr().err
