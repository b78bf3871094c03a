"""The report of ``summary``: shapes, sizes and settings."""

from __future__ import annotations

from typing import Literal

from bninspect.report.header import FunctionalCall, LayerRef, Shape, Shapes, Source, Struct, Tool

Trainable = Literal["yes", "no", "partial"]


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
