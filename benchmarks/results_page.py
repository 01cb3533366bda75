"""Puts the figures under benchmarks/results into docs/results.md, and draws docs/depth.svg of them.

    python benchmarks/results_page.py

replaces what stands between `<!-- NAME -->` and `<!-- end -->` by the table of that name.
"""

from __future__ import annotations

import csv
import io
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import EXPERIMENTS, RESULTS

from trgl.durable import write_atomically
from trgl.metrics import paired_interval

DOCS = Path(__file__).parents[1] / "docs"
# by number of training images, the experiments on them: they share a row's place and a panel
MNIST = {
    "150": ("mnist-150",),
    "300": ("mnist-300", "mnist-300-whole"),
    "600": ("mnist-600", "mnist-600-whole"),
}
CIFAR10 = {"1,000": ("cifar-1000",)}
Sizes = Mapping[str, Sequence[str]]
METHODS = {"vanilla": "vanilla", "transport": "transport", "end-to-end": "end to end"}
OTHER_TAUS = [f"transport-tau{tau}" for tau in ("5", "0.5", "0.05", "0.0005")]
COLOURS = {"vanilla": "#D55E00", "transport": "#0072B2", "end-to-end": "#555555"}


def comparison(name: str) -> dict[str, Any] | None:
    """What `trgl compare` found, where it was run."""
    path = RESULTS / name / "table.json"
    return json.loads(path.read_text()) if path.exists() else None


def by_method(names: Sequence[str]) -> dict[str, tuple[str, dict[str, Any]]]:
    """By method, which of the experiments trained by it, and what it found."""
    found = {}
    for name in names:
        for method, one in (comparison(name) or {"methods": {}})["methods"].items():
            if one["values"]:
                found[method] = name, one
    return found


def last_epoch(name: str, column: str) -> dict[str, dict[int, list[float]]]:
    """By method and module, an accuracy of every seed after the last epoch, in percent."""
    with (RESULTS / name / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row[column]]
    ends: dict[tuple[str, str], int] = defaultdict(int)
    for row in rows:
        key = row["method"], row["seed"]
        ends[key] = max(ends[key], int(row["epoch"]))
    found: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if int(row["epoch"]) == ends[row["method"], row["seed"]]:
            found[row["method"]][int(row["module"])].append(100 * float(row[column]))
    return found


def markdown(head: Iterable[str], rows: Sequence[Iterable[str]]) -> str:
    if not rows:
        return "Not measured yet."
    lines = [list(head), *map(list, rows)]
    return "\n".join(
        f"| {' | '.join(line)} |" + ("\n" + "|---" * len(line) + "|" if number == 0 else "")
        for number, line in enumerate(lines)
    )


def interval(values: dict[str, Any] | None) -> str:
    if values is None:
        return "-"
    half = values["half_width"]
    return f"{100 * values['mean']:.1f}" + ("" if half is None else f" ± {100 * half:.1f}")


def accuracies(sizes: Sizes) -> str:
    """Accuracy of every training size and method."""
    rows = []
    for size, names in sizes.items():
        for method, (name, one) in by_method(names).items():
            published = comparison(name)["published"]["methods"][method]
            with (RESULTS / name / "metrics.csv").open() as file:
                times = {
                    row["seed"]: float(row["epoch_seconds"])
                    for row in csv.DictReader(file)
                    if row["method"] == method
                }
            rows.append(
                (
                    size,
                    METHODS[method],
                    f"**{interval(one['last_module_last_epoch'])}**",
                    interval(one["optimistic_maximum_over_epochs_and_modules"]),
                    f"{len(one['values'])}"
                    + (f"; {len(one['failed'])} diverged" if one["failed"] else ""),
                    f"{100 * published['published_accuracy']:.1f}",
                    f"{statistics.median(times.values()):.2f}",
                )
            )
    head = ("images", "method", "test accuracy, %", "optimistic, %", "seeds", "published, %")
    return markdown((*head, "s per epoch"), rows)


def differences(sizes: Sizes) -> str:
    """Paired differences of every training size."""
    rows = []
    for size, names in sizes.items():
        values = {method: one["values"] for method, (_, one) in by_method(names).items()}
        for method, minus in (("transport", "vanilla"), ("transport", "end-to-end")):
            seeds = sorted(values.get(method, {}).keys() & values.get(minus, {}).keys())
            if len(seeds) < 2:
                continue
            pair = [[values[which][seed] for seed in seeds] for which in (method, minus)]
            gain = paired_interval(*pair)
            each = ", ".join(f"{100 * (a - b):+.1f}" for a, b in zip(*pair, strict=True))
            rows.append(
                (
                    size,
                    f"{METHODS[method]} − {METHODS[minus]}",
                    f"**{100 * gain.mean:+.1f}**",
                    f"{100 * gain.low:+.1f} to {100 * gain.high:+.1f}",
                    each,
                )
            )
    return markdown(("images", "difference", "points", "95 % interval", "each seed"), rows)


def words_of(method: str) -> str:
    return method.replace("transport-tau", "τ = ")


def choices(*names: str, but: Sequence[str] = ()) -> str:
    """Validation accuracy of experiments on a protocol, first and last module."""
    rows = []
    for name in names:
        if (found := comparison(name)) is None:
            continue
        accuracy = last_epoch(name, "validation_accuracy")
        for method, one in found["methods"].items():
            if method in but:
                continue
            if method not in accuracy:
                failed = f"{len(one['failed'])} of {len(found['seeds'])} runs diverged"
                rows.append((f"`{name}`", words_of(method), "-", "-", failed))
                continue
            first, last = accuracy[method][1], accuracy[method][max(accuracy[method])]
            rows.append(
                (
                    f"`{name}`",
                    words_of(method),
                    f"{statistics.mean(first):.1f}",
                    f"**{statistics.mean(last):.1f}**",
                    ", ".join(f"{value:.1f}" for value in last),
                )
            )
    head = ("experiment", "method", "first module, %", "last module, %", "last module, each seed")
    return markdown(head, rows)


def commands() -> str:
    """The command of every experiment."""
    rows = []
    for name, words in EXPERIMENTS.items():
        data = "FILE.npz" if name.startswith("cifar") else "DIR"
        rows.append((f"`{name}`", f"`trgl compare {words} --data {data}`"))
    return markdown(("experiment", "command"), rows)


TABLES: dict[str, Callable[[], str]] = {
    "accuracies": lambda: accuracies(MNIST),
    "differences": lambda: differences(MNIST),
    "cifar-tau": lambda: choices("cifar-tau", "cifar-tau-fine"),
    "cifar-accuracies": lambda: accuracies(CIFAR10),
    "cifar-differences": lambda: differences(CIFAR10),
    "tau": lambda: choices("tau", "tau-sum"),
    "protocol": lambda: choices("own-heads", "post-activation", "pretrained"),
    "depth": lambda: choices("depth-5", "depth-10", "tau", but=OTHER_TAUS),
    "power": lambda: choices("power-1.5", "power-1"),
    "commands": commands,
}


def filled(page: str) -> str:
    """The page with its tables as the figures have them now."""
    for name, table in TABLES.items():
        before, begin, rest = page.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition("<!-- end -->\n")
        if not begin or not end:
            raise ValueError(
                f"the page has no <!-- {name} --> with <!-- end --> after it; add them."
            )
        page = f"{before}{begin}{table()}\n{end}{after}"
    return page


def picture() -> bytes:
    """Accuracy at every depth, one panel for each training size."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams.update({"svg.hashsalt": "trgl", "svg.fonttype": "none"})
    shown = {
        f"{images}, {size} training images": found
        for images, sizes in (("MNIST", MNIST), ("CIFAR-10", CIFAR10))
        for size, names in sizes.items()
        if (found := by_method(names))
    }
    figure = Figure(figsize=(4.2 * len(shown), 3.6), layout="constrained")
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    for panel, (title, found) in zip(panels, shown.items(), strict=True):
        for method, (name, one) in found.items():
            ends = 1, comparison(name)["recipe"]["modules"]
            depths = one["by_depth"] or {str(k): one["last_module_last_epoch"] for k in ends}
            x = [int(depth) for depth in depths]
            mean = [100 * value["mean"] for value in depths.values()]
            half = [100 * (value["half_width"] or 0) for value in depths.values()]
            colour, line = COLOURS[method], "-" if one["by_depth"] else ":"
            panel.plot(x, mean, line, color=colour, label=METHODS[method])
            low, high = zip(*((m - h, m + h) for m, h in zip(mean, half, strict=True)), strict=True)
            panel.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("depth: modules passed")
        panel.set_xticks(range(2, ends[1] + 1, 2))
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("test accuracy, %")
    panels[0].legend(fontsize=9)
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": "trgl"})
    return stream.getvalue()


def main() -> int:
    path = DOCS / "results.md"
    write_atomically(path, filled(path.read_text()).encode())
    write_atomically(DOCS / "depth.svg", picture())
    return 0


if __name__ == "__main__":
    sys.exit(main())
