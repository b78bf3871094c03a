"""How far running statistics are from those of the batch, layer by layer: d above, r below."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bninspect.render._view import Column, Table, number
from bninspect.render.html.pictures import COLOURS, DASHES, SYMBOLS, Picture, label, layers_axis, line, numbers
from bninspect.report import bounds
from bninspect.report.judged import Measured, measured

if TYPE_CHECKING:
    from bninspect.report import StatsLayer, StatsReport

_ROOM = 1.15  # a picture ends a little beyond its figures
_HEADS = ("d: 5 %", "d: median", "d: 95 %", "r: 5 %", "r: median", "r: 95 %")
_WHOLE = ("|d| median", "|d| max", "r min", "r median", "r max")


class Line(NamedTuple):
    """One report in the picture: a name, where there are several, and the figures of its layers.

    ``detailed`` tells that these are of channels; else the report had no more than the median of ``|d|``, the most of
    it, and the range of r.
    """

    layers: tuple[Measured, ...]
    detailed: bool = True
    name: str = ""


def of_stats(report: StatsReport, name: str = "") -> Line:
    """What a report of stats has to show."""
    if all(layer.channels is not None for layer in report.layers):
        return Line(tuple(map(measured, report.layers)), name=name)
    return Line(tuple(map(_aggregates, report.layers)), detailed=False, name=name)


def _aggregates(layer: StatsLayer) -> Measured:
    """The band of ``|d|`` begins at its median."""
    d, r = (layer.d_median, layer.d_median, layer.d_max), (layer.r_min, layer.r_median, layer.r_max)
    return Measured(path=layer.path or layer.kind, d=d, r=r)


def depth(*lines: Line) -> Picture:
    """The median and the band of 5 to 95 % over channels; of a report without channels, what it has of each layer."""
    traces = [trace for index, found in enumerate(lines) for trace in _traces(found, index)]
    detailed = all(found.detailed for found in lines)
    return Picture(
        key="depth",
        title="How far running statistics are from those of the batch",
        caption=_caption(detailed=detailed),
        traces=tuple(traces),
        layout=_layout(max(len(found.layers) for found in lines), traces),
        table=_table(lines[0]) if len(lines) == 1 else None,
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


def _traces(found: Line, index: int) -> list[dict[str, Any]]:
    paths = [layer.path for layer in found.layers]
    colour = COLOURS[index % len(COLOURS)]
    traces = []
    for axis, what in (("y", "d"), ("y2", "r")):
        low, middle, high = (numbers(getattr(layer, what)[part] for layer in found.layers) for part in range(3))
        own = {
            "x": list(range(1, len(paths) + 1)), "yaxis": axis, "text": list(map(label, paths)), "layers": paths,
            "legendgroup": found.name or what,
        }  # fmt: skip
        edge = {**own, "mode": "lines", "line": {"width": 0.5, "color": colour}, "showlegend": False}
        traces += [
            {**edge, "y": low, "hoverinfo": "skip"},
            {**edge, "y": high, "fill": "tonexty", "fillcolor": f"var(--band{index % len(COLOURS) + 1})",
             "hovertemplate": f"%{{text}}<br>{what}: up to %{{y:.4g}}<extra></extra>"},
            {**own, "y": middle, "mode": "lines+markers", "name": label(found.name) or what,
             "showlegend": bool(found.name) and what == "d",
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


def _table(found: Line) -> Table:
    first = 0 if found.detailed else 1  # which is the median again
    rows = [(layer.path, *map(number, (*layer.d[first:], *layer.r))) for layer in found.layers]
    return Table((Column("layer", "left"), *map(Column, _HEADS if found.detailed else _WHOLE)), tuple(rows))
