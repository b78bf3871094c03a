"""The report of ``stats``: what a batch does in each layer, or what a file stores of it."""

from __future__ import annotations

from typing import Literal

from bninspect.report.header import Float64, FunctionalCall, LayerRef, Source, Struct, Tool, Vector


class Channels(Struct, frozen=True, kw_only=True, gc=False):
    """Per-channel figures of one layer, each a vector of ``[num_features]``.

    Attributes:
        index: the channels' numbers, where the report holds a choice of them; ``None``: all, in order.
        mean: of the layer's input, over images and positions.
        var: biased variance (divided by ``count``), the one that BatchNorm normalises by.
        var_unbiased: divided by ``count - 1``, the one that BatchNorm stores.
        std: square root of ``var``.
        min: smallest finite value.
        max: largest finite value.
        zero_fraction: share of exact zeros among the finite values.
        nonfinite: number of NaN and infinite values; the other figures are of the finite ones.
        between_image_var: unbiased variance, over images, of the per-image means.
        weight: gamma.
        bias: beta.
        running_mean: as stored.
        running_var: as stored.
        scale: ``weight / sqrt(running_var + eps)``, what eval mode multiplies by.
        d: ``(mean - running_mean) / sqrt(running_var + eps)`` (Batch Renormalization, arXiv 1702.03275).
        r: ``sqrt((var + eps) / (running_var + eps))`` (the same).
        z: ``(mean - running_mean) / sqrt(between_image_var / num_images)``: d in standard errors, images (not
            pixels) being the independent samples.
        mean_error: standard error of ``mean`` for the whole that a sample was drawn from (``--sample``), over images:
            ``sqrt(between_image_var / num_images * (1 - sample / whole))``.
    """

    index: Vector | None = None
    mean: Vector | None = None
    var: Vector | None = None
    var_unbiased: Vector | None = None
    std: Vector | None = None
    min: Vector | None = None
    max: Vector | None = None
    zero_fraction: Vector | None = None
    nonfinite: Vector | None = None
    between_image_var: Vector | None = None
    weight: Vector | None = None
    bias: Vector | None = None
    running_mean: Vector | None = None
    running_var: Vector | None = None
    scale: Vector | None = None
    d: Vector | None = None
    r: Vector | None = None
    z: Vector | None = None
    mean_error: Vector | None = None


class StatsLayer(Struct, frozen=True, kw_only=True, gc=False):
    """One BatchNorm layer: what the batch did in it, aggregated over channels.

    Attributes:
        count: values per channel (images x positions), over all pieces and calls.
        num_images: entries of the batch dimension seen, over all pieces and calls.
        calls: how often the layer ran in one forward.
        d_max: the largest ``|d|``; ``d_median`` the median of ``|d|``.
        r_min: the smallest r, and so on.
        z_max: the largest ``|z|``.
        dead: channels whose output barely moves, ``|weight| * sqrt(var / (var + eps)) < 1e-3``.
        nonfinite: NaN and infinite input values, over channels.
        nonfinite_state: NaN and infinite entries of weight, bias, running_mean and running_var together.
        channels: the vectors; ``None`` where a stored report left them out.
    """

    path: str
    kind: str
    num_features: int
    count: int | None = None
    num_images: int | None = None
    calls: int | None = None
    eps: float | None = None
    momentum: float | None = None
    affine: bool | None = None
    track_running_stats: bool | None = None
    training: bool | None = None
    dtype: str | None = None
    mean_min: float | None = None
    mean_max: float | None = None
    var_min: float | None = None
    var_max: float | None = None
    min: float | None = None
    max: float | None = None
    zero_fraction: float | None = None
    weight_min: float | None = None
    weight_max: float | None = None
    bias_min: float | None = None
    bias_max: float | None = None
    running_mean_min: float | None = None
    running_mean_max: float | None = None
    running_var_min: float | None = None
    running_var_max: float | None = None
    scale_min: float | None = None
    scale_max: float | None = None
    num_batches_tracked: int | None = None
    d_max: float | None = None
    d_median: float | None = None
    r_min: float | None = None
    r_median: float | None = None
    r_max: float | None = None
    z_max: float | None = None
    dead: int | None = None
    nonfinite: int | None = None
    nonfinite_state: int | None = None
    channels: Channels | None = None


class StatsReport(Struct, frozen=True, kw_only=True):
    """What :func:`bninspect.stats` returns.

    ``values`` is the normalised output of a batch that was given without a model, where it was asked for. ``sorted_by``
    names the field that layers, or channels, were ordered and chosen by. ``vectors`` is set in a stored report alone:
    the SHA-256 of the ``.safetensors`` file beside it, which holds the channels.
    """

    schema: Literal["bninspect.stats"] = "bninspect.stats"
    schema_version: int = 1
    tool: Tool
    source: Source
    num_images: int | None = None
    num_pieces: int | None = None
    layers: tuple[StatsLayer, ...]
    never_called: tuple[LayerRef, ...] = ()
    functional_calls: tuple[FunctionalCall, ...] = ()
    sorted_by: str | None = None
    values: Float64 | None = None
    vectors: str | None = None
    notes: tuple[str, ...] = ()
