"""The report of statistics, from the moments of the layers and a frame that holds everything else."""

from __future__ import annotations

from collections import Counter
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from bninspect import moments
from bninspect.inspection.stats import figures
from bninspect.moments import Moments
from bninspect.report import LayerRef, StatsReport

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bninspect.layers import BatchNormLayer
    from bninspect.report import Vector

Pooled = dict[tuple[str, ...], Moments]  # of all layers side by side, by the order of their calls


def assemble(
    frame: StatsReport,
    layers: dict[str, BatchNormLayer],
    pooled: Pooled,
    dtypes: dict[str, str],
    *,
    extremes: bool,
    sampled: float | None = None,
) -> StatsReport:
    """The report of these moments, its layers in call order.

    Args:
        frame: the report without its layers.
        layers: by path; those that were not called are listed apart.
        pooled: what was measured.
        dtypes: of the layers' inputs.
        extremes: whether min, max and zeros were looked for.
        sampled: the share of the images that was drawn, where the rest was left out.
    """
    calls = _calls(pooled)
    shared = [path for path, most in calls.items() if most > 1]
    pooled_over = f"called more than once in a forward, and pooled over the calls: {', '.join(shared)}"
    return msgspec.structs.replace(
        frame,
        layers=figures.live(
            [layers[path] for path in calls],
            _side_by_side(layers, pooled, calls),
            [*calls.values()],
            [dtypes[path] for path in calls],
            extremes=extremes,
            sampled=sampled,
        )
        if calls
        else (),
        never_called=tuple(
            LayerRef(path=path, kind=layer.kind, num_features=layer.num_features, calls=0)
            for path, layer in layers.items()
            if path not in calls
        ),
        notes=(*frame.notes, pooled_over) if shared else frame.notes,
    )


def split(layers: dict[str, BatchNormLayer], paths: Iterable[str], vector: Vector) -> list[Vector]:
    """A vector over all layers side by side, by layer."""
    return figures.cut(vector, np.cumsum([layers[path].num_features for path in paths]))


def _calls(pooled: Pooled) -> Counter[str]:
    """The most calls of each layer in one forward, in call order."""
    return reduce(or_, map(Counter, pooled), Counter())


def _side_by_side(layers: dict[str, BatchNormLayer], pooled: Pooled, calls: Counter[str]) -> Moments:
    """The layers' moments, pooled over their calls, in call order."""
    if list(pooled) == [tuple(calls)]:  # the usual case: each once, and always in this order
        return pooled[tuple(calls)]
    found: dict[str, Moments] = {}
    for paths, together in pooled.items():
        for path, *vectors in zip(paths, *(split(layers, paths, vector) for vector in together), strict=True):
            more = Moments(*vectors)
            found[path] = moments.merge(found[path], more) if path in found else more
    return Moments(*map(np.concatenate, zip(*found.values(), strict=True)))
