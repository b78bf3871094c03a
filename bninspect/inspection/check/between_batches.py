"""Batches compared with each other: variance within them, an F test between them, and the noise of their statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from bninspect.report import StatsReport

    Float64 = npt.NDArray[np.float64]
    Total = tuple[float, Float64, Float64]  # count, mean, M2

_LEAST = 20  # degrees of freedom within batches, below which the test's approximation is not trusted
_Z = 3.0902  # of a normal distribution at 0.999


class Within:
    """Unbiased variance within batches, from the statistics after each of them."""

    def __init__(self) -> None:
        self.before: dict[str, Total] = {}
        self.spread: dict[str, Float64] = {}
        self.freedom: dict[str, float] = {}
        self.batches = 0

    def add(self, report: StatsReport) -> None:
        """Take in the statistics of everything up to and with one more batch."""
        self.batches += 1
        for layer in report.layers:
            channels = layer.channels
            if channels is None or channels.mean is None or channels.var is None or layer.count is None:
                continue
            total = float(layer.count), channels.mean, channels.var * layer.count
            spread, count = _last(self.before.get(layer.path), total)
            if count > 0:
                self.spread[layer.path] = self.spread.get(layer.path, 0) + spread
                self.freedom[layer.path] = self.freedom.get(layer.path, 0) + count - 1
            self.before[layer.path] = total

    def variances(self) -> dict[str, Float64]:
        """By path; none where there was one batch only."""
        if self.batches < 2:
            return {}
        return {path: spread / self.freedom[path] for path, spread in self.spread.items() if self.freedom[path] > 0}


def _last(
    before: tuple[float, Float64, Float64] | None, total: tuple[float, Float64, Float64]
) -> tuple[Float64, float]:
    """M2 and count of the last batch: the merge of Chan, Golub and LeVeque, solved for it."""
    if before is None:
        return total[2], total[0]
    (n_a, mean_a, spread_a), (n, mean, spread) = before, total
    n_b = n - n_a
    if n_b <= 0:
        return np.zeros_like(mean), 0.0
    delta = (mean - mean_a) * (n / n_b)
    return np.maximum(spread - spread_a - delta * delta * (n_a * n_b / n), 0), n_b


def differing(image_means: Sequence[Float64]) -> float | None:
    """Share of channels whose image means ``[n, C]`` differ between batches: one-way F test at 0.001.

    ``None`` where there are too few images or batches to tell.
    """
    groups = [means for means in image_means if len(means)]
    images = sum(map(len, groups))
    if len(groups) < 2 or images - len(groups) < _LEAST:
        return None
    pooled = np.concatenate(groups).mean(0)
    between = sum(len(means) * (means.mean(0) - pooled) ** 2 for means in groups) / (len(groups) - 1)
    within = sum(((means - means.mean(0)) ** 2).sum(0) for means in groups) / (images - len(groups))
    limit = critical_f(len(groups) - 1, images - len(groups))
    with np.errstate(invalid="ignore"):
        return float(np.mean((between > limit * within) & (within > (1e-6 * pooled) ** 2)))


def critical_f(between: int, within: int) -> float:
    """The 0.999 quantile of an F distribution by Paulson's normal approximation (2 % for 20 degrees or more within)."""
    a, b = 2 / (9 * between), 2 / (9 * within)
    root = np.sqrt(a * (1 - b) ** 2 + b * (1 - a) ** 2 - a * b * _Z**2)
    return float((((1 - a) * (1 - b) + _Z * root) / ((1 - b) ** 2 - b * _Z**2)) ** 3)


def noise(means: Sequence[Float64], variances: Sequence[Float64], eps: float) -> float:
    """Median over channels of ``Var(mean_B) / v + Var(var_B) / (4 v^2)`` over batches B, v the variance plus eps."""
    mean, var = np.stack(means), np.stack(variances)
    total = var.mean(0) + eps
    return float(np.median(mean.var(0, ddof=1) / total + var.var(0, ddof=1) / (4 * total**2)))
