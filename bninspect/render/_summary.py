"""How a summary is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bninspect.render._view import Column, Table, View, flag, number, shape, versions

if TYPE_CHECKING:
    from bninspect.report import LayerRef, SummaryLayer, SummaryReport, SummaryTotals

_COLUMNS = (
    Column("layer", "left"),
    Column("path", "left", 1),
    Column("input", "left", 2),
    Column("output", "left", 1),
    Column("trainable", "left", 1),
    Column("weight"),
    Column("bias", "right", 2),
    Column("params"),
    Column("buffers", "right", 3),
    Column("mode", "left", 1),
    Column("eps", "right", 4),
    Column("momentum", "right", 4),
)


def view(report: SummaryReport) -> View:
    """One row per call, then totals and what was never or repeatedly called."""
    return View(
        title=f"Summary of {report.source.model}",
        above=(versions(report.tool), _how(report)),
        tables=(Table(columns=_COLUMNS, rows=tuple(_row(layer) for layer in report.layers)),) if report.layers else (),
        below=(*_totals(report), *_apart(report), *(f"Note: {note}" for note in report.notes)),
    )


def _how(report: SummaryReport) -> str:
    if report.execution == "stored":
        return f"stored values of {report.source.model_kind}; nothing was run"
    inputs = ", ".join(f"{shape((-1, *size))} {dtype}" for size, dtype in zip(*_given(report), strict=True))
    how = "shapes alone, on the meta device" if report.execution == "meta" else "by a real forward"
    weights = f", weights {report.source.weights}" if report.source.weights else ""
    return f"input {inputs}, forward in {report.tool.mode} mode, {how}{weights}"


def _given(report: SummaryReport) -> tuple[tuple[tuple[int, ...], ...], tuple[str, ...]]:
    return report.input_shapes, report.input_dtypes


def _row(layer: SummaryLayer) -> tuple[str, ...]:
    return (
        layer.name,
        layer.path,
        shape(layer.input_shape),
        shape(layer.output_shape),
        layer.trainable or "-",
        shape(layer.weight_size),
        shape(layer.bias_size),
        number(layer.num_parameters),
        number(layer.num_buffer_elements),
        flag(layer.training, "train", "eval"),
        number(layer.eps),
        number(layer.momentum) if layer.momentum is not None or not layer.is_batchnorm else "-",
    )


def _totals(report: SummaryReport) -> tuple[str, ...]:
    totals = report.totals
    if totals.num_parameters is None:
        return _stored_totals(totals)
    share = 100 * totals.num_batchnorm_parameters / totals.num_parameters if totals.num_parameters else 0
    lines = [
        f"Parameters: {totals.num_parameters:,}, of them trainable {totals.num_trainable_parameters:,}, "
        f"of BatchNorm {totals.num_batchnorm_parameters:,} ({share:.2f} %)",
        f"Buffer elements: {totals.num_buffer_elements:,}, of BatchNorm {totals.num_batchnorm_buffer_elements:,}",
        f"BatchNorm layers: {totals.num_batchnorm:,} ({totals.num_batchnorm_train:,} in train mode, "
        f"{totals.num_batchnorm_eval:,} in eval mode), among {totals.num_layer_calls:,} layer calls",
    ]
    return tuple(lines)


def _stored_totals(totals: SummaryTotals) -> tuple[str, ...]:
    """Of a file, which holds more than its BatchNorm layers but is not read any further."""
    modes = "modes unknown"
    if totals.num_batchnorm_train is not None:
        modes = f"{totals.num_batchnorm_train:,} in train mode, {totals.num_batchnorm_eval:,} in eval mode"
    return (
        f"Parameters of BatchNorm: {totals.num_batchnorm_parameters:,}",
        f"Buffer elements of BatchNorm: {totals.num_batchnorm_buffer_elements:,}",
        f"BatchNorm layers: {totals.num_batchnorm:,} ({modes})",
    )


def _apart(report: SummaryReport) -> tuple[str, ...]:
    lines = []
    if report.never_called:
        lines.append(f"Not executed in {report.tool.mode} mode: {_names(report.never_called)}")
    if report.called_repeatedly:
        lines.append(f"Called more than once: {_names(report.called_repeatedly, calls=True)}")
    lines += [
        f"Functional batch_norm without a BatchNorm module: {call.calls} in {call.path or 'the model'} ({call.kind})"
        for call in report.functional_calls
    ]
    return tuple(lines)


def _names(refs: tuple[LayerRef, ...], *, calls: bool = False) -> str:
    shown = [f"{ref.path} ({ref.calls} times)" if calls else ref.path for ref in refs[:10]]
    more = f" and {len(refs) - 10} more" if len(refs) > 10 else ""
    return ", ".join(shown) + more
