"""How far running statistics are from those of the batch, layer by layer: d above, r below."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bninspect.render._view import Column, Table, number
from bninspect.render.html.pictures import COLOURS, DASHES, SYMBOLS, Picture, label, layers_axis, line, numbers
from bninspect.report import bounds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bninspect.report import StatsLayer, StatsReport

_ROOM = 1.15  # a picture ends a little beyond its figures
_HEADS = ("d: 5 %", "d: median", "d: 95 %", "r: 5 %", "r: median", "r: 95 %")
_WHOLE = ("|d| median", "|d| max", "r min", "r median", "r max")


def depth(reports: Sequence[StatsReport], names: Sequence[str] = ()) -> Picture:
    """Median and the band of 5 to 95 % over channels; of a report without channels, what it has of each layer."""
    detailed = all(layer.channels is not None for report in reports for layer in report.layers)
    traces: list[dict[str, Any]] = []
    for index, report in enumerate(reports):
        curves = [(_quantiles if detailed else _aggregates)(layer) for layer in report.layers]
        traces += _traces(report, curves, index, names[index] if names else "")
    count = max((len(report.layers) for report in reports), default=0)
    return Picture(
        key="depth",
        title="How far running statistics are from those of the batch",
        caption=_caption(detailed=detailed),
        traces=tuple(traces),
        layout=_layout(count, traces),
        table=_table(reports[0], detailed=detailed) if len(reports) == 1 else None,
        height=480,
    )


def _caption(*, detailed: bool) -> str:
    what = "The median over channels, and the band of 5 to 95 % of them" if detailed else (
        "The median and the largest |d|, and the range of r, over channels (a report with --channels has their bands)"
    )  # fmt: skip
    return (
        f"{what}. d: by how many running deviations the mean is off. r: the quotient of deviations. Dashed and dotted "
        f"lines: from |d| = {bounds.D:g} and r = {bounds.R:g}, either way, rules warn; from {bounds.D_BROKEN:g} and "
        f"{bounds.R_BROKEN:g} the layer is broken."
    )


def _quantiles(layer: StatsLayer) -> tuple[float | None, ...]:
    assert layer.channels is not None
    return (*_three(layer.channels.d), *_three(layer.channels.r))


def _three(vector: Any) -> tuple[float | None, ...]:
    known = [] if vector is None else vector[np.isfinite(vector)]
    return tuple(np.quantile(known, (0.05, 0.5, 0.95)).tolist()) if len(known) else (None, None, None)


def _aggregates(layer: StatsLayer) -> tuple[float | None, ...]:
    """The band of |d| begins at its median."""
    return layer.d_median, layer.d_median, layer.d_max, layer.r_min, layer.r_median, layer.r_max


def _traces(report: StatsReport, curves: list[tuple[float | None, ...]], index: int, name: str) -> list[dict[str, Any]]:
    x = list(range(1, len(curves) + 1))
    paths = [layer.path or layer.kind for layer in report.layers]
    texts = [label(path) for path in paths]
    traces = []
    for axis, what, at in (("y", "d", 0), ("y2", "r", 3)):
        low, middle, high = (numbers(curve[at + part] for curve in curves) for part in range(3))
        own = {"x": x, "yaxis": axis, "text": texts, "layers": paths, "legendgroup": name or what}
        colour = COLOURS[index % len(COLOURS)]
        edge = {**own, "mode": "lines", "line": {"width": 0.5, "color": colour}, "showlegend": False}
        traces += [
            {**edge, "y": low, "hoverinfo": "skip"},
            {**edge, "y": high, "fill": "tonexty", "fillcolor": f"var(--band{index % len(COLOURS) + 1})",
             "hovertemplate": f"%{{text}}<br>{what}: up to %{{y:.4g}}<extra></extra>"},
            {**own, "y": middle, "mode": "lines+markers", "name": label(name) or what,
             "showlegend": bool(name) and at == 0,
             "line": {"color": colour, "dash": DASHES[index % len(DASHES)], "width": 1.5},
             "marker": {"symbol": SYMBOLS[index % len(SYMBOLS)], "size": 6},
             "hovertemplate": f"%{{text}}<br>{what}: median %{{y:.4g}}<extra></extra>"},
        ]  # fmt: skip
    return traces


def _layout(count: int, traces: list[dict[str, Any]]) -> dict[str, Any]:
    d = [value for trace in traces if trace["yaxis"] == "y" for value in trace["y"] if value is not None]
    r = [value for trace in traces if trace["yaxis"] == "y2" for value in trace["y"] if value]
    most = max(map(abs, d), default=0) * _ROOM
    least = 0 if min(d, default=0) >= 0 else -max(most, bounds.D * _ROOM)
    low, high = min([*r, 1 / bounds.R]) / _ROOM, max([*r, bounds.R]) * _ROOM
    lines = [(bounds.D, "warning", "y"), (bounds.D_BROKEN, "error", "y")]
    ratios = [(bounds.R, "warning", "y2"), (bounds.R_BROKEN, "error", "y2")]
    shown = [*lines, *((-y, colour, axis) for y, colour, axis in lines)]
    shown += [*ratios, *((1 / y, colour, axis) for y, colour, axis in ratios)]
    highest = {"y": max(most, bounds.D * _ROOM), "y2": high}
    lowest = {"y": least, "y2": low}
    return {
        "xaxis": {**layers_axis(count), "anchor": "y2"},
        "yaxis": {"title": {"text": "d"}, "domain": [0.54, 1], "range": [least, highest["y"]]},
        "yaxis2": {
            "title": {"text": "r"}, "domain": [0, 0.46], "type": "log", "range": [np.log10(low), np.log10(high)],
        },
        "shapes": [line(y, colour, axis) for y, colour, axis in shown if lowest[axis] <= y <= highest[axis]],
        "hovermode": "closest",
    }  # fmt: skip


def _table(report: StatsReport, *, detailed: bool) -> Table:
    heads = _HEADS if detailed else _WHOLE
    rows = []
    for layer in report.layers:
        figures = _quantiles(layer) if detailed else _aggregates(layer)[1:]
        rows.append((layer.path or layer.kind, *map(number, figures)))
    return Table((Column("layer", "left"), *map(Column, heads)), tuple(rows))
