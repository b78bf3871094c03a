"""What a comparison found: how far each layer moved, and what was and is there."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from bninspect.render._view import Column, Table, number
from bninspect.render.html.pictures import COLOURS, SYMBOLS, Picture, label, layers_axis

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bninspect.report import Difference, DiffReport

_CAPTION = (
    "Of each layer and figure that differs, the channel that moved most: means in standard deviations, variances as "
    "|log2| of their quotient, weight and bias in root mean squares of the weight, noise in parts of the variance."
)


def distances(report: DiffReport) -> Picture | None:
    """Of each vector of each layer, the distance of the channel that moved most."""
    found = [one for one in report.differences if one.path and one.distance is not None and one.unit is not None]
    if not found:
        return None
    paths = list(dict.fromkeys(one.path for one in found))
    traces = []
    for index, field in enumerate(dict.fromkeys(one.field or one.what for one in found)):
        own = [one for one in found if (one.field or one.what) == field]
        traces.append(_trace(field, own, paths, index))
    return Picture(
        key="distances",
        title="How far layers moved",
        caption=f"{_CAPTION} The numbers are in the table of differences.",
        traces=tuple(traces),
        layout=_layout(paths),
    )


def _trace(field: str, own: list[Difference], paths: list[str], index: int) -> dict[str, Any]:
    return {
        **_marks(label(field), [one.path for one in own], index),
        "x": [paths.index(one.path) + 1 for one in own], "y": [far(one) or None for one in own],
    }  # fmt: skip


def _marks(name: str, paths: Sequence[str], index: int) -> dict[str, Any]:
    return {
        "type": "scatter", "mode": "markers", "name": name, "showlegend": True,
        "text": [label(path) for path in paths], "layers": list(paths),
        "marker": {"color": COLOURS[index % len(COLOURS)], "symbol": SYMBOLS[index % len(SYMBOLS)], "size": 8},
        "hovertemplate": "%{text}<br>%{fullData.name}: %{y:.4g}<extra></extra>",
    }  # fmt: skip


def _layout(paths: Sequence[str]) -> dict[str, Any]:
    return {
        "xaxis": {**layers_axis(len(paths)), "title": {"text": "layers that differ, in their order"}},
        "yaxis": {"title": {"text": "distance"}, "type": "log"},
        "hovermode": "closest",
    }


def far(found: Difference) -> float | None:
    """The distance without its direction; none of what is no number."""
    if found.unit is None or found.distance is None:
        return None
    if found.unit == "ratio":
        return abs(math.log2(found.distance)) if found.distance > 0 else None
    return abs(found.distance)


def moved_in(reports: Sequence[DiffReport], labels: Sequence[str]) -> Picture | None:
    """How far layers moved in each of several comparisons, one figure at a time."""
    moved = [
        {(one.path, one.field or one.what): far(one) for one in report.differences if one.path} for report in reports
    ]
    known = [key for own in moved for key, value in own.items() if value]
    if not known:
        return None
    paths = list(dict.fromkeys(path for path, _ in known))
    places = list(range(1, len(paths) + 1))
    choices = tuple(
        (field, tuple({"x": places, "y": [own.get((path, field)) or None for path in paths]} for own in moved))
        for field in dict.fromkeys(field for _, field in known)
    )
    return Picture(
        key="moved",
        title="How far layers moved in each comparison",
        caption=f"{_CAPTION} The numbers are in the table of what differs.",
        traces=tuple({**_marks(label(name), paths, at), **choices[0][1][at]} for at, name in enumerate(labels)),
        layout=_layout(paths),
        choices=choices,
    )


def before_after(report: DiffReport) -> Picture | None:
    """The values of one field, before and after, layer by layer."""
    fields: dict[str, list[Difference]] = {}
    for one in report.differences:
        if one.path and _is_number(one.a) and _is_number(one.b):
            fields.setdefault(one.field or one.what, []).append(one)
    if not fields:
        return None
    choices = tuple((field, (_pair(found),)) for field, found in sorted(fields.items(), key=_layers, reverse=True))
    heads = (Column("layer", "left"), Column("field", "left"), Column("before"), Column("after"))
    rows = tuple((one.path, field, number(one.a), number(one.b)) for field, found in fields.items() for one in found)
    trace = {"type": "scatter", "mode": "lines+markers", "line": {"color": "var(--soft)", "width": 1}}
    return Picture(
        key="before-after",
        title="Before and after",
        caption="A line is a layer that differs: from its value before (a ring) to that after (a dot); of a vector, "
        "that of the channel that moved most.",
        traces=({**trace, **choices[0][1][0]},),
        layout={
            "xaxis": {"title": {"text": "layers that differ in this"}, "zeroline": False, "tickformat": "d"},
            "yaxis": {"title": {"text": "value"}},
            "hovermode": "closest",
        },
        table=Table(heads, rows),
        choices=choices,
    )


def _layers(entry: tuple[str, list[Difference]]) -> tuple[bool, int]:
    """Those of most layers first, and counters last."""
    field, found = entry
    return field != "num_batches_tracked", len(found)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _pair(found: list[Difference]) -> dict[str, Any]:
    """Three points a layer: before, after, and a gap."""
    x = [place for at in range(1, len(found) + 1) for place in (at, at, None)]
    y = [value for one in found for value in (one.a, one.b, None)]
    names = [label(one.path) for one in found for _ in range(3)]
    return {
        "x": x, "y": y, "text": names, "layers": [one.path for one in found for _ in range(3)],
        "marker": {
            "size": 7, "symbol": ["circle-open", "circle", "circle"] * len(found),
            "color": [*[COLOURS[1], COLOURS[0], COLOURS[0]] * len(found)],
        },
        "hovertemplate": "%{text}: %{y:.4g}<extra></extra>",
    }  # fmt: skip
