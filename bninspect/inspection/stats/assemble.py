"""The report of statistics, from the moments of the layers and a frame that holds everything else."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from bninspect import moments
from bninspect.inspection.stats import figures
from bninspect.moments import Moments
from bninspect.report import LayerRef, StatsReport

if TYPE_CHECKING:
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
    called = _by_layer(layers, pooled)
    shared = [path for path, (_, calls) in called.items() if calls > 1]
    pooled_over = f"called more than once in a forward, and pooled over the calls: {', '.join(shared)}"
    return msgspec.structs.replace(
        frame,
        layers=tuple(
            figures.live(layers[path], found, calls, dtypes[path], extremes=extremes, sampled=sampled)
            for path, (found, calls) in called.items()
        ),
        never_called=tuple(
            LayerRef(path=path, kind=layer.kind, num_features=layer.num_features, calls=0)
            for path, layer in layers.items()
            if path not in called
        ),
        notes=(*frame.notes, pooled_over) if shared else frame.notes,
    )


def split(layers: dict[str, BatchNormLayer], paths: tuple[str, ...], vector: Vector) -> list[Vector]:
    """A vector over all layers side by side, by layer."""
    return np.split(vector, np.cumsum([layers[path].num_features for path in paths])[:-1])


def _by_layer(layers: dict[str, BatchNormLayer], pooled: Pooled) -> dict[str, tuple[Moments, int]]:
    """Moments of each layer, pooled over its calls, and the most calls in one forward; in call order."""
    found: dict[str, tuple[Moments, int]] = {}
    for paths, together in pooled.items():
        calls = Counter(paths)
        for path, *vectors in zip(paths, *(split(layers, paths, vector) for vector in together), strict=True):
            more = Moments(*vectors)
            before, most = found.get(path, (None, 0))
            found[path] = moments.merge(before, more) if before else more, max(most, calls[path])
    return found
