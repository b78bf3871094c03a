"""Per-channel moments of a layer's input: what they are, their definition in float64, and their exact merge.

Layout: a layer's input is ``[N, C, *positions]`` in any memory format and any floating dtype. Kernels look at it as a
view ``[N, C, S]``, or where channels lie innermost (channels_last) ``[N, S, C]``, with S the product of the positions.
Results are :class:`Moments`, float64 vectors of ``[C]``. Nothing here reads a module or prints. The fast ways to the
same figures are :mod:`bninspect.moments.cpu` and, on a device such as CUDA, :mod:`bninspect.moments.queued`.
"""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

Vector = npt.NDArray[np.float64]

FAST = (torch.float32, torch.float64)  # dtypes that are summed as they are
TINY = 1e-30  # a mean square below this has lost digits to float32 underflow
_BLOCK = 1 << 20  # values that the float64 path holds at once


class Moments(NamedTuple):
    """Moments per channel, each a float64 vector ``[C]`` (counts are exact up to 2**53).

    ``count``, ``mean`` and ``M2`` (sum of squared deviations) are over the finite values; ``images`` counts the images
    with any, ``image_mean`` and ``image_M2`` are over the images' own means. ``zeros``, ``min`` and ``max`` are NaN
    where extremes were not asked for.
    """

    count: Vector  # type: ignore[assignment]  # the name is the field's standard term; tuple.count is not used
    mean: Vector
    M2: Vector
    images: Vector
    image_mean: Vector
    image_M2: Vector
    nonfinite: Vector
    zeros: Vector
    min: Vector
    max: Vector


def exact(x: Tensor) -> Moments:
    """Moments of ``x`` in float64 by their definition, block by block; NaN and infinite values are counted apart."""
    return exactly(*view_of(x))


def merge(a: Moments, b: Moments) -> Moments:
    """Moments of two disjoint sets of values as one (Chan, Golub and LeVeque, COMPSTAT 1982); exact, in any order."""
    return Moments(
        *_chan(a[:3], b[:3]),
        *_chan(a[3:6], b[3:6]),
        nonfinite=a.nonfinite + b.nonfinite,
        zeros=a.zeros + b.zeros,
        min=np.minimum(a.min, b.min),
        max=np.maximum(a.max, b.max),
    )


def _chan(a: Sequence[Vector], b: Sequence[Vector]) -> tuple[Vector, Vector, Vector]:
    """Count, mean and M2 of two sets together; the mean of an empty set is ignored."""
    (n_a, mean_a, M2_a), (n_b, mean_b, M2_b) = a, b
    n = n_a + n_b
    if n_a.all() and n_b.all():  # the usual case, without the care for empty sets
        delta, share = mean_b - mean_a, n_b / n
        return n, mean_a + delta * share, M2_a + M2_b + delta * delta * n_a * share
    mean_a, mean_b = np.where(n_a > 0, mean_a, mean_b), np.where(n_b > 0, mean_b, mean_a)
    delta, share = mean_b - mean_a, n_b / np.maximum(n, 1)
    return n, mean_a + delta * share, M2_a + M2_b + np.where(n_a * n_b > 0, delta * delta * n_a * share, 0)


def view_of(x: Tensor) -> tuple[Tensor, int]:
    """``x`` as ``[N, C, S]`` or, where channels lie innermost, ``[N, S, C]``; and the dimension of the channels."""
    x = x.detach() if x.requires_grad else x
    if x.dim() == 2:
        return x.unsqueeze(2), 1
    if x.dim() > 3 and x.shape[1] > 1 and x.stride(1) == 1 and not x.is_contiguous():
        return x.movedim(1, -1).flatten(1, -2), 2
    return x.flatten(2), 1


def along(vector: Tensor, channel: int) -> Tensor:
    """A vector ``[C]`` that broadcasts along the channels of a view."""
    return vector[:, None] if channel == 1 else vector


def exactly(view: Tensor, channel: int) -> Moments:
    """:func:`exact` of a view and the dimension of its channels."""
    if channel == 2:
        view = view.transpose(1, 2)
    _, channels, size = view.shape
    if view.numel() == 0:
        return _empty(channels)
    width = max(1, min(channels, _BLOCK // size))
    height = max(1, _BLOCK // (size * width))
    columns = [
        reduce(merge, (_two_pass(block) for block in column.split(height, 0))) for column in view.split(width, 1)
    ]
    return Moments(*(np.concatenate(vectors) for vectors in zip(*columns, strict=True)))


def _two_pass(block: Tensor) -> Moments:
    """The definition, on ``[N, C, S]``: means, then squared deviations, in float64 and around a value of the data."""
    x = block.double()
    finite = x.isfinite()
    low = torch.where(finite, x, torch.inf).amin((0, 2))
    high = torch.where(finite, x, -torch.inf).amax((0, 2))
    first = _first_finite(x, finite)
    x = torch.where(finite, x - first[:, None], 0)
    count, sizes = finite.sum((0, 2)), finite.sum(2)
    mean = x.sum((0, 2)) / count
    deviation = torch.where(finite, x - mean[:, None], 0)
    seen = sizes > 0
    image_mean = torch.where(seen, x.sum(2) / sizes, 0)
    mean_of_images = image_mean.sum(0) / seen.sum(0)
    spread = torch.where(seen, image_mean - mean_of_images, 0)
    figures = (
        count,
        mean + first,
        deviation.square().sum((0, 2)),
        seen.sum(0),
        mean_of_images + first,
        spread.square().sum(0),
        (~finite).sum((0, 2)),
        (block == 0).sum((0, 2)),
        low,
        high,
    )
    return Moments(*torch.stack([figure.double() for figure in figures]).cpu().numpy())


def _first_finite(x: Tensor, finite: Tensor) -> Tensor:
    """One finite value of each channel ``[C]`` (0 where there is none): shifting by it makes constants exact."""
    values, mask = x.transpose(0, 1).flatten(1), finite.transpose(0, 1).flatten(1)
    where = mask.to(torch.uint8).argmax(1, keepdim=True)
    return torch.where(mask.gather(1, where), values.gather(1, where), 0).squeeze(1)


def _empty(channels: int) -> Moments:
    zero, unknown = np.zeros(channels), np.full(channels, np.nan)
    infinite = np.full(channels, np.inf)
    return Moments(zero, unknown, zero, zero, unknown, zero, zero, zero, infinite, -infinite)
