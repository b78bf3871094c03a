"""The channels of one layer: running against batch statistics, and how d and gamma are spread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bninspect.render.html.pictures import Picture
from bninspect.report import bounds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bninspect.report import StatsLayer
    from bninspect.report.judged import Judged

_HOVER = "channel %{customdata}<br>%{xaxis.title.text}: %{x:.4g}<br>%{yaxis.title.text}: %{y:.4g}<extra></extra>"

_TITLES = {"d": "d", "weight": "Weight (gamma)", "bias": "Bias (beta)"} | {
    name: name for name in ("running_mean", "running_var")
}
_MEASURED = ("mean", "var", "weight", "running_mean", "running_var", "d", "z")
_HALVES = {f"{whole}.5": "" for whole in range(10)}  # of a channel there are none
_STORED = ("running_mean", "running_var", "weight", "bias")
_DEAD = {"$dead": bounds.DEAD, "yes": "x", "no": "circle"}


def channels(layers: Sequence[StatsLayer | Judged]) -> tuple[Picture, ...]:
    """Pictures of a layer, whichever the report holds the vectors for."""
    held = [layer.channels for layer in layers if layer.channels is not None]
    known = {name for found in held for name in found.__struct_fields__ if getattr(found, name) is not None}
    dead = {"weight", "var"} <= known
    pictures = []
    if {"mean", "running_mean"} <= known:
        pictures.append(against("mean", "running_mean", "mean", "Means: running against batch", dead=dead))
    if {"var", "running_var"} <= known:
        pictures.append(against("var", "running_var", "var", "Variances: running against batch", log=True, dead=dead))
    spreads = ("d", "weight") if "mean" in known else _STORED
    return (*pictures, *(spread(name, name, f"{_TITLES[name]} over channels") for name in spreads if name in known))


def fields(layers: Sequence[StatsLayer | Judged]) -> tuple[str, ...]:
    """The vectors that the pictures and tables of a layer show; r follows from these."""
    measured = any(layer.channels is not None and layer.channels.mean is not None for layer in layers)
    return ("index", *(_MEASURED if measured else _STORED))


def against(key: str, x: str, y: str, title: str, *, log: bool = False, dead: bool = False) -> Picture:
    """Two figures of each channel against each other, and the line where they are equal."""
    scale = {"type": "log"} if log else {}
    points = {
        "type": "scatter", "mode": "markers", "x": {"$": x}, "y": {"$": y}, "customdata": {"$": "number"},
        "marker": {"color": "var(--line1)", "size": 5, "opacity": 0.7, "symbol": _DEAD if dead else "circle"},
        "hovertemplate": _HOVER,
    }  # fmt: skip
    ends = {"$ends": [x, y], "log": log}
    equal = {
        "type": "scatter", "mode": "lines", "x": ends, "y": ends, "hoverinfo": "skip",
        "line": {"color": "var(--text)", "width": 1, "dash": "dot"},
    }  # fmt: skip
    return Picture(
        key=key,
        title=title,
        caption=f"A dot is a channel{', a cross a dead one' if dead else ''}; on the dotted line both are equal.",
        traces=(equal, points),
        layout=_axes({"title": {"text": x}, **scale}, {"title": {"text": y}, **scale}),
    )


def spread(key: str, field: str, title: str) -> Picture:
    """How many channels have which value."""
    bars = {
        "type": "histogram", "x": {"$": field}, "marker": {"color": "var(--line1)", "line": {"width": 0}},
        "nbinsx": 60, "hovertemplate": "%{x}: %{y} channels<extra></extra>",
    }  # fmt: skip
    return Picture(
        key=key,
        title=title,
        caption="The height of a bar is a number of channels.",
        traces=(bars,),
        layout=_axes({"title": {"text": field}}, {"title": {"text": "channels"}, "labelalias": _HALVES}),
    )


def _axes(x: dict[str, Any], y: dict[str, Any]) -> dict[str, Any]:
    return {"xaxis": {**x, "zeroline": False}, "yaxis": {**y, "zeroline": False}, "showlegend": False}
