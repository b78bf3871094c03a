"""The figures of a layer, from its moments and its stored values: one formula each, in float64."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from bninspect.report import Channels, StatsLayer, bounds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import numpy.typing as npt

    from bninspect.layers import BatchNormLayer
    from bninspect.moments import Moments
    from bninspect.report import Vector

    Float64 = npt.NDArray[np.float64]

STATE = ("weight", "bias", "running_mean", "running_var")
_SETTINGS = (
    "path", "kind", "num_features", "eps", "momentum", "affine", "track_running_stats", "training",
    "num_batches_tracked",
)  # fmt: skip
_SPANNED = ("mean", "var", "weight", "bias", "running_mean", "running_var", "scale")  # of which both ends are shown
_RANGED = (*_SPANNED, "min", "max", "d", "r", "z")
_settings_of = attrgetter(*_SETTINGS)
_EMPTY = np.empty(0, np.float16)
_BLOCK = 1 << 20  # entries, so that what is made on the way stays small


def stored(layers: Sequence[BatchNormLayer]) -> tuple[StatsLayer, ...]:
    """What is known of layers without a batch: their stored values and the ranges of these."""
    columns = [*([getattr(layer, name) for layer in layers] for name in STATE), [_scale(layer) for layer in layers]]
    lowest, highest, nonfinite = zip(*map(extremes_of, columns), strict=True)
    rows = (zip(*each, strict=True) for each in (columns, lowest, highest, nonfinite[:-1]))
    return tuple(map(_stored, layers, *rows))


def _stored(
    layer: BatchNormLayer,
    vectors: tuple[Vector | None, ...],
    low: tuple[float | None, ...],
    high: tuple[float | None, ...],
    nonfinite: tuple[int, ...],
) -> StatsLayer:
    """A layer; its vectors and their ranges are those of ``STATE`` and the scale, in this order."""
    weight, bias, running_mean, running_var, scale = vectors
    return StatsLayer(
        path=layer.path,
        kind=layer.kind,
        num_features=layer.num_features,
        eps=layer.eps,
        momentum=layer.momentum,
        affine=layer.affine,
        track_running_stats=layer.track_running_stats,
        training=layer.training,
        num_batches_tracked=layer.num_batches_tracked,
        weight_min=low[0],
        weight_max=high[0],
        bias_min=low[1],
        bias_max=high[1],
        running_mean_min=low[2],
        running_mean_max=high[2],
        running_var_min=low[3],
        running_var_max=high[3],
        scale_min=low[4],
        scale_max=high[4],
        nonfinite_state=sum(nonfinite),
        channels=Channels(weight=weight, bias=bias, running_mean=running_mean, running_var=running_var, scale=scale),
    )


def extremes_of(vectors: Iterable[Vector | None]) -> tuple[list[float | None], list[float | None], list[int]]:
    """Smallest and largest finite entry of each vector, and how many are not finite; of no vector, none.

    Many short ones are looked at in one step.
    """
    lowest: list[float | None] = []
    highest: list[float | None] = []
    nonfinite: list[int] = []
    for block in _blocks(vectors):
        least, most, counts = _extremes(block)
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


def _extremes(vectors: list[Vector | None]) -> tuple[list[float | None], list[float | None], list[int]]:
    ends = np.cumsum([0 if vector is None else vector.size for vector in vectors])
    flat = np.concatenate([_EMPTY, *(vector for vector in vectors if vector is not None)])
    finite = np.isfinite(flat)
    starts = np.append(0, ends)[:-1]
    least = _folded(np.minimum, np.where(finite, flat, np.inf), starts, ends, np.inf)
    most = _folded(np.maximum, np.where(finite, flat, -np.inf), starts, ends, -np.inf)
    unknown = least > most
    counts: list[int] = _folded(np.add, (~finite).astype(np.int64), starts, ends, 0).tolist()
    return _known(least, unknown), _known(most, unknown), counts


def _known(values: Vector, unknown: Vector) -> list[float | None]:
    known = values.astype(object)
    known[unknown] = None
    return known.tolist()  # type: ignore[no-any-return]


def _folded(function: np.ufunc, flat: Vector, starts: Vector, ends: Vector, nothing: float) -> Vector:
    """The entries from each start to its end taken together."""
    folded = np.full(len(starts), nothing, flat.dtype)
    some = ends > starts
    if some.any():
        folded[some] = function.reduceat(flat, starts[some])
    return folded


def live(
    layer: BatchNormLayer, found: Moments, calls: int, dtype: str, *, extremes: bool, sampled: float | None = None
) -> StatsLayer:
    """What a batch did in a layer; ``found`` holds the moments of its input, ``sampled`` the share of images drawn."""
    channels = _channels(layer, found, extremes=extremes, sampled=sampled)
    return StatsLayer(
        **_settings(layer),
        nonfinite_state=_nonfinite(layer),
        count=int((found.count + found.nonfinite).max(initial=0)),
        num_images=int(found.images.max(initial=0)),
        calls=calls,
        dtype=dtype,
        dead=_dead(layer, channels),
        nonfinite=int(found.nonfinite.sum()),
        zero_fraction=_share(found) if extremes else None,
        channels=channels,
        **_ranges(channels),
    )


def _nonfinite(layer: BatchNormLayer) -> int:
    vectors = [vector for name in STATE if (vector := getattr(layer, name)) is not None]
    return int(sum(np.count_nonzero(~np.isfinite(vector)) for vector in vectors))


def _settings(layer: BatchNormLayer) -> dict[str, Any]:
    return dict(zip(_SETTINGS, _settings_of(layer), strict=True))


def _channels(layer: BatchNormLayer, found: Moments, *, extremes: bool, sampled: float | None) -> Channels:
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        var = np.where(found.count > 0, found.M2 / found.count, np.nan)
        seen = found.count > 0
        between = np.where(found.images > 1, found.image_M2 / (found.images - 1), np.nan)
        d, r, z = _distances(layer, found, var, between)
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
            weight=layer.weight,
            bias=layer.bias,
            running_mean=layer.running_mean,
            running_var=layer.running_var,
            scale=_scale(layer),
            d=d,
            r=r,
            z=z,
        )


def _scale(layer: BatchNormLayer) -> Float64 | None:
    """What eval mode multiplies by; unknown where eps is."""
    if layer.running_var is None or layer.eps is None:
        return None
    with np.errstate(invalid="ignore", divide="ignore"):
        scale: Float64 = 1 / np.sqrt(layer.running_var.astype(np.float64) + layer.eps)
    return scale if layer.weight is None else scale * layer.weight


def _distances(
    layer: BatchNormLayer, found: Moments, var: Float64, between: Float64
) -> tuple[Vector | None, Vector | None, Vector | None]:
    """Batch Renormalization's d and r (arXiv 1702.03275), and d in standard errors over images."""
    if layer.running_mean is None or layer.running_var is None or layer.eps is None:
        return None, None, None
    shift = found.mean - layer.running_mean.astype(np.float64)
    spread = layer.running_var.astype(np.float64) + layer.eps
    return shift / np.sqrt(spread), np.sqrt((var + layer.eps) / spread), shift / np.sqrt(between / found.images)


def _ranges(channels: Channels) -> dict[str, Any]:
    """Aggregates of a layer over its channels, of finite entries."""
    vectors = {name: getattr(channels, name) for name in _RANGED}
    vectors |= {name: None if vectors[name] is None else np.abs(vectors[name]) for name in ("d", "z")}
    known = {name: vector for name, vector in vectors.items() if vector is not None}
    rows = np.array(list(known.values()), np.float64)
    least, most = (dict(zip(known, ends, strict=True)) for ends in _ends(rows))
    middle = _medians(np.array([known["d"], known["r"]])) if "d" in known else (None, None)
    ranges: dict[str, Any] = {f"{name}_min": least.get(name) for name in (*_SPANNED, "r")}
    ranges |= {f"{name}_max": most.get(name) for name in (*_SPANNED, "d", "r", "z")}
    return ranges | {"min": least.get("min"), "max": most.get("max"), "d_median": middle[0], "r_median": middle[1]}


def _ends(rows: Float64) -> tuple[Sequence[float | None], Sequence[float | None]]:
    """Smallest and largest finite entry of each row."""
    if rows.size:
        least, most = rows.min(1), rows.max(1)
        if np.isfinite(least).all() and np.isfinite(most).all():  # and so all between them
            return least.tolist(), most.tolist()
    return [_of(np.min, row) for row in rows], [_of(np.max, row) for row in rows]


def _medians(rows: Float64) -> Sequence[float | None]:
    """The median of the finite entries of each row."""
    if not rows.size or not np.isfinite(rows).all():
        return [_of(np.median, row) for row in rows]
    ordered = np.sort(rows, axis=1)  # in a fifth of the time of np.median, for so few
    last = rows.shape[1] - 1
    return ((ordered[:, last // 2] + ordered[:, (last + 1) // 2]) / 2).tolist()  # type: ignore[no-any-return]


def _of(function: Callable[..., Any], vector: Vector) -> float | None:
    finite = vector[np.isfinite(vector)]
    return float(function(finite)) if finite.size else None


def _dead(layer: BatchNormLayer, channels: Channels) -> int | None:
    """Channels whose output barely moves: ``|weight| * sqrt(var / (var + eps)) < bounds.DEAD``."""
    if channels.var is None or layer.eps is None:
        return None
    gain = 1.0 if layer.weight is None else np.abs(layer.weight)
    with np.errstate(invalid="ignore"):
        output = gain * np.sqrt(channels.var / np.maximum(channels.var + layer.eps, np.finfo(np.float64).tiny))
    return int((output < bounds.DEAD).sum())


def _share(found: Moments) -> float | None:
    total = float(found.count.sum())
    return float(found.zeros.sum()) / total if total else None
