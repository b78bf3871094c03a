"""How far two figures are apart, in the unit that fits them: the formulas of a comparison, on numpy vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from bninspect.report import Tolerance, Vector

    Float64 = npt.NDArray[np.float64]

EPS = 1e-5  # PyTorch's default, for a layer whose own is unknown (a state dict holds none)
Unit = Literal["std", "ratio", "rms", "of var", "share"]

WEIGHTS = ("weight", "bias")
EXTREMES = {"min", "max"}
SINGLE = 20.0  # a single value is off by about ten times what the mean of many is (measured: TF32, channels_last)
DERIVED = frozenset(
    {"std", "var_unbiased", "scale", "scale_min", "scale_max", "d", "r", "z", "z_max"}
)  # of what is compared
COMPUTED = frozenset({"c_shift", "c_scale", "dropout", "shift_iid"})  # of a layer of noise, from what is compared
_UNITS: dict[str, Unit] = {
    "mean": "std",
    "running_mean": "std",
    "min": "std",
    "max": "std",
    "d": "std",
    "var": "ratio",
    "running_var": "ratio",
    "r": "ratio",
    "between_image_var": "of var",
    "weight": "rms",
    "bias": "rms",
    "zero_fraction": "share",
}  # of a vector, and of its range over channels; what is not here is compared exactly

_PLAIN: dict[str, Unit] = {
    **dict.fromkeys(("shift", "shift_p95", "scale", "scale_p95", "score_noise"), "ratio"),
    **dict.fromkeys(("r_min", "r_max", "r_min_before", "r_max_before"), "ratio"),
    **dict.fromkeys(("d_max", "d_max_before"), "std"),
    **dict.fromkeys(("disagreement", "changed", "accuracy", "accuracy_before"), "share"),
}  # of reports whose layers have no scale: noise, recalibrate


class Apart(NamedTuple):
    """The distance per entry, its unit (``None``: compared exactly), and which entries are beyond the tolerance."""

    distance: Float64
    unit: Unit | None
    beyond: npt.NDArray[np.bool_]


class Scale(NamedTuple):
    """What distances in one layer are measured by: eps, the channels' standard deviations and the weight's size."""

    eps: float
    std: Any  # per channel, or of the layer
    rms: float


def scale_of(layer: Any) -> Scale:
    """Of the earlier report's layer: its running variance, or the batch's where that is larger or the only one.

    Rounding grows with the values that went through the layer, so the larger of the two tells noise from a change.
    """
    eps = EPS if layer.eps is None else layer.eps
    channels = layer.channels
    if channels is None:
        largest = [value for value in (layer.running_var_max, layer.var_max) if value is not None]
        weight = [abs(value) for value in (layer.weight_min, layer.weight_max) if value is not None]
        return Scale(eps, _root(np.float64(max(largest, default=1.0)) + eps), _size(np.array(weight or [1.0])))
    known = [vector.astype(np.float64) for vector in (channels.running_var, channels.var) if vector is not None]
    var = np.fmax.reduce(known) if known else np.ones(layer.num_features)
    return Scale(eps, _root(var + eps), 1.0 if channels.weight is None else _size(channels.weight.astype(np.float64)))


def _root(spread: Any) -> Any:
    """The square root where there is one, else 1: a broken variance measures nothing."""
    with np.errstate(invalid="ignore"):
        root = np.sqrt(spread)
    return np.where(np.isfinite(root) & (root > 0), root, 1.0)


def _size(weight: Float64) -> float:
    """Root mean square of the finite entries; 1 where that is zero."""
    finite = weight[np.isfinite(weight)]
    return float(np.sqrt(np.mean(finite**2))) or 1.0 if finite.size else 1.0


def apart(field: str, a: Vector, b: Vector, scale: Scale, tolerance: Tolerance) -> Apart | None:
    """How far ``b`` is from ``a``; ``None``: the field is compared exactly. NaN equals NaN."""
    name = field if field in _UNITS else field.rpartition("_")[0]
    if name not in _UNITS:
        return None
    unit = _UNITS[name]
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    limit = tolerance.var if unit in {"ratio", "of var"} else tolerance.mean * (SINGLE if name in EXTREMES else 1.0)
    with np.errstate(all="ignore"):
        if unit == "ratio":
            return _ratio(a, b, 0.0 if name == "r" else scale.eps, limit)
        sizes = {"std": scale.std, "rms": scale.rms, "of var": scale.std**2, "share": 1.0}
        return _shift(a, b, np.fmax(1.0, np.abs(a)) if name == "d" else sizes[unit], unit, limit)


def plain(field: str, a: float, b: float, tolerance: Tolerance) -> Apart | None:
    """The same for a figure that has its unit in itself; ``None``: it is compared exactly."""
    unit = _PLAIN.get(field)
    if unit is None:
        return None
    old, new = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    with np.errstate(all="ignore"):
        if unit == "ratio":
            return _ratio(old, new, 0.0, tolerance.var)
        return _shift(old, new, max(1.0, abs(a)) if unit == "std" else 1.0, unit, tolerance.mean)


def exact(a: Vector, b: Vector) -> Apart:
    """Whole numbers: any difference is beyond the tolerance."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    return Apart(np.abs(b - a), None, ~same(a, b))


def same(a: Vector, b: Vector) -> npt.NDArray[np.bool_]:
    """Where two vectors are equal to the bit, NaN to NaN."""
    equal: npt.NDArray[np.bool_] = (a == b) | (np.isnan(a) & np.isnan(b))
    return equal


def _shift(a: Float64, b: Float64, unit: Any, name: Unit, limit: float) -> Apart:
    """``(b - a) / unit``; two equal infinities, or two NaN, are nought apart, and a NaN and a number infinitely far."""
    distance = np.where(same(a, b), 0.0, (b - a) / unit)
    distance = np.where(np.isnan(distance), np.inf, distance)
    return Apart(distance, name, np.abs(distance) > limit)


def _ratio(a: Float64, b: Float64, eps: float, limit: float) -> Apart:
    """``(b + eps) / (a + eps)``; beyond the limit where it, or its inverse, is more than ``1 + limit``."""
    ratio = np.where(same(a, b), 1.0, (b + eps) / (a + eps))
    ratio = np.where(ratio > 0, ratio, np.inf)  # NaN, an infinity on one side, another sign
    return Apart(ratio, "ratio", np.maximum(ratio, 1 / ratio) > 1 + limit)


def furthest(found: Apart) -> int:
    """The entry that is furthest off."""
    sizes = np.abs(np.log(found.distance) if found.unit == "ratio" else found.distance)
    return int(np.argmax(np.where(np.isnan(sizes), np.inf, sizes)))
