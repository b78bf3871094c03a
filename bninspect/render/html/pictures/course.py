"""All layers of a training run as lines over its steps: |d| and r, what most layers do, one layer, and alarms above."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bninspect.render._view import Column, Table, number
from bninspect.render.html.pictures import COLOURS, DASHES, Picture, label, line
from bninspect.report import bounds
from bninspect.report.judged import SHARES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bninspect.report import Alarm
    from bninspect.report.course import WatchCourse
    from bninspect.report.header import Float64

_SHOWN = (
    ("medians over channels", "d_median", "r_median"),
    ("the largest over channels", "d_max", "r_max"),
    ("the largest |d|, the smallest r", "d_max", "r_min"),
)
_SYMBOLS = {"error": "x", "warning": "triangle-up", "info": "circle-open"}
_PLOT, _ROW, _REST = 440, 22, 110  # pixels: of d and r, of a code with alarms, of axes and legend
_GAP = 8  # pixels between alarms and |d|
_MOST = 60  # steps with alarms that have a line each
_MANY = 100  # layers, whose lines are paler
_NAMED = 3  # layers that a mark names


def lines(course: WatchCourse) -> Picture:
    """|d| and r, each with a thin line a layer, the median and the band of 5 to 95 % over layers."""
    codes = sorted({alarm.code for alarm in course.report.alarms})
    height = _PLOT + _ROW * len(codes) + _REST
    top = 1 - (_ROW * len(codes) + _GAP * bool(codes)) / (height - _REST)
    choices = tuple((name, (*_figures(course, d), *_figures(course, r))) for name, d, r in _SHOWN)
    traces = [*_traces(course, "y", "|d|"), *_traces(course, "y2", "r")]
    return Picture(
        key="course",
        title="All layers over the steps of the run",
        caption=_caption(course, alarms=bool(codes)),
        traces=(*({**trace, **own} for trace, own in zip(traces, choices[0][1], strict=True)), *_alarms(course)),
        layout=_layout(course.report.alarms, codes, top),
        table=_table(course),
        choices=choices,
        height=height,
        follows=True,
    )


def runs(courses: Sequence[WatchCourse], labels: Sequence[str]) -> Picture:
    """Several runs: of each, the median over layers of |d| and of r."""
    choices = tuple(
        (name, tuple({"y": over_layers(one.figures[field])[1].tolist()} for one in courses for field in (d, r)))
        for name, d, r in _SHOWN
    )
    traces = [_median(one, name, at, axis) for at, (one, name) in enumerate(zip(courses, labels, strict=True))
              for axis in ("y", "y2")]  # fmt: skip
    return Picture(
        key="runs",
        title="What most layers did in each run",
        caption="A line is the median over the layers of a run, of |d| above and of r below. Dashed, straight: |d| = "
        f"{bounds.D:g}, and r = {bounds.R:g} either way. When each alarm came first is in the table of what differs.",
        traces=tuple({**trace, **own} for trace, own in zip(traces, choices[0][1], strict=True)),
        layout=_layout([], [], 1),
        choices=choices,
        height=_PLOT + _REST,
    )


def _median(course: WatchCourse, name: str, at: int, axis: str) -> dict[str, Any]:
    style = {"color": COLOURS[at % len(COLOURS)], "dash": DASHES[at % len(DASHES)], "width": 2}
    return {
        "type": "scatter", "mode": "lines", "yaxis": axis, "x": list(course.steps), "name": label(name), "line": style,
        "showlegend": axis == "y", "legendgroup": label(name),
        "hovertemplate": "%{fullData.name}<br>step %{x}: %{y:.4g}<extra></extra>",
    }  # fmt: skip


def _caption(course: WatchCourse, *, alarms: bool) -> str:
    kept = len(course.steps)
    marks = " Marks on top are alarms, each row a rule." if alarms else ""
    some = f" {kept:,} of {course.records:,} records are drawn." if kept < course.records else ""
    return (
        "A thin line is a layer; a click on one makes it the thick line, whose own pictures are below. The band has 5 "
        "to 95 % of the layers. |d| and r are of the batch of a step against the statistics before it; dashed: |d| = "
        f"{bounds.D:g}, and r = {bounds.R:g} either way.{marks}{some}"
    )


def _traces(course: WatchCourse, axis: str, what: str) -> list[dict[str, Any]]:
    """In the order of :func:`_figures`."""
    first = axis == "y"
    hover = f"<br>step %{{x}}: {what} %{{y:.4g}}<extra></extra>"
    own = {"type": "scatter", "mode": "lines", "yaxis": axis, "x": list(course.steps), "showlegend": False}
    edge = {**own, "line": {"width": 0, "color": COLOURS[0]}, "hoverinfo": "skip"}
    every = {
        "x": {"$lines": "number"}, "text": {"$each": "label"}, "layers": {"$each": "path"}, "name": "a layer",
        "line": {"width": 0.75, "color": "var(--soft)"}, "opacity": 0.45 if len(course.paths) < _MANY else 0.25,
        "legendgroup": "each", "legendrank": 1001, "showlegend": first, "hovertemplate": f"%{{text}}{hover}",
    }  # fmt: skip
    middle = {
        "line": {"width": 2, "dash": "dash", "color": COLOURS[0]}, "name": "median over layers",
        "legendgroup": "median", "showlegend": first, "hovertemplate": f"median over layers{hover}",
    }  # fmt: skip
    chosen = {
        "x": {"$": "number"}, "line": {"width": 2.5, "color": COLOURS[1]}, "name": {"$own": "label"},
        "legendgroup": "chosen", "showlegend": first, "hovertemplate": f"%{{fullData.name}}{hover}",
    }  # fmt: skip
    band = {**edge, "fill": "tonexty", "fillcolor": "var(--band1)"}
    return [{**own, **every}, edge, band, {**own, **middle}, {**own, **chosen}]


def _figures(course: WatchCourse, field: str) -> tuple[dict[str, Any], ...]:
    low, middle, high = (row.tolist() for row in over_layers(course.figures[field]))
    return {"y": {"$lines": field}}, {"y": low}, {"y": high}, {"y": middle}, {"y": {"$": field}}


def over_layers(figures: Float64) -> Float64:
    """The 5 %, 50 % and 95 % quantiles over the layers whose figure is known ``[3, steps]``; NaN where none is."""
    found = np.full((len(SHARES), len(figures)), np.nan)
    known = np.isfinite(figures)
    for row in np.flatnonzero(known.any(axis=1)):
        found[:, row] = np.quantile(figures[row, known[row]], SHARES)
    return found


def _alarms(course: WatchCourse) -> list[dict[str, Any]]:
    """A mark for each alarm, in the row of its rule."""
    traces = []
    for level, symbol in _SYMBOLS.items():
        own = [alarm for alarm in course.report.alarms if alarm.severity == level]
        marker = {"symbol": symbol, "size": 9, "color": f"var(--{level})"}
        if own:
            traces.append(
                {"type": "scatter", "mode": "markers", "yaxis": "y3", "name": label(level), "marker": marker,
                 "x": [alarm.step for alarm in own], "y": [alarm.code for alarm in own], "showlegend": True,
                 "text": [label(_told(alarm)) for alarm in own], "cliponaxis": False,
                 "layers": [next((place.path for place in alarm.layers), None) for alarm in own],
                 "hovertemplate": "step %{x}: %{y}<br>%{text}<extra></extra>"}
            )  # fmt: skip
    return traces


def _told(alarm: Alarm) -> str:
    names = ", ".join(place.path for place in alarm.layers[:_NAMED])
    more = f" and {len(alarm.layers) - _NAMED} more" if len(alarm.layers) > _NAMED else ""
    return f"{alarm.message}{f' ({names}{more})' if names else ''}"


def _layout(alarms: Sequence[Alarm], codes: list[str], top: float) -> dict[str, Any]:
    """Alarms in a strip above ``top``, |d| and r below it."""
    middle = top / 2
    steps = sorted({alarm.step for alarm in alarms})[:_MOST]
    style = {"color": "var(--error)", "width": 0.75, "dash": "dot"}
    across = {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "xref": "x", "line": style}
    limits = ((bounds.D, "y"), (bounds.R, "y2"), (1 / bounds.R, "y2"))
    strip = {
        "type": "category", "categoryorder": "array", "categoryarray": codes[::-1],
        "range": [-0.5, len(codes) - 0.5], "domain": [top + _GAP / _PLOT, 1],
    }  # fmt: skip
    return {
        "xaxis": {"title": {"text": "step"}, "zeroline": False, "anchor": "y2"},
        "yaxis": {"title": {"text": "|d|"}, "type": "log", "domain": [middle + 0.03, top]},
        "yaxis2": {"title": {"text": "r"}, "type": "log", "domain": [0, middle - 0.03]},
        **({"yaxis3": strip} if codes else {}),
        "shapes": [
            *({**across, "x0": step, "x1": step} for step in steps),
            *(line(y, "warning", axis) for y, axis in limits),
        ],
        "hovermode": "closest",
    }


def _table(course: WatchCourse) -> Table | None:
    """The alarms; the figures of each layer are in its panel."""
    if not course.report.alarms:
        return None
    words = (Column(head, "left") for head in ("rule", "severity", "what"))
    rows = tuple(
        (number(alarm.step), alarm.code, alarm.severity, _told(alarm), number(len(alarm.layers)))
        for alarm in course.report.alarms
    )
    return Table((Column("step"), *words, Column("layers")), rows)
