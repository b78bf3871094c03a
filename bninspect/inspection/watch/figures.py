"""The figures of one record, from the states of the layers before and after its step."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bninspect.report import WatchColumns

if TYPE_CHECKING:
    from bninspect.inspection.watch.history import History, Modes, Step
    from bninspect.inspection.watch.segments import Segments
    from bninspect.report import Vector

_DIGITS = 7  # float32 has as many


class Batch(NamedTuple):
    """The batch of a step at each channel, from the averages before and after it.

    ``mean = running_mean + change / weight``, and so the unbiased ``var``; of several batches the weighted mean. NaN in
    layers without an update.
    """

    mean: Vector
    var: Vector
    d: Vector
    r: Vector


def batch_of(step: Step, segments: Segments) -> Batch:
    """Mean and variance of the step's batch, d and r; computed in float64 from what was stored."""
    before, after = ({name: step_of[name].astype(np.float64) for name in ("running_mean", "running_var")}
                     for step_of in (step.before.channels, step.after.channels))  # fmt: skip
    with np.errstate(all="ignore"):
        weight = segments.spread(np.where(step.weight > 0, step.weight, np.nan))
        mean, var = (before[name] + (after[name] - before[name]) / weight for name in before)
        scale = before["running_var"] + segments.spread(segments.eps)
        d = (mean - before["running_mean"]) / np.sqrt(scale)
        r = np.sqrt(np.maximum(var + segments.spread(segments.eps), 0) / scale)
    return Batch(mean, var, d, r)


def columns(step: Step, modes: Modes, history: History, segments: Segments) -> WatchColumns:
    """A record's figures.

    Args:
        step: of the record.
        modes: at it.
        history: since the last record.
        segments: where each layer's channels are.
    """
    now = {name: _finite(values) for name, values in step.after.channels.items()}
    batch, has = Batch(*map(_finite, batch_of(step, segments))), segments.affine
    weight, none = np.abs(now["weight"]), np.full(len(has), np.nan)
    finite = np.isfinite([now[name] for name in ("running_mean", "running_var", "weight", "bias")]).sum(axis=0)
    grads = [_norm(now[name], segments) if name in now else none for name in ("weight_grad", "bias_grad")]
    with np.errstate(all="ignore"):
        return WatchColumns(
            training=tuple(modes.training.tolist()),
            updates=tuple(history.updates.tolist()),
            d_median=_plain(segments.median(np.abs(batch.d))),
            d_max=_plain(segments.most(np.abs(batch.d))),
            r_median=_plain(segments.median(batch.r)),
            r_min=_plain(segments.least(batch.r)),
            r_max=_plain(segments.most(batch.r)),
            running_mean_min=_plain(segments.least(now["running_mean"])),
            running_mean_max=_plain(segments.most(now["running_mean"])),
            running_var_min=_plain(segments.least(now["running_var"])),
            running_var_max=_plain(segments.most(now["running_var"])),
            speed=_plain(history.travelled / max(history.steps, 1)),
            weight_min=_plain(np.where(has, segments.least(weight), np.nan)),
            weight_rms=_plain(np.where(has, np.sqrt(segments.mean(weight.astype(np.float64) ** 2)), np.nan)),
            weight_grad=_plain(grads[0]),
            bias_grad=_plain(grads[1]),
            nonfinite_state=tuple(int(count) for count in segments.total(4 - finite)),
        )


def vectors(step: Step, segments: Segments) -> dict[str, Vector]:
    """What a record says of each channel, by names such as ``layer1.0.bn1.running_mean``; ``mean`` is the batch's."""
    batch = batch_of(step, segments)
    kinds = {name: values for name, values in step.after.channels.items() if not name.endswith("_grad")}
    return {
        f"{path}.{name}" if path else name: np.ascontiguousarray(values[segments.of(index)])
        for name, values in {**batch._asdict(), **kinds}.items()
        for index, path in enumerate(segments.paths)
    }


def _finite(values: Vector) -> Vector:
    """With NaN for infinity, so that both are passed over."""
    return values if np.isfinite(values).all() else np.where(np.isfinite(values), values, np.nan)


def _norm(values: Vector, segments: Segments) -> Vector:
    return np.sqrt(segments.total(values.astype(np.float64) ** 2))


def _plain(values: Vector) -> tuple[float | None, ...]:
    """Rounded to what float32 holds; NaN and infinity as None."""
    wide = values.astype(np.float64)
    with np.errstate(all="ignore"):
        digits = np.power(10.0, _DIGITS - 1 - np.floor(np.log10(np.abs(wide))))
        short = np.where(wide == 0, 0.0, np.round(wide * digits) / digits)
    return tuple(value if np.isfinite(value) else None for value in short.tolist())
