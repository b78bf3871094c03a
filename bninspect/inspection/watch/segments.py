"""All channels of all layers in one vector: figures by layer in a few calls, however many layers there are."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bninspect.report import Vector, WatchedLayer


class Segments:
    """These layers, one behind the other: their paths, sizes, eps, and which have a weight."""

    def __init__(self, layers: Sequence[WatchedLayer]) -> None:
        self.paths = tuple(layer.path for layer in layers)
        self.sizes = np.array([layer.num_features for layer in layers])
        self.eps = np.array([layer.eps for layer in layers])
        self.affine = np.array([bool(layer.affine) for layer in layers])
        self._starts = np.concatenate([[0], np.cumsum(self.sizes)[:-1]])
        self._widths = {
            int(width): (
                np.flatnonzero(self.sizes == width),
                self._starts[self.sizes == width][:, None] + np.arange(width),
            )
            for width in np.unique(self.sizes)
        }

    def spread(self, values: Vector) -> Vector:
        """A value of each layer at each of its channels."""
        return np.repeat(values, self.sizes)

    def of(self, index: int) -> slice:
        """The channels of one layer."""
        return slice(int(self._starts[index]), int(self._starts[index] + self.sizes[index]))

    def total(self, values: Vector) -> Vector:
        """Sums by layer, in float64."""
        sums: Vector = np.add.reduceat(values, self._starts, dtype=np.float64)
        return sums

    def mean(self, values: Vector) -> Vector:
        """Means by layer."""
        means: Vector = self.total(values) / self.sizes
        return means

    def least(self, values: Vector) -> Vector:
        """The least by layer; NaN is passed over."""
        return np.fmin.reduceat(values, self._starts)

    def most(self, values: Vector) -> Vector:
        """The most by layer; NaN is passed over."""
        return np.fmax.reduceat(values, self._starts)

    def median(self, values: Vector) -> Vector:
        """Medians by layer; NaN is passed over. Layers of one width are done together."""
        medians, of = np.empty(len(self.sizes)), np.nanmedian if np.isnan(values).any() else np.median
        with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # of nothing but NaN
            for layers, channels in self._widths.values():
                medians[layers] = of(values[channels], axis=1)
        return medians
