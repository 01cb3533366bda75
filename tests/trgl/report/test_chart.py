"""Axes that hold their values, and charts drawn where they belong."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from trgl.report import chart as charts
from trgl.report.chart import Axis, Chart, Series, log_axis, tick_text, x_axis, y_axis
from trgl.report.svg import to_svg


def one(*y: float, **options: Any) -> Chart:
    series = Series("a", tuple(range(1, len(y) + 1)), y, marker="circle")
    return Chart("", "x", "y", (series,), **options)


@pytest.mark.parametrize(
    "values",
    [(3.0, 7.0), (0.001, 0.0013), (-5.0, 12.0), (4.0, 4.0), (0.0, 0.0), (1e9, 3e9), (0.1, 0.3)],
)
def test_an_axis_holds_its_values_between_round_ticks(values: tuple[float, float]) -> None:
    axis = y_axis(one(*values))
    assert axis.low <= min(values) <= max(values) <= axis.high
    assert axis.low < axis.high
    assert 2 <= len(axis.ticks) <= 9
    assert list(axis.ticks) == sorted(set(axis.ticks))
    assert axis.ticks[0] >= axis.low - 1e-9 * abs(axis.low)
    assert axis.ticks[-1] <= axis.high + 1e-9 * abs(axis.high)


def test_a_small_difference_is_not_blown_up() -> None:
    axis = y_axis(one(90.0, 90.2, least=10))
    assert axis.high - axis.low >= 10
    assert axis.low > 80


def test_percentages_stay_within_0_and_100() -> None:
    series = Series("a", (1, 2), (5.0, 99.0), low=(-30.0, 90.0), high=(40.0, 108.0))
    axis = y_axis(Chart("", "x", "y", (series,), bounds=(0, 100), least=10))
    assert (axis.low, axis.high) == (0.0, 100.0)
    assert y_axis(one(99.9, 99.95, bounds=(0, 100), least=10)).high == 100.0


def test_zero_begins_at_zero_and_panels_share_their_limits() -> None:
    assert y_axis(one(5.0, 6.0, zero=True)).low == 0.0
    assert y_axis(one(5.0, 6.0, beside=(1.0, 60.0))).high == 60.0


@pytest.mark.parametrize("low", [1e-7, 0.3, 2000.0])
@pytest.mark.parametrize("ratio", [1.0, 3.0, 1e3, 1e9])
def test_a_logarithmic_axis_holds_its_values(low: float, ratio: float) -> None:
    axis = log_axis(low, low * ratio)
    assert 0 < axis.low < low <= low * ratio < axis.high
    assert len(axis.ticks) <= 16
    assert all(axis.low <= tick <= axis.high for tick in axis.ticks)
    assert ratio < 3 or len(axis.ticks) >= 2
    middle = math.sqrt(axis.low * axis.high)
    assert axis.share(middle) == pytest.approx(0.5)


def test_the_ends_of_x_are_told_and_neighbours_do_not_touch_them() -> None:
    axis = x_axis(one(*range(300)), 6)
    assert (axis.ticks[0], axis.ticks[-1]) == (1, 300)
    gaps = [b - a for a, b in zip(axis.ticks, axis.ticks[1:], strict=False)]
    assert min(gaps) >= 0.5 * max(gaps)
    assert all(tick == int(tick) for tick in x_axis(one(1, 2, 3)).ticks)
    assert x_axis(one(1.0)) == Axis(0.5, 1.5, (1,))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (1e-17, "0"), (0.05, "0.05"), (12345.0, "12,345"), (1e-6, "1e-6"), (3e7, "3e7")],
)
def test_ticks_are_short(value: float, text: str) -> None:
    assert tick_text(value) == text


def numbers(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", path)]


def test_points_are_where_their_values_are() -> None:
    drawn = to_svg(one(0.0, 10.0, 5.0), 400, 300, "label")
    (path,) = re.findall(r'<path class="line s0" d="([^"]*)"', drawn)
    (x1, y1), (x2, y2), (x3, y3) = numbers(path)
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.1)
    assert y1 > y3 > y2  # down is up
    assert y3 == pytest.approx((y1 + y2) / 2, abs=0.1)
    assert 0 <= x1 <= x3 <= 400
    assert 0 <= y2 <= y1 <= 300
    assert drawn.count("<circle") == 3
    assert "a: 10 at 2" in drawn


def test_what_is_not_finite_leaves_a_gap() -> None:
    drawn = to_svg(one(1.0, 2.0, math.nan, 3.0, 4.0), 400, 300, "label")
    (path,) = re.findall(r'<path class="line s0" d="([^"]*)"', drawn)
    assert path.count("M") == 2
    assert "nan" not in drawn
    assert drawn.count("<circle") == 4


def test_a_value_of_zero_is_not_on_a_logarithmic_axis() -> None:
    drawn = to_svg(one(0.0, 1.0, 10.0, log=True), 400, 300, "label")
    assert drawn.count("<circle") == 2


def test_intervals_are_cut_at_the_axis() -> None:
    series = Series("a", (1, 2), (50.0, 60.0), low=(-900.0, 40.0), high=(80.0, 900.0))
    drawn = to_svg(Chart("", "x", "y", (series,), bounds=(0, 100)), 400, 300, "label")
    (band,) = re.findall(r'<path class="band s0" d="([^"]*)"', drawn)
    assert all(0 <= y <= 300 for _, y in numbers(band))


def test_a_level_crosses_the_chart_and_has_its_interval_at_its_place() -> None:
    level = Series("e", (3,), (5.0,), (4.0,), (6.0,), "s2", "diamond", level=True)
    drawn = to_svg(Chart("", "x", "y", (*one(1, 2, 3).series, level)), 400, 300, "label")
    assert re.search(r'class="line dash s2" d="M46 [\d.]+h340"', drawn)
    (bar,) = re.findall(r'<path class="line s2" d="M([\d.]+) [\d.]+V', drawn)
    assert float(bar) == 386.0


def test_texts_are_escaped() -> None:
    chart = Chart("", "<x>", '"y"&', one(1.0).series)
    drawn = to_svg(chart, 400, 300, 'a "label" <b>')
    assert "<x>" not in drawn
    assert "&lt;x&gt;" in drawn
    assert 'aria-label="a &quot;label&quot; &lt;b&gt;"' in drawn


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_colours_can_be_seen_in_light_and_dark() -> None:
    from trgl.report.style import STYLE

    light, dark = (
        dict(re.findall(r"--([\w-]+):(#[0-9a-f]{6})", block))
        for block in re.findall(r":root\{([^}]*)\}", STYLE)
    )
    assert len(light) == len(dark) == len(charts.LIGHT) + len(charts.LIGHT_MODULES) + 9
    for colours in (light, dark):
        for name in ("ink", "soft", "accent"):
            assert contrast(colours[name], colours["card"]) >= 4.5, name
            assert contrast(colours[name], colours["page"]) >= 4.5, name
        assert contrast(colours["warn"], colours["card"]) >= 4.5
        for name, colour in colours.items():
            if re.fullmatch(r"[sm]\d", name):
                assert contrast(colour, colours["card"]) >= 3, name
