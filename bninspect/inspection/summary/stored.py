"""The summary of a file's stored layers: that of a live model, with what only a forward tells left unknown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bninspect.inspection._header import tool_without_torch
from bninspect.report import Source, SummaryLayer, SummaryReport, SummaryTotals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bninspect.layers import BatchNormLayer
    from bninspect.report import Shape, Vector


def stored_summary(layers: Sequence[BatchNormLayer], source: Source, notes: Sequence[str] = ()) -> SummaryReport:
    """Sizes and settings of stored layers, in the order stored; shapes are unknown, as nothing is run.

    Args:
        layers: as a model source read them.
        source: where they came from, for the report's header.
        notes: what the source had to say.
    """
    return SummaryReport(
        tool=tool_without_torch(),
        source=source,
        execution="stored",
        input_shapes=(),
        input_dtypes=(),
        layers=tuple(_row(position, layer) for position, layer in enumerate(layers, 1)),
        totals=_totals(layers),
        notes=tuple(notes),
    )


def _row(position: int, layer: BatchNormLayer) -> SummaryLayer:
    return SummaryLayer(
        position=position,
        name=f"{layer.kind}-{position}",
        path=layer.path,
        kind=layer.kind,
        input_shape=None,
        output_shape=None,
        trainable=None,
        num_parameters=_parameters(layer),
        num_trainable_parameters=None,
        num_buffer_elements=_buffers(layer),
        training=layer.training,
        call_index=None,
        is_batchnorm=True,
        weight_size=_size(layer.weight),
        bias_size=_size(layer.bias),
        running_mean_size=_size(layer.running_mean),
        num_features=layer.num_features,
        eps=layer.eps,
        momentum=layer.momentum,
        affine=layer.affine,
        track_running_stats=layer.track_running_stats,
    )


def _totals(layers: Sequence[BatchNormLayer]) -> SummaryTotals:
    modes = [layer.training for layer in layers]
    known = None not in modes
    return SummaryTotals(
        num_parameters=None,
        num_trainable_parameters=None,
        num_batchnorm_parameters=sum(map(_parameters, layers)),
        num_buffer_elements=None,
        num_batchnorm_buffer_elements=sum(map(_buffers, layers)),
        num_layer_calls=None,
        num_batchnorm=len(layers),
        num_batchnorm_train=modes.count(True) if known else None,
        num_batchnorm_eval=modes.count(False) if known else None,
    )


def _parameters(layer: BatchNormLayer) -> int:
    return sum(len(vector) for vector in (layer.weight, layer.bias) if vector is not None)


def _buffers(layer: BatchNormLayer) -> int:
    vectors = sum(len(vector) for vector in (layer.running_mean, layer.running_var) if vector is not None)
    return vectors + (layer.num_batches_tracked is not None)


def _size(vector: Vector | None) -> Shape | None:
    return None if vector is None else tuple(vector.shape)
