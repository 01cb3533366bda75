"""The page: everything that was measured, escaped, balanced, and nothing from elsewhere."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import pytest
from pages import Page
from written_runs import change, write_run

from trgl import recipes
from trgl.recipes.published import row_of, rows
from trgl.report.page import all_figures, to_html
from trgl.report.png import to_png
from trgl.report.records import RunRecord, read_runs

HOSTILE = '<script>alert("1")</script><img src=http://evil.test/x>'


def module(number: int, **values: Any) -> dict[str, Any]:
    gap = {"relative": 0.5, "per_feature": 0.25, "optimality": 0.9, "reassigned": 0.1}
    gap |= {"least_cosine": 0.4, "middle_cosine": 0.9}
    ratios = {"quantiles": {"0.05": 0.5, "0.5": 1.0, "0.95": 2.0, "1.0": 3.0}}
    probe = {"test_accuracy": 0.7, "train_accuracy": 1.0, "test_loss": 0.9}
    measured = number > 0
    return {
        "module": number,
        "separability": probe,
        "transport": gap if measured else None,
        "composition": gap | {"optimality": 0.8} if measured else None,
        "lipschitz": ratios if measured else None,
        "composition_lipschitz": ratios if measured else None,
        "note": "",
        **values,
    }


DIAGNOSIS = {
    "samples": 500,
    "probe_train": 50,
    "probe_test": 797,
    "modules": [
        module(0),
        module(1),
        module(2, transport=None, composition=None, note="changes the shape"),
        module(3),
    ],
}


@pytest.fixture
def runs(tmp_path: Path) -> list[RunRecord]:
    paths = [
        write_run(tmp_path / f"{method}{seed}", method, seed, 0.7 + 0.1 * seed, diagnosis=DIAGNOSIS)
        for method in ("vanilla", "transport", "end-to-end")
        for seed in (0, 1)
    ]
    return read_runs(paths)


def test_the_page_is_whole_and_says_everything(runs: list[RunRecord]) -> None:
    page = Page(to_html(runs))
    assert page.mistakes == []
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    links = [a["href"] for a in page.having("a")]
    assert all(link.startswith("#") and link[1:] in ids for link in links)
    labels = {a["aria-labelledby"] for a in page.having("section")}
    assert labels <= set(ids)
    assert [i for i in ids if not i.endswith("-title")] == [
        "results",
        "accuracy-by-depth",
        "accuracy-by-epoch",
        "loss",
        "transport-cost",
        "memory",
        "time",
        "separability",
        "displacement",
        "optimality",
        "lipschitz",
        "settings",
        "runs",
    ]
    for text in (
        "75.0 %",
        "+0.0",
        "transport (tau = 0.05)",
        "Without a penalty no energy is computed: vanilla; end to end.",
        "3.00 MiB",
        "Seeds 0, 1.",
        "torch 2.99",
        "Modules that change the shape of their input have no displacement (2)",
    ):
        assert text in page.text, text


def test_every_picture_has_a_name_and_a_table(runs: list[RunRecord]) -> None:
    page = Page(to_html(runs))
    pictures = [a for a in page.having("svg") if "aria-hidden" not in a]
    assert len(pictures) > 12
    assert all(a["role"] == "img" and "the table below" in a["aria-label"] for a in pictures)
    figures = page.having("figure")
    assert len(figures) == 10
    assert page.text.count("The same as a table") == 10
    assert all(a["scope"] in ("col", "row") for a in page.having("th"))


def test_nothing_comes_from_elsewhere_and_nothing_runs(runs: list[RunRecord]) -> None:
    content = to_html(runs)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", content)
    page = Page(content)
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in page.elements}
    assert not [name for _, a in page.elements for name in a if name.startswith("on")]
    policies = [a["content"] for a in page.having("meta") if "http-equiv" in a]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]
    assert "prefers-color-scheme:dark" in content
    assert 'name="viewport" content="width=device-width' in content


def test_names_are_text_whatever_they_hold(tmp_path: Path) -> None:
    path = write_run(tmp_path / "<b>bold", dataset=HOSTILE)
    write_run(tmp_path / "b", seed=1, state="failed", reason=HOSTILE, dataset=HOSTILE)
    change(path / "config.json", started=HOSTILE, versions={HOSTILE: HOSTILE}, device=HOSTILE)
    content = to_html(read_runs([path, tmp_path / "b"]))
    page = Page(content)
    assert page.mistakes == []
    assert not {"script", "img", "b"} & {tag for tag, _ in page.elements}
    assert page.text.count(HOSTILE) >= 5


def test_runs_without_results_are_told_not_hidden(tmp_path: Path) -> None:
    write_run(tmp_path / "a", state="failed")
    write_run(tmp_path / "b", "vanilla", state="unfinished")
    page = Page(to_html(read_runs([tmp_path / "a", tmp_path / "b"])))
    assert page.mistakes == []
    assert "transport (tau = 0.05), seed 0 (a): failed: Module 2 diverged." in page.text
    assert "unfinished: no summary.json" in page.text
    assert "0 of 1" in page.text
    assert "No run ended well, the curves are of what there is" in page.text
    assert "accuracy-by-depth" not in [a.get("id") for a in page.having("section")]


def test_a_run_that_wrote_nothing_but_its_configuration_has_a_page(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a", state="unfinished")
    (path / "metrics.jsonl").unlink()
    page = Page(to_html(read_runs([path])))
    assert page.mistakes == []
    assert page.having("figure") == []
    assert "0 epochs are there" in page.text


def test_one_run_has_no_spread(tmp_path: Path) -> None:
    page = Page(to_html(read_runs([write_run(tmp_path / "a", "end-to-end")])))
    assert page.mistakes == []
    assert "one run" in page.text
    assert "One run each: the spread is not known." in page.text
    assert "nan" not in page.text.lower()


def test_changing_weights_are_a_figure_and_constant_ones_are_not(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a", changes={"weighting": "multipliers"})
    keys = [figure.key for figure in all_figures(read_runs([path]))]
    assert "transport-weight" not in keys
    metrics = (path / "metrics.jsonl").read_text()
    (path / "metrics.jsonl").write_text(
        re.sub(
            r'("epoch": (\d).*"transport_weight": )10\.0', lambda m: m[1] + "1" + m[2] * 2, metrics
        )
    )
    (weights,) = (f for f in all_figures(read_runs([path])) if f.key == "transport-weight")
    assert weights.rows[0] == ("transport (method of multipliers)", "1", "111", "144")
    fixed = write_run(tmp_path / "b")
    figures = all_figures(read_runs([path, fixed]))
    (both,) = (figure for figure in figures if figure.key == "transport-weight")
    # a multiplier divides what a weight multiplies: their heights do not compare
    assert [chart.beside for chart in both.charts] == [(), ()]
    (losses,) = (figure for figure in figures if figure.key == "loss")
    assert losses.charts[0].beside == losses.charts[1].beside
    assert losses.charts[0].beside


def test_changed_settings_stand_first(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a", changes={"batch_size": 77})
    page = Page(to_html(read_runs([path])))
    assert "3 of the fields differ from the recipe" in page.text  # modules and epochs too
    texts = [text for text in page.texts if text in ("modules", "batch-size", "dataset")]
    assert texts.index("batch-size") < texts.index("dataset")


def test_published_figures_stand_beside_ours(tmp_path: Path) -> None:
    row = next(r for r in rows() if r.table == "T13" and r.train_size)
    own = next(n for n in recipes.NAMES if row_of(recipes.find(n).as_dict()) == row)
    fields = recipes.find(own)
    paths = [
        write_run(tmp_path / name, method, recipe=fields.override(changes))
        for name, method, changes in (
            ("a", "vanilla", {}),
            ("b", "transport", {}),
            ("c", "transport", {"tau": fields.tau * 3}),
        )
    ]
    page = Page(to_html(read_runs(paths)))
    assert page.mistakes == []
    assert "published" in [a.get("id") for a in page.having("section")]
    assert row.place in page.text
    for method in ("vanilla", "transport"):
        value = row.accuracy[method]
        assert page.text.count(f"{100 * value.mean:.2f} ± {100 * value.half_width:.2f} %") == 1
    assert "What keeps the figures apart" in page.text


def test_figures_have_the_values_of_the_runs(runs: list[RunRecord]) -> None:
    figures = {figure.key: figure for figure in all_figures(runs)}
    depth = figures["accuracy-by-depth"]
    assert [row[0] for row in depth.rows] == ["1", "2", "3"]
    assert depth.rows[0][1].startswith("65.0 ±")
    assert depth.rows[0][3] == "–"  # end to end has no classifier there
    vanilla, _, whole = depth.charts[0].series
    assert vanilla.y == pytest.approx((65.0, 70.0, 75.0))
    assert whole.level
    assert vanilla.high[0] - vanilla.y[0] == pytest.approx(63.53, abs=0.01)  # t = 12.706, s/√2 = 5
    loss = figures["loss"]
    assert [chart.title for chart in loss.charts] == [
        "vanilla",
        "transport (tau = 0.05)",
        "end to end",
    ]
    assert loss.charts[0].series[2].y == (3.0, 1.5, 1.0, 0.75)
    assert figures["memory"].rows[-1] == ("heaviest", "3.00 MiB", "3.00 MiB", "3.00 MiB")
    assert figures["time"].rows[0][1:] == ("10 s ± 6.4 s", "2 s", "0.5 s", "100")
    assert figures["optimality"].charts[1].series[0].x == (1.0, 3.0)
    assert figures["optimality"].charts[1].series[0].y == (0.8, 0.8)
    assert figures["separability"].rows[0][2:] == ("70.0 ± 0.0 %", "100.0 ± 0.0 %", "0.9 ± 0")
    assert figures["lipschitz"].charts[0].series[0].high == (2.0, 2.0, 2.0)


def test_figures_are_pngs_too(runs: list[RunRecord]) -> None:
    figures = {figure.key: figure for figure in all_figures(runs)}
    for key, panels in (("accuracy-by-depth", 1), ("loss", 3)):
        content = to_png(figures[key])
        assert content.startswith(b"\x89PNG\r\n")
        width, height = struct.unpack(">II", content[16:24])
        assert (width > 1.5 * height) == (panels > 1)
