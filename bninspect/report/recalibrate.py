"""The report of ``recalibrate``: how far the running statistics were from those of the data, and how far they are."""

from __future__ import annotations

from typing import Literal

from bninspect.report.header import LeftLayer, Source, Struct, Tool, Vector

How = Literal["fixed-point", "sequential", "train"]


class RecalibratedChannels(Struct, frozen=True, kw_only=True, gc=False):
    """Per-channel figures of one layer ``[num_features]``; d and r as in :class:`Channels`, in eval mode.

    Attributes:
        running_mean_before: as it was found.
        running_var_before: as it was found.
        running_mean: as it is now, before it is rounded to the buffer's type.
        running_var: the same; it is the biased variance of the data, which is what eval mode divides by.
        d_before: how far ``running_mean_before`` was from the mean of the data.
        r_before: the same of the deviation.
        d: the same with the new statistics in every layer.
        r: the same.
    """

    running_mean_before: Vector
    running_var_before: Vector
    running_mean: Vector
    running_var: Vector
    d_before: Vector | None = None
    r_before: Vector | None = None
    d: Vector | None = None
    r: Vector | None = None


class RecalibratedLayer(Struct, frozen=True, kw_only=True, gc=False):
    """One layer whose statistics were estimated, before and after, in eval mode.

    Attributes:
        count: values per channel (images x positions), over all pieces and calls.
        calls: how often the layer ran in one forward; its statistics are pooled over the calls.
        d_max_before: the largest ``|d|``; ``None`` where no channel's could be told.
        nonfinite_before: NaN and infinite values that the old statistics of the model made in the layer's input.
        channels: the vectors; ``None`` where a report left them out.
    """

    path: str
    kind: str
    num_features: int
    count: int
    num_images: int
    calls: int
    d_max_before: float | None = None
    r_min_before: float | None = None
    r_max_before: float | None = None
    nonfinite_before: int | None = None
    d_max: float | None = None
    r_min: float | None = None
    r_max: float | None = None
    channels: RecalibratedChannels | None = None


class Predictions(Struct, frozen=True, kw_only=True):
    """What became of the model's predictions in eval mode; accuracies where the data have labels.

    Attributes:
        changed: share of the top predictions that are others now; ``None`` where the images came in another order.
        num_labelled: images that had a label.
        accuracy_before: share of them whose top prediction was right.
        accuracy: the same, with the new statistics.
    """

    num_images: int
    changed: float | None = None
    num_labelled: int = 0
    accuracy_before: float | None = None
    accuracy: float | None = None


class RecalibrateReport(Struct, frozen=True, kw_only=True):
    """What :func:`bninspect.recalibrate` returns.

    Attributes:
        passes: how often the statistics were estimated from all of the data.
        converged: whether no ``|d|`` is above 0.01 and no r is outside 1 +- 0.01, in any layer.
        output: the file that the statistics were written to.
    """

    schema: Literal["bninspect.recalibrate"] = "bninspect.recalibrate"
    schema_version: int = 1
    tool: Tool
    source: Source
    how: How
    passes: int
    converged: bool
    num_images: int
    num_pieces: int
    layers: tuple[RecalibratedLayer, ...]
    left: tuple[LeftLayer, ...] = ()
    predictions: Predictions | None = None
    output: str | None = None
    notes: tuple[str, ...] = ()
