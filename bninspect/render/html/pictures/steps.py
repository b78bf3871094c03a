"""A training run over its steps: all layers at once, and one layer by itself; alarms as marks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bninspect.render.html.pictures import COLOURS, DASHES, SYMBOLS, Picture, colorbar, label, rows_axis
from bninspect.report import bounds

if TYPE_CHECKING:
    from bninspect.report.course import WatchCourse

_AXIS = {"title": {"text": "step"}, "zeroline": False}
_MARKED = 60  # steps that have a mark each
_SCALE = [[0, "var(--middle)"], [1, "var(--high)"]]
_BOTH = [[0, "var(--low)"], [0.5, "var(--middle)"], [1, "var(--high)"]]


def whole(course: WatchCourse) -> Picture:
    """Layers by steps, with a mark for each alarm of a layer."""
    choices = (
        _choice(course, "|d| median", "d_median", bounds.D_BROKEN),
        _choice(course, "|d| max", "d_max", bounds.D_BROKEN),
        _choice(course, "log2 r, median", "log_r_median", float(np.log2(bounds.R_BROKEN)), signed=True),
        _choice(course, "speed of running_mean", "speed", None),
    )
    map_ = {
        "type": "heatmap", "x": list(course.steps), "y0": 1, "names": [label(path) for path in course.paths],
        "layers": list(course.paths),
        "hovertemplate": "%{customdata}<br>step %{x}: %{z:.4g}<extra></extra>", "zsmooth": False,
        **choices[0][1][0],
    }  # fmt: skip
    kept = len(course.steps)
    some = f" {kept:,} of {course.records:,} records are shown." if kept < course.records else ""
    return Picture(
        key="steps",
        title="Each layer over the steps of the run",
        caption="A row is a layer, the first one on top; a cross is an alarm, at its step. A row is empty where a step "
        f"updated no statistics, or no figure was finite.{some} The numbers of a row are in the panel of its layer.",
        traces=(map_, _alarms(course)),
        layout={
            "xaxis": {**_AXIS, "showgrid": False},
            "yaxis": {**rows_axis(len(course.paths)), "showgrid": False},
            "hovermode": "closest",
        },
        choices=choices,
        height=480,
    )


def _choice(
    course: WatchCourse, name: str, field: str, most: float | None, *, signed: bool = False
) -> tuple[str, tuple[dict[str, Any]]]:
    with np.errstate(divide="ignore"):
        figures = np.abs(np.log2(course.figures["r_median"])) if signed else course.figures[field]
    known = figures[np.isfinite(figures)]
    end = float(np.quantile(known, 0.99)) if known.size else 1.0
    end = (min(end, most) if most else end) or 1.0
    scale = {"colorscale": _BOTH, "zmin": -end} if signed else {"colorscale": _SCALE, "zmin": 0}
    return name, ({"z": {"$rows": field}, "zmax": end, "colorbar": colorbar(name), **scale},)


def _alarms(course: WatchCourse) -> dict[str, Any]:
    marks = [
        (alarm.step, course.paths.index(place.path) + 1, f"{alarm.code}: {alarm.message}", place.path)
        for alarm in course.report.alarms
        for place in alarm.layers
        if place.path in course.paths
    ]
    return {
        "type": "scatter", "mode": "markers", "x": [mark[0] for mark in marks], "y": [mark[1] for mark in marks],
        "text": [label(f"{path}: {told}") for *_, told, path in marks], "layers": [path for *_, path in marks],
        "marker": {"symbol": "x", "size": 9, "color": "var(--error)", "line": {"color": "var(--paper)", "width": 1}},
        "hovertemplate": "%{text}<br>step %{x}<extra></extra>", "showlegend": False,
    }  # fmt: skip


def of_layer(steps: int) -> tuple[Picture, ...]:
    """d, r and the speed of one layer over the steps; of many steps, lines without marks."""
    mode = "lines+markers" if steps <= _MARKED else "lines"
    return (
        _curves("d", "|d| over the steps", ("d_median", "d_max"), "zero", mode, unit="|d|"),
        _curves("r", "r over the steps", ("r_min", "r_median", "r_max"), "one", mode, unit="r", log=True),
        _curves("speed", "What a step adds to running_mean", ("speed",), "zero", mode, unit="running deviations"),
    )


def _curves(
    key: str, title: str, fields: tuple[str, ...], level: str, mode: str, *, unit: str, log: bool = False
) -> Picture:
    """Alarms are crosses on the line of a figure that is as it should be."""
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter", "mode": mode, "name": field, "x": {"$": "number"}, "y": {"$": field},
            "line": {"color": COLOURS[at], "dash": DASHES[at], "width": 1.5}, "showlegend": True,
            "marker": {"size": 4, "symbol": SYMBOLS[at], "color": COLOURS[at]},
            "hovertemplate": "step %{x}: %{y:.4g}<extra>%{fullData.name}</extra>",
        }
        for at, field in enumerate(fields)
    ]  # fmt: skip
    traces.append(
        {
            "type": "scatter", "mode": "markers", "name": "alarm", "x": {"$own": "alarms"}, "y": {"$own": level},
            "text": {"$own": "codes"}, "hovertemplate": "step %{x}: %{text}<extra></extra>", "showlegend": False,
            "marker": {"symbol": "x", "size": 9, "color": "var(--error)"},
        }
    )  # fmt: skip
    return Picture(
        key=key,
        title=title,
        caption="A cross is an alarm of this layer.",
        traces=tuple(traces),
        layout={
            "xaxis": _AXIS,
            "yaxis": {"title": {"text": unit}, "type": "log" if log else "linear", "zeroline": False},
        },
    )
