"""Which rule found something in which layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bninspect.render._view import Column, Table
from bninspect.render.html.pictures import Picture, label, layers_axis

if TYPE_CHECKING:
    from bninspect.report import CheckReport

LEVELS = ("error", "warning", "info")
_SYMBOLS = {"error": "x", "warning": "triangle-up", "info": "circle-open"}
_ROW = 26  # pixels of a rule
_REST = 130  # pixels of axes and legend


def findings(report: CheckReport) -> Picture:
    """A mark for each layer and rule; what is of the model as a whole has no mark."""
    places = [place.path for finding in report.findings for place in finding.layers]
    paths = list(dict.fromkeys([*(layer.path for layer in report.layers), *places]))
    codes = sorted({finding.code for finding in report.findings if finding.layers})
    rows = []
    traces = []
    for level in LEVELS:
        marks = [
            (paths.index(place.path) + 1, finding.code, place.path, place.told)
            for finding in report.findings
            if finding.severity == level
            for place in finding.layers
        ]
        rows += [(code, level, path, told or "-") for _, code, path, told in marks]
        if marks:
            traces.append(_trace(level, marks))
    heads = (Column("rule", "left"), Column("severity", "left"), Column("layer", "left"), Column("how much", "left"))
    return Picture(
        key="findings",
        title="Where the findings are",
        caption="A column is a layer, in the order of the model; a row is a rule. "
        "A click on a mark leads to the layer.",
        traces=tuple(traces),
        layout={
            "xaxis": layers_axis(len(paths)),
            "yaxis": {"type": "category", "categoryorder": "array", "categoryarray": codes[::-1]},
            "hovermode": "closest",
        },
        table=Table(heads, tuple(rows)),
        height=_REST + _ROW * len(codes),
    )


def _trace(level: str, marks: list[tuple[int, str, str, str]]) -> dict[str, Any]:
    return {
        "type": "scatter", "mode": "markers", "name": level, "showlegend": True,
        "x": [x for x, *_ in marks], "y": [code for _, code, *_ in marks],
        "text": [label(f"{path}: {told}" if told else path) for *_, path, told in marks],
        "layers": [path for *_, path, _ in marks],
        "marker": {"symbol": _SYMBOLS[level], "color": f"var(--{level})", "size": 9},
        "hovertemplate": "%{y}<br>%{text}<extra></extra>",
    }  # fmt: skip
