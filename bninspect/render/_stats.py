"""How statistics are shown: one row per layer, or one per channel where the report holds channels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bninspect.render._view import Column, Table, View, number, prepared, shape, span, versions
from bninspect.report import bounds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bninspect.report import StatsLayer, StatsReport, Vector

_LAYER = (  # what one came for stands first, and stays on a narrow terminal
    Column("layer", "left"),
    Column("channels"),
    Column("|d| median"),
    Column("|d| max"),
    Column("r"),
    Column("dead"),
    Column("nonfinite"),
    Column("|z| max", "right", 2),
    Column("mean", "right", 3),
    Column("var", "right", 3),
    Column("running_mean", "right", 5),
    Column("running_var", "right", 5),
    Column("values", "right", 4),
    Column("zeros", "right", 6),
)
_UNTRACKED = (0, 0, 0, 0, 0, 1, 1, 2, 0, 0, 5, 5, 3, 4)  # priorities where there are no running statistics
_OF_RUNNING = ("|d| median", "|d| max", "r", "|z| max", "running_mean", "running_var")
_NOTHING = {"dead": "no channel is dead", "nonfinite": "no value is NaN or infinite", "zeros": "no value is zero"}
_STORED = (
    Column("layer", "left"),
    Column("kind", "left", 2),
    Column("channels"),
    Column("weight"),
    Column("bias", "right", 1),
    Column("running_mean", "right", 1),
    Column("running_var"),
    Column("scale", "right", 1),
    Column("eps", "right", 2),
    Column("momentum", "right", 3),
    Column("nonfinite", "right", 1),
)
CHANNEL_FIELDS = (
    "mean", "var", "var_unbiased", "std", "min", "max", "zero_fraction", "nonfinite", "weight", "bias",
    "running_mean", "running_var", "scale", "d", "r", "z", "between_image_var", "mean_error",
)  # fmt: skip
_PRIORITY = {
    "mean": 0, "var": 0, "d": 0, "z": 1, "r": 1, "running_mean": 1, "running_var": 1, "weight": 2, "bias": 2,
    "scale": 3, "nonfinite": 3, "min": 4, "max": 4, "zero_fraction": 5, "std": 6, "var_unbiased": 7,
    "between_image_var": 8, "mean_error": 1,
}  # fmt: skip
_VALUES = 4


def view(report: StatsReport) -> View:
    """Layers, or channels; then what was not seen, and the normalised values where they were asked for."""
    channels = any(layer.channels is not None for layer in report.layers)
    table, lines = (_channels(report), ()) if channels else _layers(report)
    return View(
        title=_title(report),
        above=(versions(report.tool), _how(report)),
        tables=(table,) if table.rows else (),
        below=(*lines, *_values(report), *_apart(report), *(f"Note: {note}" for note in report.notes)),
    )


def _title(report: StatsReport) -> str:
    source = report.source
    return f"Statistics of {source.model}" + (f" on {source.batch}" if source.batch else "")


def _how(report: StatsReport) -> str:
    if report.num_images is None:
        return f"stored values of {report.source.model_kind}; nothing was run"
    mode = "running statistics normalise" if report.tool.mode == "eval" else "batch statistics normalise"
    batch = f"{shape(report.source.batch_shape)}" if report.num_pieces == 1 else f"{report.num_pieces} pieces"
    element = f", element {report.source.batch_element}" if report.source.batch_element else ""
    made_up = "synthetic " if report.source.synthetic else ""
    images = f"{report.num_images:,} {made_up}images ({batch}{element}{prepared(report.source)})"
    return f"{images}, {report.tool.mode} mode: {mode}"


def _layers(report: StatsReport) -> tuple[Table, tuple[str, ...]]:
    """The layers, and in words what would be a column of nothing."""
    if report.num_images is None:
        return Table(columns=_STORED, rows=tuple(_stored(layer) for layer in report.layers)), ()
    rows = tuple(_layer(layer) for layer in report.layers)
    tracked = any(layer.d_max is not None and not _as_built(layer) for layer in report.layers)
    left_out = [] if tracked else [*_OF_RUNNING]
    for index, column in enumerate(_LAYER):
        if column.head in _NOTHING and all(row[index] in ("0", "0.0 %") for row in rows):
            left_out.append(column.head)
    kept = [index for index, column in enumerate(_LAYER) if column.head not in left_out]
    columns = tuple(_LAYER[index] if tracked else _LAYER[index]._replace(priority=_UNTRACKED[index]) for index in kept)
    levels = {
        (number, kept.index(index)): level
        for number, layer in enumerate(report.layers)
        for index, level in _levels(layer)
        if index in kept
    }
    words = [_NOTHING[head] for head in left_out if head in _NOTHING]
    lines = [] if tracked or not rows else [_untracked(report)]
    lines += [f"In all layers: {', '.join(words)}."] if words and rows else []
    return Table(columns, tuple(tuple(row[index] for index in kept) for row in rows), levels), tuple(lines)


def _as_built(layer: StatsLayer) -> bool:
    """Whether the running statistics are those of a new layer, which were never updated."""
    ends = layer.running_mean_min, layer.running_mean_max, layer.running_var_min, layer.running_var_max
    return layer.num_batches_tracked == 0 and ends == (0, 0, 1, 1)


def _untracked(report: StatsReport) -> str:
    why = "were never updated" if any(layer.d_max is not None for layer in report.layers) else "are not kept"
    return f"Running statistics {why}: there is nothing to compare with."


def _layer(layer: StatsLayer) -> tuple[str, ...]:
    return (
        layer.path or layer.kind,
        number(layer.num_features),
        number(layer.d_median),
        number(layer.d_max),
        span(layer.r_min, layer.r_max),
        number(layer.dead),
        number(_sum(layer.nonfinite, layer.nonfinite_state)),
        number(layer.z_max),
        span(layer.mean_min, layer.mean_max),
        span(layer.var_min, layer.var_max),
        span(layer.running_mean_min, layer.running_mean_max),
        span(layer.running_var_min, layer.running_var_max),
        number(layer.count),
        "-" if layer.zero_fraction is None else f"{100 * layer.zero_fraction:.1f} %",
    )


def _levels(layer: StatsLayer) -> Iterator[tuple[int, str]]:
    """Columns whose figure passes the bound of its rule, with the severity."""
    ratios = [_either_way(value) for value in (layer.r_min, layer.r_max) if value is not None]
    figures = {
        "|d| median": _level(layer.d_median, bounds.D, bounds.D_BROKEN),
        "|d| max": _level(layer.d_max, bounds.D, bounds.D_BROKEN),
        "r": _level(max(ratios, default=None), bounds.R, bounds.R_BROKEN),
        "dead": _level(layer.dead, 0, float("inf")),
        "nonfinite": _level(_sum(layer.nonfinite, layer.nonfinite_state), 0, 0),
    }
    for index, column in enumerate(_LAYER):
        if figures.get(column.head):
            yield index, figures[column.head]


def _either_way(ratio: float) -> float:
    return max(ratio, 1 / ratio) if ratio > 0 else float("inf")


def _level(value: float | None, warning: float, error: float) -> str:
    if value is None or value <= warning:
        return ""
    return "error" if value > error else "warning"


def _sum(*counts: int | None) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _stored(layer: StatsLayer) -> tuple[str, ...]:
    return (
        layer.path or layer.kind,
        layer.kind,
        number(layer.num_features),
        span(layer.weight_min, layer.weight_max),
        span(layer.bias_min, layer.bias_max),
        span(layer.running_mean_min, layer.running_mean_max),
        span(layer.running_var_min, layer.running_var_max),
        span(layer.scale_min, layer.scale_max),
        number(layer.eps),
        number(layer.momentum),
        number(layer.nonfinite_state),
    )


def _channels(report: StatsReport) -> Table:
    known = [name for name in CHANNEL_FIELDS if any(_has(layer, name) for layer in report.layers)]
    columns = (
        Column("layer", "left"),
        Column("channel"),
        *(Column(name, "right", 0 if name == report.sorted_by else _PRIORITY[name]) for name in known),
    )
    rows = _channel_rows(report, known)
    if report.sorted_by in known:
        key = 2 + known.index(report.sorted_by)
        rows = iter(sorted(rows, key=lambda row: _size(row[key]), reverse=True))
    return Table(columns=columns, rows=tuple(rows))


def _size(cell: str) -> float:
    try:
        return abs(float(cell.replace(",", "")))
    except ValueError:
        return -1.0


def _has(layer: StatsLayer, name: str) -> bool:
    return layer.channels is not None and getattr(layer.channels, name) is not None


def _channel_rows(report: StatsReport, names: list[str]) -> Iterator[tuple[str, ...]]:
    for layer in report.layers:
        vectors = [getattr(layer.channels, name) for name in names]
        index = layer.channels.index if layer.channels is not None else None
        for position in range(_length(vectors)):
            channel = position if index is None else int(index[position])
            cells = (_cell(vector, position) for vector in vectors)
            yield (layer.path or layer.kind, str(channel), *cells)


def _length(vectors: list[Vector | None]) -> int:
    return max((len(vector) for vector in vectors if vector is not None), default=0)


def _cell(vector: Any, position: int) -> str:
    return "-" if vector is None else number(vector[position].item())


def _values(report: StatsReport) -> tuple[str, ...]:
    """The normalised batch with four decimals, as torch prints it."""
    if report.values is None:
        return ()
    import numpy as np

    with np.printoptions(threshold=report.values.size + 1, floatmode="fixed", precision=_VALUES, suppress=True):
        text = np.array2string(report.values, separator=", ", max_line_width=100)
    return ("Normalised output:", *text.splitlines())


def _apart(report: StatsReport) -> tuple[str, ...]:
    lines = []
    if report.never_called:
        names = [layer.path for layer in report.never_called]
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        lines.append(f"Not executed in {report.tool.mode} mode: {', '.join(names[:10])}{more}")
    lines += [
        f"Functional batch_norm without a BatchNorm module: {call.calls} in {call.path or 'the model'} ({call.kind})"
        for call in report.functional_calls
    ]
    return tuple(lines)
