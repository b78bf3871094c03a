"""A table whose rows are of layers, and lead to them."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bninspect.render._view import Table


class Rows(NamedTuple):
    """A table, with the path of the layer that each row is of.

    ``column`` is the one that names the layer, ``words`` one of sentences;
    ``links`` are cells that lead to findings, by row and column: a text and an anchor for each.
    """

    table: Table
    paths: tuple[str, ...]
    title: str = "Layers"
    column: int = 0
    words: int = -1
    links: Mapping[tuple[int, int], tuple[tuple[str, str], ...]] = MappingProxyType({})
