"""One or more figures of each layer, over the layers in the order of the report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from bninspect.render._view import Column, Table, number
from bninspect.render.html.pictures import COLOURS, DASHES, SYMBOLS, Picture, label, layers_axis, line, numbers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Curve(NamedTuple):
    """A figure by its name; ``None`` is unknown."""

    name: str
    values: tuple[float | None, ...]
    kind: str = "lines+markers"


def over_layers(
    key: str,
    title: str,
    caption: str,
    paths: Sequence[str],
    curves: Sequence[Curve],
    *,
    unit: str,
    log: bool = False,
    bounds: Sequence[tuple[float, str]] = (),
) -> Picture:
    """Curves over depth, each told apart by colour, dash and mark; bounds are lines that the figures come near."""
    traces = tuple(_trace(curve, index, paths) for index, curve in enumerate(curves))
    most = max((abs(value) for curve in curves for value in numbers(curve.values) if value is not None), default=0)
    rows = zip(*(curve.values for curve in curves), strict=True)
    return Picture(
        key=key,
        title=title,
        caption=caption,
        traces=traces,
        layout={
            "xaxis": layers_axis(len(paths)),
            "yaxis": {"title": {"text": unit}, "type": "log" if log else "linear"},
            "shapes": [line(y, colour) for y, colour in bounds if y <= 2 * most],
            "hovermode": "closest",
            "barmode": "overlay",
        },
        table=Table(
            (Column("layer", "left"), *(Column(curve.name) for curve in curves)),
            tuple((path, *map(number, row)) for path, row in zip(paths, rows, strict=True)),
        ),
    )


def over_reports(
    name: str, title: str, caption: str, reports: Mapping[str, Any], *, unit: str, log: bool = False
) -> Picture | None:
    """A figure of each layer, a curve for each report by its label; layers by their paths, those of the first first."""
    found = {
        label: {layer.path or layer.kind: getattr(layer, name) for layer in report.layers}
        for label, report in reports.items()
    }
    paths = list(dict.fromkeys(path for own in found.values() for path in own))
    curves = [Curve(label, tuple(map(own.get, paths))) for label, own in found.items()]
    return over_layers(name, title, caption, paths, curves, unit=unit, log=log) if paths else None


def _trace(curve: Curve, index: int, paths: Sequence[str]) -> dict[str, Any]:
    own: dict[str, Any] = {"type": "bar", "textposition": "none", "marker": {"color": COLOURS[index % len(COLOURS)]}}
    if curve.kind != "bar":
        line_style = {"color": COLOURS[index % len(COLOURS)], "dash": DASHES[index % len(DASHES)], "width": 1.5}
        symbol = {"symbol": SYMBOLS[index % len(SYMBOLS)], "size": 6, "color": COLOURS[index % len(COLOURS)]}
        own = {"type": "scatter", "mode": curve.kind, "line": line_style, "marker": symbol}
    return {
        **own, "x": list(range(1, len(paths) + 1)), "y": numbers(curve.values), "name": label(curve.name),
        "text": [label(path) for path in paths], "layers": list(paths), "showlegend": True,
        "hovertemplate": "%{text}<br>%{fullData.name}: %{y:.4g}<extra></extra>",
    }  # fmt: skip
