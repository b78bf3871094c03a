"""The statistics of a file's stored layers: those of a live model, with what only a batch tells left unknown."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from bninspect._collector import without_collections
from bninspect.errors import InputError
from bninspect.inspection._header import tool_without_torch
from bninspect.inspection.stats import figures
from bninspect.report import Source, StatsReport

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bninspect.layers import BatchNormLayer


@without_collections()
def stored_stats(
    layers: Sequence[BatchNormLayer], source: Source, notes: Sequence[str] = (), *, layer: str | None = None
) -> StatsReport:
    """Stored gamma, beta, running mean and running variance of each layer, and their ranges; no batch is needed.

    Args:
        layers: as a model source read them.
        source: where they came from, for the report's header.
        notes: what the source had to say.
        layer: a glob over paths; only these layers are reported.

    Raises:
        InputError: the glob matches nothing.
    """
    chosen = [one for one in layers if layer is None or fnmatchcase(one.path, layer)]
    if layer is not None and not chosen:
        shown = ", ".join(one.path for one in layers[:4]) or "none at all"
        raise InputError(f"no BatchNorm layer of {source.model} matches {layer!r}: its layers are named {shown} ...")
    return StatsReport(tool=tool_without_torch(), source=source, layers=figures.stored(chosen), notes=tuple(notes))
