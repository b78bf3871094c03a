"""The figures of layers, from their moments and their stored values: one formula each, in float64.

Where a batch was seen, vectors hold the channels of all layers side by side, ``[all channels]``, and ``ends`` tells
where each layer's part ends, ``[layers]``: a figure is worked out once for all layers, and then cut.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from bninspect.report import Channels, StatsLayer, bounds

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import numpy.typing as npt

    from bninspect.layers import BatchNormLayer
    from bninspect.moments import Moments
    from bninspect.report import Vector

    Float64 = npt.NDArray[np.float64]
    Column = Sequence[Any]  # something of each layer
    Span = tuple[Column, Column, list[int]]  # of a vector: least and largest finite entry, and how many are not finite

STATE = ("weight", "bias", "running_mean", "running_var")
_IDLE = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}  # of a layer that has none
_SETTINGS = (
    "path", "kind", "num_features", "eps", "momentum", "affine", "track_running_stats", "training",
    "num_batches_tracked",
)  # fmt: skip
_SPANNED = ("mean", "var", *STATE, "scale", "r")  # of which both ends are shown
_settings_of = attrgetter(*_SETTINGS)
_EMPTY = np.empty(0, np.float16)
_BLOCK = 1 << 20  # entries, so that what is made on the way stays small


def stored(layers: Sequence[BatchNormLayer]) -> tuple[StatsLayer, ...]:
    """What is known of layers without a batch: their stored values and the ranges of these."""
    vectors = {name: [getattr(layer, name) for layer in layers] for name in STATE}
    vectors["scale"] = [_scale_of(layer) for layer in layers]
    spans = {name: extremes_of(column) for name, column in vectors.items()}
    return _layers(layers, vectors, _ends(spans) | {"nonfinite_state": _nonfinite(spans)})


def live(
    layers: Sequence[BatchNormLayer],
    found: Moments,
    calls: Sequence[int],
    dtypes: Sequence[str],
    *,
    extremes: bool,
    sampled: float | None = None,
) -> tuple[StatsLayer, ...]:
    """What a batch did in each layer.

    Args:
        layers: as many as there are parts in the moments.
        found: the moments of the layers' inputs, side by side.
        calls: how often each layer ran in one forward.
        dtypes: of the layers' inputs.
        extremes: whether min, max and zeros were looked for.
        sampled: the share of the images that was drawn, where the rest was left out.
    """
    ends = np.cumsum([layer.num_features for layer in layers], dtype=np.int64)
    eps = np.repeat([layer.eps or 0.0 for layer in layers], np.diff(ends, prepend=0))
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        channels = _channels(layers, found, eps, extremes=extremes, sampled=sampled)
        dead = _dead(channels, eps)
    known = {name: vector for name, vector in msgspec.structs.asdict(channels).items() if vector is not None}
    unknown = _unknown(layers)
    vectors = {name: _but(unknown.get(name), cut(vector, ends)) for name, vector in known.items()}
    vectors |= {name: [getattr(layer, name) for layer in layers] for name in STATE}  # in their own dtype
    return _layers(
        layers,
        vectors,
        {
            **_aggregates(known, ends, unknown),
            "count": _folded(np.maximum, found.count + found.nonfinite, ends, 0).astype(np.int64).tolist(),
            "num_images": _folded(np.maximum, found.images, ends, 0).astype(np.int64).tolist(),
            "calls": calls,
            "dtype": dtypes,
            "dead": _but(unknown["eps"], _folded(np.add, dead.astype(np.int64), ends, 0).tolist()),
            "nonfinite": _folded(np.add, known["nonfinite"], ends, 0).tolist(),
            "zero_fraction": _shares(found, ends) if extremes else [None] * len(layers),
        },
    )


def cut(vector: Vector, ends: Vector) -> list[Vector]:
    """The part of each layer."""
    last = ends.tolist()
    return [vector[begin:end] for begin, end in zip([0, *last], last, strict=False)]


def _layers(
    layers: Sequence[BatchNormLayer], vectors: Mapping[str, Column], figures: Mapping[str, Column]
) -> tuple[StatsLayer, ...]:
    """The layers, of columns that hold something of each of them."""
    channels = (Channels(**row) for row in _rows(vectors))
    return tuple(
        StatsLayer(**dict(zip(_SETTINGS, _settings_of(layer), strict=True)), channels=each, **row)
        for layer, each, row in zip(layers, channels, _rows(figures), strict=True)
    )


def _rows(columns: Mapping[str, Column]) -> Iterator[dict[str, Any]]:
    return (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))


def _channels(
    layers: Sequence[BatchNormLayer], found: Moments, eps: Float64, *, extremes: bool, sampled: float | None
) -> Channels:
    """The figures of all layers side by side; what a layer lacks is :data:`_IDLE` here."""
    weight, bias, running_mean, running_var = (_side_by_side(layers, name) for name in STATE)
    seen = found.count > 0
    var = np.where(seen, found.M2 / found.count, np.nan)
    between = np.where(found.images > 1, found.image_M2 / (found.images - 1), np.nan)
    shift, spread = found.mean - running_mean, running_var + eps
    return Channels(
        mean=found.mean,
        var=var,
        var_unbiased=np.where(found.count > 1, found.M2 / (found.count - 1), np.nan),
        std=np.sqrt(var),
        min=np.where(seen, found.min, np.nan) if extremes else None,
        max=np.where(seen, found.max, np.nan) if extremes else None,
        zero_fraction=found.zeros / found.count if extremes else None,
        nonfinite=found.nonfinite.astype(np.int64),
        between_image_var=between,
        mean_error=None if sampled is None else np.sqrt(between / found.images * (1 - sampled)),
        weight=weight,
        bias=bias,
        running_mean=running_mean,
        running_var=running_var,
        scale=_scale(weight, running_var, eps),
        d=shift / np.sqrt(spread),
        r=np.sqrt((var + eps) / spread),
        z=shift / np.sqrt(between / found.images),
    )


def _side_by_side(layers: Sequence[BatchNormLayer], name: str) -> Float64:
    own = ((layer, getattr(layer, name)) for layer in layers)
    parts = [np.full(layer.num_features, _IDLE[name]) if vector is None else vector for layer, vector in own]
    return np.concatenate(parts, dtype=np.float64)


def _scale(weight: Vector | float, running_var: Vector, eps: Vector | float) -> Float64:
    """What eval mode multiplies by."""
    scale: Float64 = 1 / np.sqrt(running_var.astype(np.float64) + eps) * weight
    return scale


def _scale_of(layer: BatchNormLayer) -> Float64 | None:
    if layer.running_var is None or layer.eps is None:
        return None
    with np.errstate(invalid="ignore", divide="ignore"):
        return _scale(_IDLE["weight"] if layer.weight is None else layer.weight, layer.running_var, layer.eps)


def _dead(channels: Channels, eps: Float64) -> Vector:
    """Channels whose output barely moves: ``|weight| * sqrt(var / (var + eps)) < bounds.DEAD``."""
    assert channels.weight is not None
    assert channels.var is not None
    gain = np.abs(channels.weight)
    output = gain * np.sqrt(channels.var / np.maximum(channels.var + eps, np.finfo(np.float64).tiny))
    dead: Vector = output < bounds.DEAD
    return dead


def _unknown(layers: Sequence[BatchNormLayer]) -> dict[str, list[bool]]:
    """Which layers lack a figure, of those figures that one may lack."""
    without = {name: np.array([getattr(layer, name) is None for layer in layers]) for name in (*STATE, "eps")}
    without["scale"] = without["running_var"] | without["eps"]
    without |= dict.fromkeys("drz", without["scale"] | without["running_mean"])
    return {name: lacking.tolist() for name, lacking in without.items()}


def _but(unknown: Sequence[bool] | None, column: Column) -> Column:
    """A column with ``None`` where something is unknown."""
    if unknown is None or not any(unknown):
        return column
    return [None if lacking else value for lacking, value in zip(unknown, column, strict=True)]


def _aggregates(known: dict[str, Vector], ends: Vector, unknown: Mapping[str, list[bool]]) -> dict[str, Column]:
    """Each layer's ranges and medians over its channels, of finite entries."""
    known = known | {name: np.abs(known[name]) for name in "dz"}
    spans = {}
    for name in (*_SPANNED, "d", "z", "min", "max"):
        if name in known:
            least, most, nonfinite = _extremes(known[name], ends)
            spans[name] = _but(unknown.get(name), least), _but(unknown.get(name), most), nonfinite
    aggregates = _ends({name: spans[name] for name in _SPANNED})
    aggregates |= {"d_max": spans["d"][1], "z_max": spans["z"][1], "nonfinite_state": _nonfinite(spans)}
    aggregates |= {f"{name}_median": _but(unknown[name], _medians(known[name], ends)) for name in "dr"}
    return aggregates | ({"min": spans["min"][0], "max": spans["max"][1]} if "min" in spans else {})


def _ends(spans: Mapping[str, Span]) -> dict[str, Column]:
    return {
        f"{name}_{end}": column
        for name, span in spans.items()
        for end, column in zip(("min", "max"), span, strict=False)
    }


def _nonfinite(spans: Mapping[str, Span]) -> list[int]:
    """Entries of the stored values that are not finite."""
    return [sum(counts) for counts in zip(*(spans[name][2] for name in STATE), strict=True)]


def extremes_of(vectors: Iterable[Vector | None]) -> Span:
    """Smallest and largest finite entry of each vector, and how many are not finite; of no vector, none.

    Many short ones are looked at in one step.
    """
    lowest: list[float | None] = []
    highest: list[float | None] = []
    nonfinite: list[int] = []
    for block in _blocks(vectors):
        flat = np.concatenate([_EMPTY, *(vector for vector in block if vector is not None)])
        ends = np.cumsum([0 if vector is None else vector.size for vector in block], dtype=np.int64)
        least, most, counts = _extremes(flat, ends)
        lowest += least
        highest += most
        nonfinite += counts
    return lowest, highest, nonfinite


def _blocks(vectors: Iterable[Vector | None]) -> Iterator[list[Vector | None]]:
    block: list[Vector | None] = []
    size = 0
    for vector in vectors:
        block.append(vector)
        size += 1 if vector is None else 1 + vector.size
        if size >= _BLOCK:
            yield block
            block, size = [], 0
    yield block


def _extremes(flat: Vector, ends: Vector) -> Span:
    """Smallest and largest finite entry of each part, and how many are not finite; ``None`` of a part without any."""
    least, most = _folded(np.minimum, flat, ends, np.inf), _folded(np.maximum, flat, ends, -np.inf)
    if np.isfinite(least).all() and np.isfinite(most).all():  # and so all between them
        return least.tolist(), most.tolist(), [0] * len(ends)
    finite = np.isfinite(flat)
    least = _folded(np.minimum, np.where(finite, flat, np.inf), ends, np.inf)
    most = _folded(np.maximum, np.where(finite, flat, -np.inf), ends, -np.inf)
    counts: list[int] = _folded(np.add, (~finite).astype(np.int64), ends, 0).tolist()
    unknown = (least > most).tolist()
    return _but(unknown, least.tolist()), _but(unknown, most.tolist()), counts


def _medians(flat: Vector, ends: Vector) -> list[float | None]:
    """The median of the finite entries of each part; ``None`` of a part without any."""
    finite = np.isfinite(flat)
    parts = cut(np.where(finite, flat, np.inf), ends)  # what is not finite comes last
    for part in parts:
        part.sort()  # in a fifth of the time of np.median, for so few
    sizes = _folded(np.add, finite.astype(np.int64), ends, 0).tolist()
    middle = ((part, (size - 1) // 2, size // 2) for part, size in zip(parts, sizes, strict=True))
    return [float((part[low] + part[high]) / 2) if low >= 0 else None for part, low, high in middle]


def _folded(function: np.ufunc, flat: Vector, ends: Vector, nothing: float) -> Vector:
    """The entries of each part taken together."""
    folded = np.full(len(ends), nothing, flat.dtype)
    starts = np.append(0, ends)[:-1]
    some = ends > starts
    if some.any():
        folded[some] = function.reduceat(flat, starts[some])
    return folded


def _shares(found: Moments, ends: Vector) -> list[float | None]:
    """The share of zeros among the finite values of each layer."""
    zeros, counts = (_folded(np.add, each, ends, 0).tolist() for each in (found.zeros, found.count))
    return [zero / count if count else None for zero, count in zip(zeros, counts, strict=True)]
