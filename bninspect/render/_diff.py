"""How a comparison is shown: one row per difference."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

from bninspect.render._view import Column, Table, View, number, plural, shape, versions

if TYPE_CHECKING:
    from bninspect.report import Difference, DiffReport, Source

_COLUMNS = (
    Column("what", "left", 1),
    Column("layer", "left"),
    Column("field", "left"),
    Column("before"),
    Column("after"),
    Column("distance"),
    Column("channels", "right", 2),
    Column("worst", "right", 3),
)
_OTHERS = ("added", "removed", "renamed")
_KINDS = 5  # that the line above the table names
_UNITS = {"std": "{} std", "ratio": "x {}", "rms": "{} rms(weight)", "of var": "{} of var", "share": "{}", None: "-"}


def view(report: DiffReport) -> View:
    """Differences of the model, then of its layers; then what a reader has to know about the two."""
    rows = tuple(map(_row, ordered(report)))
    return View(
        title=f"{_name(report.a)} compared with {_name(report.b)}",
        above=(versions(report.tool), _how(report), *_how_far(report)),
        tables=(Table(columns=_COLUMNS, rows=rows),) if rows else (),
        below=(verdict(report), *_drift(report), *(f"Note: {note}" for note in report.notes)),
    )


def ordered(report: DiffReport) -> list[Difference]:
    """Differences as the table lists them, the largest first."""
    return sorted(report.differences, key=_size, reverse=True)


def _name(source: Source) -> str:
    model = source.model or "layers"
    return f"{model} on {source.batch}" if source.batch else model


def _how(report: DiffReport) -> str:
    limits = report.tolerance
    return (
        f"{plural(report.num_layers, 'layer')} in both; tolerance {limits.mean:g} standard deviations for means, "
        f"{limits.var:g} relative for variances"
    )


def verdict(report: DiffReport) -> str:
    """How many differences there are, in how many places."""
    if report.equal:
        return f"No difference in {plural(report.num_layers, 'layer')}."
    layers = len({difference.path for difference in report.differences})
    count = len(report.differences)
    return f"{plural(count, 'difference')} in {plural(layers, 'place')}."


def _how_far(report: DiffReport) -> tuple[str, ...]:
    """How many layers differ, in what, and how far at most."""
    if report.equal:
        return ()
    moved = [found for found in report.differences if found.path and found.what not in _OTHERS]
    kinds: dict[str, list[Difference]] = {}
    for found in sorted(moved, key=_size, reverse=True):
        kinds.setdefault(found.field or found.what, []).append(found)
    fields = [f"{kind} in {len(those):,}{_at_most(those[0])}" for kind, those in kinds.items()]
    more = f" and {len(fields) - _KINDS} more" if len(fields) > _KINDS else ""
    layers = len({found.path for found in moved})
    others = Counter(found.what if found.path else "of the model" for found in report.differences if found not in moved)
    told = [f"{layers:,} of {plural(report.num_layers, 'layer')}: {', '.join(fields[:_KINDS])}{more}"] if moved else []
    told += [f"{count:,} {what}" for what, count in others.items()]
    return (f"What differs: {'; '.join(told)}",)


def _at_most(found: Difference) -> str:
    return "" if found.unit is None else f" (up to {_distance(found).removeprefix('-')})"


def _size(found: Difference) -> float:
    """How large a difference is: layers and settings that are others come first, and counters last."""
    if found.field == "num_batches_tracked":
        return -1
    if found.unit is None or found.distance is None:
        return math.inf
    if found.unit == "ratio":
        return abs(math.log(found.distance)) if found.distance > 0 else math.inf
    return abs(found.distance)


def _drift(report: DiffReport) -> tuple[str, ...]:
    """What layers with equal weights and other statistics tell, by whether they counted more batches."""
    updated = report.kept_updating
    others = tuple(path for path in report.statistics_only if path not in updated)
    causes = (
        (updated, "gamma and beta were frozen, and the statistics went on: each forward in train mode moved them, and "
         "num_batches_tracked grew (put frozen layers into eval mode)"),
        (others, "ranks that were not synchronised, an averaged copy whose statistics were not averaged with it, or "
         "statistics that were estimated again"),
    )  # fmt: skip
    return tuple(
        f"Weight and bias are equal and the running statistics differ in {len(names):,} of {report.num_layers:,} "
        f"layers ({_first(names)}): {cause}."
        for names, cause in causes
        if names
    )


def _first(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _row(found: Difference) -> tuple[str, ...]:
    moved = "-" if found.num_channels is None else f"{found.num_channels:,} of {found.num_features:,}"
    return (
        found.what,
        found.path or "(model)",
        found.field or "-",
        value(found.a),
        value(found.b),
        _distance(found),
        moved,
        number(found.channel),
    )


def value(entry: Any) -> str:
    """A value of a difference, as text."""
    if isinstance(entry, list):
        return shape(entry)
    return number(entry) if entry is None or isinstance(entry, (int, float)) else str(entry)


def _distance(found: Difference) -> str:
    if found.unit is None:
        return "-"
    return _UNITS[found.unit].format("NaN" if found.distance is None else f"{found.distance:.3g}")
