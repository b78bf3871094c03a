"""The report of ``noise``: how much the statistics of a batch shake each layer in training."""

from __future__ import annotations

from typing import Literal

from bninspect.report.header import LeftLayer, Source, Struct, Tool, Vector


class NoiseChannels(Struct, frozen=True, kw_only=True, gc=False):
    """Per-channel figures of one layer ``[num_features]``; B is a batch of ``batch_size`` images.

    Attributes:
        mean: over all batches.
        var: biased variance over all batches together.
        shift: ``Var_B(mean_B) / (var + eps)``, of batches B: unbiased over the draws.
        scale: ``Var_B(var_B) / (4 (var + eps)^2)``, the same of the deviation.
        shift_per_image: ``Var(mean of an image) / (batch_size (var + eps))``: what the shift would be if an image's
            mean did not depend on the rest of its batch; that holds at a first layer alone.
    """

    mean: Vector
    var: Vector
    shift: Vector
    scale: Vector
    shift_per_image: Vector


class NoiseLayer(Struct, frozen=True, kw_only=True, gc=False):
    """One layer; ``shift`` and ``scale`` are variances in units of the channel's own, as medians over its channels.

    Attributes:
        positions: values per channel and image.
        shift: measured.
        shift_p95: the 95th percentile over channels.
        scale: measured.
        c_shift: ``batch_size * shift``, which does not depend on the batch size, nor does ``c_scale``.
        dropout: computed: the rate p of a dropout whose noise has the variance of ``scale``, ``p / (1 - p) = scale``.
        shift_iid: computed, for comparison only: what ``shift`` would be if all positions were independent.
        channels: the vectors; ``None`` where a report left them out.
    """

    path: str
    kind: str
    num_features: int
    positions: float
    calls: int
    shift: float
    shift_p95: float
    scale: float
    scale_p95: float
    c_shift: float
    c_scale: float
    dropout: float
    shift_iid: float
    channels: NoiseChannels | None = None


class ScaledNoise(Struct, frozen=True, kw_only=True):
    """Computed from what was measured, by ``noise(B') = noise(B) B / B'``: the median over layers, and the most."""

    batch_size: int
    shift: float
    shift_max: float
    scale: float
    scale_max: float
    dropout: float
    dropout_max: float


class NoisePredictions(Struct, frozen=True, kw_only=True):
    """What the other images of a batch do to the prediction of one, measured.

    Attributes:
        num_images: that were in at least two batches.
        disagreement: the share of pairs of batches in which the same image has another top prediction.
        score_noise: the variance of a score over batches, in parts of its variance over images.
    """

    num_images: int
    disagreement: float
    score_noise: float | None = None


class NoiseReport(Struct, frozen=True, kw_only=True):
    """What :func:`bninspect.noise` returns.

    Attributes:
        draws: batches that were drawn.
        error: relative standard error of a channel's ``shift`` and ``scale``, ``sqrt(2 / (draws - 1))``.
        num_images: that the batches were drawn from.
        left: layers that do not normalise by the batch.
    """

    schema: Literal["bninspect.noise"] = "bninspect.noise"
    schema_version: int = 1
    tool: Tool
    source: Source
    batch_size: int
    draws: int
    error: float
    num_images: int
    layers: tuple[NoiseLayer, ...]
    left: tuple[LeftLayer, ...] = ()
    scaled: tuple[ScaledNoise, ...] = ()
    predictions: NoisePredictions | None = None
    notes: tuple[str, ...] = ()
