"""Reports on a file's stored values: those of a live model, with what only a forward tells left unknown."""

from __future__ import annotations

import platform
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from bninspect._collector import without_collections
from bninspect.errors import InputError
from bninspect.inspection import _figures as figures
from bninspect.report import Source, StatsReport, SummaryLayer, SummaryReport, SummaryTotals, Tool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bninspect.layers import BatchNormLayer
    from bninspect.report import Shape, Vector


def summary(layers: Sequence[BatchNormLayer], source: Source, notes: Sequence[str] = ()) -> SummaryReport:
    """Sizes and settings of stored layers, in the order stored; shapes are unknown, as nothing is run.

    Args:
        layers: as a model source read them.
        source: where they came from, for the report's header.
        notes: what the source had to say.
    """
    return SummaryReport(
        tool=_tool(),
        source=source,
        execution="stored",
        input_shapes=(),
        input_dtypes=(),
        layers=tuple(_row(position, layer) for position, layer in enumerate(layers, 1)),
        totals=_totals(layers),
        notes=tuple(notes),
    )


@without_collections()
def stats(
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
    return StatsReport(tool=_tool(), source=source, layers=figures.stored(chosen), notes=tuple(notes))


def _tool() -> Tool:
    from bninspect import __version__

    return Tool(bninspect=__version__, python=platform.python_version())


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
