"""Pictures: one file each. A picture is a figure of plotly as plain data; the page's script fills in two things.

A text ``var(--name)`` is a colour of the page's style, so that a picture follows light, dark and paper. ``{"$": "d"}``
is the vector of that name of the layer that is looked at, ``{"$rows": "d"}`` those of all layers, ``{"$lines": "d"}``
the same as one line with gaps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bninspect.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bninspect.render._view import Table

COLOURS = tuple(f"var(--line{number})" for number in range(1, 7))
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "x", "star")  # with 6 colours, 42 marks

_EACH = 12  # so many layers have a number each


class Picture(NamedTuple):
    """A figure, and the same in words: a caption, and a table of its numbers.

    ``choices`` are other things that it may show: a label, and for each of the first traces the attributes that change.
    ``follows`` tells that something in it is of the layer that is looked at.
    ``table`` is ``None`` where the page has its numbers in another table, which ``caption`` names.
    """

    key: str
    title: str
    caption: str
    traces: tuple[dict[str, Any], ...]
    layout: dict[str, Any]
    table: Table | None = None
    choices: tuple[tuple[str, tuple[dict[str, Any], ...]], ...] = ()
    height: int = 320
    follows: bool = False

    def data(self) -> dict[str, Any]:
        """What the page's script reads."""
        choices = [patch for _, patch in self.choices]
        return {
            "key": self.key,
            "traces": self.traces,
            "layout": self.layout,
            "choices": choices,
            "follows": self.follows,
        }


def label(text: str) -> str:
    """A name where plotly would take it for markup."""
    shown = printable(text)
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def numbers(values: Iterable[float | None]) -> list[float | None]:
    """Figures as JSON has them: what is not finite is left out."""
    return [None if value is None or not np.isfinite(value) else float(value) for value in values]


def line(y: float, colour: str, axis: str = "y") -> dict[str, Any]:
    """A horizontal line across a figure: a bound of a rule."""
    style = {"color": f"var(--{colour})", "width": 1, "dash": "dash" if colour == "warning" else "dot"}
    return {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "yref": axis, "y0": y, "y1": y, "line": style}


def colorbar(name: str) -> dict[str, Any]:
    """What the colours of a heat map say."""
    return {"thickness": 12, "outlinewidth": 0, "title": {"text": label(name), "side": "right"}}


def rows_axis(count: int) -> dict[str, Any]:
    """Layers from the top down, counted from 1."""
    axis = {"title": {"text": "layer"}, "range": [count + 0.5, 0.5], "zeroline": False}
    return {**axis, "dtick": 1} if count <= _EACH else axis


def layers_axis(count: int) -> dict[str, Any]:
    """Layers in the order of the report, counted from 1."""
    axis = {"title": {"text": "layer, in the order of the report"}, "range": [0.5, count + 0.5], "zeroline": False}
    return {**axis, "dtick": 1} if count <= _EACH else axis
