"""A shadow of the model whose running statistics are tried out, pass after pass over the data."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bninspect.errors import InputError
from bninspect.inspection.recalibrate.predictions import Seen
from bninspect.inspection.recalibrate.upstream import ready
from bninspect.inspection.stats.run import Run
from bninspect.observe.layers import batchnorms
from bninspect.observe.process import undisturbed
from bninspect.observe.runner import Runner
from bninspect.observe.shadow import shadow
from bninspect.observe.statistics import normalise_by

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    import torch
    from torch import nn

    from bninspect.inspection.recalibrate.data import Data
    from bninspect.inspection.recalibrate.upstream import OfTheBatch, SoFar
    from bninspect.report import Float64, Source, StatsLayer, StatsReport

    Upstream = Callable[[nn.Module, Collection[str]], SoFar | OfTheBatch]
    OnPiece = Callable[[int, Callable[[], StatsReport]], None]

LIMIT = 0.01  # of |d| and of |r - 1|, below which a layer's statistics are those of the data


class Statistics(NamedTuple):
    """Mean and biased variance per channel ``[C]``."""

    mean: Float64
    var: Float64


class Pass(NamedTuple):
    """What one pass over the data showed."""

    report: StatsReport
    seen: Seen
    upstream: SoFar | OfTheBatch | None = None

    def layers(self, paths: Collection[str]) -> dict[str, StatsLayer]:
        """Those of these layers that were called, in call order."""
        return {layer.path: layer for layer in self.report.layers if layer.path in paths}


class Trial:
    """The working copy; the model itself is only read."""

    def __init__(
        self, model: nn.Module, place: torch.device, data: Data, source: Source | None, on_piece: OnPiece | None
    ) -> None:
        self.work, self.place, self.data = shadow(model, device=place), place, data
        self.source, self.on_piece = source, on_piece
        self.name = source.model if source and source.model else type(model).__name__

    def run(self, paths: Collection[str], upstream: Upstream | None = None) -> Pass:
        """One pass in eval mode; with ``upstream`` these layers normalise by other statistics while it lasts."""
        by = self.data.by
        run = Run(self.work, "eval", self.place, layer=None, extremes=False, source=self.source, by=by)
        watch = upstream(run.twin, paths) if upstream else None
        run.begin = watch.begin if watch else None
        seen = Seen()
        with undisturbed(self.place):
            for step in self.data:
                before, output = run.images, run.feed(step.inputs)
                images = run.images - before
                seen.add(step.mark, images, *self.data.answered(step, output, images))
                if watch:
                    watch.settle()
                if self.on_piece:
                    self.on_piece(run.images, run.report)
        if not run.pieces:
            raise InputError("the batch is empty: it held no piece")
        return Pass(run.report(), seen, watch)

    def put(self, found: Iterable[StatsLayer]) -> dict[str, Statistics]:
        """Let these layers normalise by what was found in them.

        Raises:
            InputError: that is not finite, or no statistic at all.
        """
        values = {layer.path: _statistics(layer) for layer in found}
        modules = batchnorms(self.work)
        for path, (mean, var) in values.items():
            normalise_by(modules[path], mean, var)
        return values

    def ready(self, unsettled: Collection[str]) -> set[str]:
        """Those of these layers whose input depends on no other of them, as the first piece shows."""
        with undisturbed(self.place):
            runner = Runner(self.work, self.place, self.name, self.data.by)
            return ready(runner, unsettled, next(iter(self.data)).inputs)


def settled(layers: Iterable[StatsLayer]) -> bool:
    """Whether the statistics of these layers are those of the data."""
    return all(_is_settled(layer) for layer in layers)


def _is_settled(layer: StatsLayer) -> bool:
    channels = layer.channels
    assert channels is not None
    d, r = channels.d, channels.r
    assert d is not None
    assert r is not None
    return bool(np.all(np.abs(d) <= LIMIT) and np.all(np.abs(r - 1) <= LIMIT))


def _statistics(layer: StatsLayer) -> Statistics:
    channels = layer.channels
    assert channels is not None
    if layer.nonfinite:
        raise InputError(
            f"the input of layer {layer.path} holds {layer.nonfinite:,} NaN or infinite values, and the layers before "
            "it normalise by statistics of the data: the data or the weights are not finite; nothing was changed"
        )
    if (layer.count or 0) < 2:
        raise InputError(
            f"layer {layer.path} saw {layer.count} value per channel in all, and a variance needs 2: give more images"
        )
    assert channels.mean is not None
    assert channels.var is not None
    return Statistics(channels.mean, channels.var)
