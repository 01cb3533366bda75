"""Our figures beside those that the papers published, and what keeps the two apart."""

from __future__ import annotations

from typing import Any

from trgl import recipes
from trgl.metrics import Interval
from trgl.recipes.published import Accuracy, Published
from trgl.recipes.settings import ours
from trgl.report.cells import aligned, cell
from trgl.report.comparison import Comparison, MethodResult
from trgl.report.words import TRANSPORT_OF, changed, method_name

_MIB = 2**20


def beside(comparison: Comparison) -> list[str]:
    """Paragraphs and tables in Markdown; none where nothing was published for the recipe."""
    row = comparison.published
    if row is None:
        family = comparison.recipe.get("published")
        if not family:
            return []
        return [f"No row of {place_of(family)} was published for these settings."]
    parts = [_title(comparison, row), accuracy_table(comparison, row)]
    parts += ["\n".join(f"- {note}" for note in notes(comparison, row))]
    return [*parts, cost_table(comparison, row), _costs(comparison, row)]


def place_of(family: str) -> str:
    """Paper and table of what ``Recipe.published`` says."""
    return recipes.place(family.split("-")[0].upper())


def _title(comparison: Comparison, row: Published) -> str:
    return (
        f"Beside {row.place}, mean over {row.runs} runs, accuracy {row.chosen}. The authors' "
        "scripts take the largest test accuracy over epochs, in parallel training over modules "
        "too, on a random half of the test images unless told otherwise; ours are over "
        f"{comparison.images.get('test', 0):,} test images."
    )


def accuracy_table(comparison: Comparison, row: Published) -> str:
    """Honest figures, then the optimistic one that is chosen like the published one, then that."""
    how = "of the last module" if row.metric == "last" else "and modules"
    table = [
        [
            "training",
            "ours: last module, last epoch",
            "ours: module chosen on validation images",
            f"ours, optimistic: maximum over epochs {how}",
            "published",
        ]
    ]
    for result in comparison.methods:
        optimistic = result.optimistic_last if row.metric == "last" else result.optimistic
        table.append(
            [
                method_name(result.method, comparison.recipe),
                cell(result.last),
                cell(result.best),
                cell(optimistic),
                _accuracy(published_of(comparison, result, row)),
            ]
        )
    return aligned(table)


def published_of(comparison: Comparison, result: MethodResult, row: Published) -> Accuracy | None:
    """The published accuracy of a method; in a sweep over tau that of the recipe's own tau."""
    return row.accuracy.get(_method(comparison, result))


def _method(comparison: Comparison, result: MethodResult) -> str:
    return (
        "transport"
        if result.method == f"{TRANSPORT_OF}{comparison.recipe['tau']:g}"
        else (result.method)
    )


def _accuracy(value: Accuracy | None) -> str:
    if value is None:
        return "-"
    half = "" if value.half_width is None else f" ± {100 * value.half_width:.2f}"
    return f"{100 * value.mean:.2f}{half} %"


def notes(comparison: Comparison, row: Published) -> list[str]:
    """What keeps our figures and the published ones apart, a sentence each."""
    found = []
    if row.cited and "end-to-end" in row.accuracy:
        found.append(
            "The published end-to-end accuracy was copied from another paper, where other settings "
            "were used."
        )
    wanted = comparison.recipe["dataset"]
    if comparison.dataset != wanted:
        found.append(f"Trained on {comparison.dataset}, not on {wanted}.")
    changes = changed(comparison.recipe)
    if changes:
        found.append(f"Changed from the recipe, so that the figures do not compare: {changes}.")
    for field, reason in flagged(comparison).items():
        found.append(f"`{field}`: {reason}.")
    return found


def flagged(comparison: Comparison) -> dict[str, str]:
    """Settings that were not published, or are not as published, and why ours are what they are."""
    name = str(comparison.recipe["name"])
    if name not in recipes.NAMES:
        return {}
    original = recipes.find(name)
    as_it_is = original.as_dict()
    grouped: dict[str, list[str]] = {}
    for field, reason in ours(original).items():
        if comparison.recipe.get(field) == as_it_is[field]:
            grouped.setdefault(reason, []).append(field.replace("_", "-"))
    return {", ".join(fields): reason for reason, fields in grouped.items()}


def cost_table(comparison: Comparison, row: Published) -> str:
    """Memory and time against end-to-end training, ours and published."""
    table = [
        [
            "training",
            "memory saved: ours",
            "memory saved: published",
            "time of an epoch: ours",
            "time of an epoch: published",
        ]
    ]
    for result in comparison.methods:
        method = _method(comparison, result)
        time, saved = row.time(method), row.memory_saved.get(method)
        table.append(
            [
                method_name(result.method, comparison.recipe),
                _signed(memory_saved(comparison, result)),
                "-" if saved is None else f"{saved:g} %",
                _signed(epoch_time(comparison, result), plus=True),
                "-" if time is None else f"{time:+.0f} %",
            ]
        )
    return aligned(table)


def _signed(value: float | None, plus: bool = False) -> str:
    if value is None:
        return "-"
    return f"{value:{'+' if plus else ''}.0f} %"


def memory_saved(comparison: Comparison, result: MethodResult) -> float | None:
    """In % of end-to-end training's: measured on a GPU where that is known, else predicted."""
    base = next((r for r in comparison.methods if r.method == "end-to-end"), None)
    if base is not None and base.gpu_peak and result.gpu_peak:
        return 100 * (1 - result.gpu_peak.mean / base.gpu_peak.mean)
    whole, mine = (
        comparison.memory.get(method) for method in ("end-to-end", _method(comparison, result))
    )
    if not whole or mine is None:
        return None
    return 100 * (1 - mine / whole)


def epoch_time(comparison: Comparison, result: MethodResult) -> float | None:
    """In % more than end-to-end training's; None where modules do not train side by side."""
    base = next((r for r in comparison.methods if r.method == "end-to-end"), None)
    if base is None or not base.epoch_seconds or not result.epoch_seconds:
        return None
    if comparison.recipe["regime"] != "parallel":
        return None
    return 100 * (result.epoch_seconds.mean / base.epoch_seconds.mean - 1)


def _costs(comparison: Comparison, row: Published) -> str:
    """How memory and time were found, and the absolute figures that were published."""
    measured = any(result.gpu_peak for result in comparison.methods)
    how = "as measured on the GPU" if measured else "predicted for a step"
    parts = [
        f"Memory and time are against end-to-end training; ours {how}, weights and optimizer "
        "states included."
    ]
    whole = comparison.memory.get("end-to-end")
    if whole:
        parts.append(f"End to end, ours is predicted to take {whole / _MIB:,.0f} MiB.")
    if row.end_to_end_mib:
        parts.append(f"Published, end to end: {row.end_to_end_mib:,} MiB.")
    if row.hours:
        parts.append(f"Published: {row.hours} hours for one training on a V100 with 16 GB.")
    if row.note:
        parts.append(f"Published: {row.note}.")
    return " ".join(parts)


def beside_dict(comparison: Comparison) -> dict[str, Any] | None:
    """The same as values that JSON knows; fractions, but savings and times in %."""
    row = comparison.published
    if row is None:
        return None

    def interval(value: Interval | None) -> float | None:
        return None if value is None else value.mean

    methods = {}
    for result in comparison.methods:
        accuracy = published_of(comparison, result, row)
        method = _method(comparison, result)
        methods[result.method] = {
            "published_accuracy": accuracy and accuracy.mean,
            "published_half_width": accuracy and accuracy.half_width,
            "honest": interval(result.last),
            "chosen_on_validation": interval(result.best),
            "optimistic": interval(
                result.optimistic_last if row.metric == "last" else result.optimistic
            ),
            "memory_saved_percent": memory_saved(comparison, result),
            "published_memory_saved_percent": row.memory_saved.get(method),
            "epoch_time_percent_more": epoch_time(comparison, result),
            "published_epoch_time_percent_more": row.time(method),
        }
    return {
        "row": row.name,
        "source": row.place,
        "metric": row.metric,
        "runs": row.runs,
        "end_to_end_cited": row.cited,
        "end_to_end_mib": row.end_to_end_mib,
        "hours": row.hours,
        "note": row.note,
        "predicted_bytes": dict(comparison.memory),
        "methods": methods,
        "settings_of_ours": flagged(comparison),
        "notes": notes(comparison, row),
    }
