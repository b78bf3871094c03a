"""What every command returns: frozen structs of plain numbers and numpy vectors.

A report is at once the result of the Python function, the content of ``--format json`` and a snapshot. ``None`` means
unknown or not applicable. Channel vectors are numpy arrays of shape ``[num_features]``.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[Any]
Mode = Literal["eval", "train"]
Trainable = Literal["yes", "no", "partial"]
Severity = Literal["error", "warning", "info"]
Shape = tuple[int, ...]
Shapes = tuple[Any, ...] | None  # of one tensor, or nested as the tensors are


class Struct(msgspec.Struct, frozen=True):
    """A value that cannot be changed once it is made."""


class Tool(Struct, frozen=True, kw_only=True):
    """What made the report: versions, and the settings that a figure depends on."""

    bninspect: str
    python: str
    torch: str | None = None
    torchvision: str | None = None
    timm: str | None = None
    device: str | None = None
    dtype: str | None = None
    tf32: bool | None = None
    mode: Mode | None = None


class Source(Struct, frozen=True, kw_only=True):
    """Where the model and the batch came from, in the user's own words.

    ``evidence`` tells what could be looked at: ``module`` (a live model), or ``tensors`` (stored values alone).
    ``synthetic`` is true where the batch was made up. ``batch_sha256`` is of the tensors' dtypes, shapes and bytes,
    however they were split into pieces; it is found where a report is to be compared.
    """

    model: str | None = None
    model_kind: str | None = None
    evidence: Literal["module", "graph", "tensors"] = "module"
    weights: str | None = None
    batch: str | None = None
    batch_kind: str | None = None
    batch_element: str | None = None
    batch_shape: Shapes = None
    synthetic: bool = False
    batch_sha256: str | None = None


class FunctionalCall(Struct, frozen=True, kw_only=True):
    """Calls of ``torch.nn.functional.batch_norm`` that no BatchNorm module owns, by the module that made them."""

    path: str
    kind: str
    calls: int


class SummaryLayer(Struct, frozen=True, kw_only=True):
    """One call of one layer, in call order; shapes have -1 for the batch dimension.

    ``num_parameters`` counts the layer's own parameters (not those of its children), ``num_buffer_elements`` its own
    buffers. ``weight_size`` and ``bias_size`` are the shapes of gamma and beta.
    """

    position: int
    name: str
    path: str
    kind: str
    input_shape: Shapes
    output_shape: Shapes
    trainable: Trainable | None
    num_parameters: int
    num_trainable_parameters: int | None
    num_buffer_elements: int
    training: bool | None
    call_index: int | None
    is_batchnorm: bool
    weight_size: Shape | None = None
    bias_size: Shape | None = None
    weight_requires_grad: bool | None = None
    running_mean_size: Shape | None = None
    num_features: int | None = None
    eps: float | None = None
    momentum: float | None = None
    affine: bool | None = None
    track_running_stats: bool | None = None


class LayerRef(Struct, frozen=True, kw_only=True):
    """A BatchNorm layer that is listed apart: never called, or called ``calls`` times in one forward."""

    path: str
    kind: str
    num_features: int | None
    calls: int


class SummaryTotals(Struct, frozen=True, kw_only=True):
    """Totals over the whole model; each parameter and buffer is counted once, however often it is shared.

    Of a stored file only the figures of BatchNorm are known.
    """

    num_parameters: int | None
    num_trainable_parameters: int | None
    num_batchnorm_parameters: int
    num_buffer_elements: int | None
    num_batchnorm_buffer_elements: int
    num_layer_calls: int | None
    num_batchnorm: int
    num_batchnorm_train: int | None
    num_batchnorm_eval: int | None


class SummaryReport(Struct, frozen=True, kw_only=True):
    """What :func:`bninspect.summary` returns. ``execution`` says how the shapes were found."""

    schema: Literal["bninspect.summary"] = "bninspect.summary"
    schema_version: int = 1
    tool: Tool
    source: Source
    execution: Literal["meta", "real", "stored"]
    input_shapes: tuple[Shape, ...]
    input_dtypes: tuple[str, ...]
    layers: tuple[SummaryLayer, ...]
    totals: SummaryTotals
    never_called: tuple[LayerRef, ...] = ()
    called_repeatedly: tuple[LayerRef, ...] = ()
    functional_calls: tuple[FunctionalCall, ...] = ()
    notes: tuple[str, ...] = ()


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
    values: npt.NDArray[np.float64] | None = None
    vectors: str | None = None
    notes: tuple[str, ...] = ()


class Tolerance(Struct, frozen=True, kw_only=True):
    """How far figures may be apart; whole numbers, names, shapes and settings are compared exactly.

    Attributes:
        mean: for means, in standard deviations of their channel; for weight and bias, in root mean squares of the
            layer's weight; for shares, as they are.
        var: for variances, relative to ``var + eps``.
    """

    mean: float
    var: float


class Difference(Struct, frozen=True, kw_only=True):
    """One thing that differs between ``a``, the earlier report, and ``b``, the later one.

    Attributes:
        what: ``added``, ``removed`` and ``renamed`` are of layers (or of a report's other entries, which ``field``
            names); ``setting`` is compared exactly; ``figure`` is a figure of a layer; ``channels`` a vector of it.
        path: of the layer, by its name in ``b`` (where removed, in ``a``); empty: the model as a whole.
        field: what of it differs, by its name in the report.
        a: the earlier value; of a vector, that of the channel that moved most.
        b: the later one.
        distance: how far they are apart, in ``unit``; ``None`` where one of them is NaN or infinite.
        unit: ``std`` standard deviations of the channel; ``ratio`` the quotient b / a of variances with eps added;
            ``rms`` root mean squares of the layer's weight; ``of var`` parts of the variance; ``share`` as it is.
        num_channels: how many channels moved; ``num_features`` of so many.
        channel: the one that moved most.
    """

    what: Literal["added", "removed", "renamed", "setting", "figure", "channels"]
    path: str
    field: str | None = None
    a: Any = None
    b: Any = None
    distance: float | None = None
    unit: Literal["std", "ratio", "rms", "of var", "share"] | None = None
    num_channels: int | None = None
    num_features: int | None = None
    channel: int | None = None


class DiffReport(Struct, frozen=True, kw_only=True):
    """What :func:`bninspect.diff` returns; ``equal`` is true where nothing differs beyond the tolerance.

    ``statistics_only`` has the layers whose weight and bias are equal while their running statistics differ: ranks that
    were not synchronised, a copy that a moving average keeps, or statistics that were estimated again.
    """

    schema: Literal["bninspect.diff"] = "bninspect.diff"
    schema_version: int = 1
    tool: Tool
    a: Source
    b: Source
    compared: str
    tolerance: Tolerance
    equal: bool
    num_layers: int
    differences: tuple[Difference, ...] = ()
    statistics_only: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Place(Struct, frozen=True, kw_only=True):
    """Where a finding was made: a layer, the channels of it (``None``: the layer as a whole), and the numbers."""

    path: str
    channels: tuple[int, ...] | None = None
    evidence: dict[str, float | int | None] = {}


class Finding(Struct, frozen=True, kw_only=True):
    """One kind of fault in one model, with every layer that has it.

    ``path``, ``channels`` and ``evidence`` are those of the first layer (``path`` is ``None`` where the finding is of
    the model as a whole); ``layers`` has all of them. The numbers of ``evidence`` bear the names of the fields of
    :class:`StatsLayer` where they are such fields.
    """

    code: str
    name: str
    severity: Severity
    path: str | None = None
    channels: tuple[int, ...] | None = None
    message: str
    evidence: dict[str, float | int | None] = {}
    why: str = ""
    fix: str
    layers: tuple[Place, ...] = ()


class Silent(Struct, frozen=True, kw_only=True):
    """A rule that could not be applied, and why; ``layers`` are those it passed over, none: it did not look at all."""

    code: str
    name: str
    reason: str
    layers: tuple[str, ...] = ()


class CheckReport(Struct, frozen=True, kw_only=True):
    """What :func:`bninspect.check` returns: findings by severity, then code.

    ``rules`` are the codes that were asked for; ``silent`` are those of them that could not look.
    """

    schema: Literal["bninspect.check"] = "bninspect.check"
    schema_version: int = 1
    tool: Tool
    source: Source
    num_layers: int
    num_images: int | None = None
    rules: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    silent: tuple[Silent, ...] = ()
    notes: tuple[str, ...] = ()


Report = SummaryReport | StatsReport | CheckReport | DiffReport
