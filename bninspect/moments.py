"""Per-channel moments of a layer's input: the kernels, and their exact merge.

Layout: a layer's input is ``[N, C, *positions]`` in any memory format and any floating dtype. Kernels look at it as a
view ``[N, C, S]``, or where channels lie innermost (channels_last) ``[N, S, C]``, with S the product of the positions.
Results are :class:`Moments`, float64 vectors of ``[C]``. Nothing here reads a module or prints.

The variance is taken in steps. The first is one cheap pass, ``mean(x^2) - mean(x)^2``, whose relative error is that of
a float32 sum times ``1 + kappa^2``, ``kappa = |mean| / std``. Channels where that could pass the promised 1e-6 are
shifted by their mean and measured again; what is still in doubt (constants, overflow, underflow, NaN) is done in
float64 by the definition. On a device such as CUDA, where a look at a number would wait for the queue, every channel
is shifted (:func:`enqueue`), and :func:`doubtful` tells afterwards which layers :func:`exact` has to measure again.
"""

from __future__ import annotations

from functools import lru_cache, reduce
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

Vector = npt.NDArray[np.float64]

_ROW = 256  # longest run summed in float32 at once: in longer ones equal values err in one direction (2e-6 at 1024)
_SHORT_ROW = 64  # shorter runs are not worth their calls
_CACHED = 1 << 18  # float32 values that stay in the processor's cache while several figures are taken of them
_BLOCK = 1 << 20  # values that the float64 path holds at once
_TOY = 4096  # so few values are done in float64 at once
_SMALL_PLANE = 256  # below so many positions torch finds extremes faster over images first
_TINY = 1e-30  # a mean square below this has lost digits to float32 underflow
_PROMISE = 1e-6  # relative error of a variance
_ROUNDING = {torch.float32: 1e-7, torch.float64: 2e-16}  # rms relative error of one row's mean square (measured)
_SIGMAS = 5  # a channel is trusted where this many standard deviations of its error keep the promise
_TRUST = {torch.float32: 8.0, torch.float64: 1e8}  # and never beyond: errors of quantised data do not average out


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


class _Sums(NamedTuple):
    """What one pass finds: sums of x ``[N, C]`` and of x^2 ``[C]``; extremes ``[C]``, if they were asked for."""

    first: Vector
    second: Vector
    zeros: Vector | None = None
    low: Vector | None = None
    high: Vector | None = None


def measure(x: Tensor, *, extremes: bool = True) -> Moments:
    """Moments of a tensor on the CPU over everything but its channels, exact to 1e-6 relative.

    Args:
        x: ``[N, C]`` or ``[N, C, *positions]``, floating, any memory format.
        extremes: also find min, max and the number of zeros.
    """
    view, channel = _view(x)
    if view.shape[3 - channel] <= 1 or view.numel() <= _TOY:
        return _exact(view, channel)
    if x.dtype not in _ROUNDING:
        return reduce(merge, (_measure(image.float(), channel, extremes=extremes) for image in view.split(1)))
    return _measure(view, channel, extremes=extremes)


def exact(x: Tensor) -> Moments:
    """Moments of ``x`` in float64 by their definition, block by block; NaN and infinite values are counted apart."""
    return _exact(*_view(x))


def enqueue(x: Tensor, *, extremes: bool = True) -> Tensor:
    """Moments of a tensor on any device, without waiting for it: the fields of :class:`Moments`, ``[10, C]``."""
    view, channel = _view(x)
    if view.dtype not in _ROUNDING:
        view = view.float()
    images, size = view.shape[0], view.shape[3 - channel]
    shift = view.mean((0, 3 - channel))
    var, mean = torch.var_mean(view - _along(shift, channel), 3 - channel, correction=0)
    mean, var, shift = mean.double(), var.double(), shift.double()
    pooled = mean.mean(0)
    between = (mean - pooled).square().sum(0)
    unknown = torch.full_like(shift, torch.nan)
    low, high, zeros = unknown, unknown, unknown
    if extremes:
        low, high = view.amin((0, 3 - channel)).double(), view.amax((0, 3 - channel)).double()
        zeros = (view == 0).sum((0, 3 - channel)).double()
    count, seen = torch.full_like(shift, images * size), torch.full_like(shift, images)
    spread = (var.sum(0) + between) * size
    mean = pooled + shift
    return torch.stack([count, mean, spread, seen, mean, between, torch.zeros_like(shift), zeros, low, high])


def collect(found: list[Moments | Tensor]) -> list[Moments]:
    """Results of :func:`measure` and :func:`enqueue` as moments on the host, all tensors by a single copy."""
    waiting = [result for result in found if isinstance(result, Tensor)]
    if not waiting:
        return [result for result in found if isinstance(result, Moments)]
    columns = torch.cat(waiting, dim=1).cpu().split([result.shape[1] for result in waiting], dim=1)
    arrived = iter([Moments(*column.numpy()) for column in columns])
    return [next(arrived) if isinstance(result, Tensor) else result for result in found]


def doubtful(found: Moments) -> bool:
    """Whether a result of :func:`enqueue` has to be measured again by :func:`exact` (NaN, overflow, underflow)."""
    tiny = (_TINY * found.count > found.M2) & (found.min != found.max)
    return bool((tiny | ~np.isfinite(found.M2 + found.mean)).any())


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
    mean_a, mean_b = np.where(n_a > 0, mean_a, mean_b), np.where(n_b > 0, mean_b, mean_a)
    delta, share = mean_b - mean_a, n_b / np.maximum(n, 1)
    return n, mean_a + delta * share, M2_a + M2_b + np.where(n_a * n_b > 0, delta * delta * n_a * share, 0)


def _view(x: Tensor) -> tuple[Tensor, int]:
    """``x`` as ``[N, C, S]`` or, where channels lie innermost, ``[N, S, C]``; and the dimension of the channels."""
    x = x.detach() if x.requires_grad else x
    if x.dim() == 2:
        return x.unsqueeze(2), 1
    if x.dim() > 3 and x.shape[1] > 1 and x.stride(1) == 1 and not x.is_contiguous():
        return x.movedim(1, -1).flatten(1, -2), 2
    return x.flatten(2), 1


def _measure(view: Tensor, channel: int, *, extremes: bool) -> Moments:
    """One pass, then a second or third look at the channels that need it."""
    size = view.shape[3 - channel]
    sums = _planes(view, extremes=extremes) if channel == 1 else _pixels(view, extremes=extremes)
    with np.errstate(invalid="ignore", over="ignore"):  # channels with NaN or infinite values are looked at again
        found = _pool(sums, size)
        doubt = _untrusted(found, sums.second, view.dtype, size)
    if doubt.any():
        _look_again(found, view, channel, np.flatnonzero(doubt))
    return found


def _look_again(found: Moments, view: Tensor, channel: int, index: npt.NDArray[np.intp]) -> None:
    """Measure the channels ``index`` around their mean, or in float64 where that is not enough, into ``found``."""
    size = view.shape[3 - channel]
    shift = torch.from_numpy(found.mean[index]).to(view.dtype)
    part = view.index_select(channel, torch.from_numpy(index)).sub_(_along(shift, channel))
    sums = _planes(part, extremes=False) if channel == 1 else _pixels(part, extremes=False)
    better = _pool(sums, size)
    found.mean[index] = found.image_mean[index] = better.mean + shift.double().numpy()
    found.M2[index] = better.M2
    found.image_M2[index] = better.image_M2
    index = index[_untrusted(better, sums.second, view.dtype, size)]
    if index.size:
        for old, new in zip(found, _exact(view.index_select(channel, torch.from_numpy(index)), channel), strict=True):
            old[index] = new


def _untrusted(found: Moments, second: Vector, dtype: torch.dtype, size: int) -> npt.NDArray[np.bool_]:
    """Channels whose variance may be wrong by more than the promise, or is not a number.

    The sum of squares is ``1 + kappa^2`` times M2. Errors of different rows are independent, so the relative error of
    M2 has a standard deviation of ``rounding * (1 + kappa^2) / sqrt(rows)``.
    """
    rows = float(found.images[0]) * max(1, size // _row_length(size))
    limit = min(_TRUST[dtype], _PROMISE * rows**0.5 / (_SIGMAS * _ROUNDING[dtype]))
    trusted: npt.NDArray[np.bool_] = (second <= limit * found.M2) & (second > _TINY * found.count) & (second < np.inf)
    return ~trusted


def _pool(sums: _Sums, size: int) -> Moments:
    """Moments of all images together."""
    images, channels = sums.first.shape
    means = sums.first / size
    pooled = np.add.reduce(means, 0) / images
    deviation = means - pooled
    unknown = np.full(channels, np.nan)
    return Moments(
        count=np.full(channels, float(images * size)),
        mean=pooled,
        M2=sums.second - pooled * pooled * (images * size),
        images=np.full(channels, float(images)),
        image_mean=pooled.copy(),
        image_M2=np.einsum("nc,nc->c", deviation, deviation),
        nonfinite=np.zeros(channels),
        zeros=unknown if sums.zeros is None else sums.zeros,
        min=unknown if sums.low is None else sums.low,
        max=unknown if sums.high is None else sums.high,
    )


def _planes(view: Tensor, *, extremes: bool) -> _Sums:
    """Sums of x and of x^2, and extremes, of ``[N, C, S]``, in blocks that stay in the cache."""
    images, channels, size = view.shape
    small = size < _SMALL_PLANE
    planes = view.reshape(images * channels, size)
    blocks = (planes,) if planes.numel() <= _CACHED else planes.split(max(1, _CACHED // size))
    scratch = torch.empty_like(blocks[0])  # one for all blocks: holes of their size would be nibbled at in between
    figures = [
        (*_row_sums(block), *(_row_extremes(block, scratch) if extremes and not small else ())) for block in blocks
    ]
    columns = figures[0] if len(figures) == 1 else [np.concatenate(parts) for parts in zip(*figures, strict=True)]
    first, second, *others = (column.reshape(images, channels) for column in columns)
    second = np.add.reduce(second, 0)
    if not extremes:
        return _Sums(first, second)
    if small:
        low, high = view.amin(0).amin(1).double().numpy(), view.amax(0).amax(1).double().numpy()
        return _Sums(first, second, np.add.reduce(_zeros(view, 2, torch.empty_like(view)), 0), low, high)
    zeros, low, high = others
    return _Sums(first, second, np.add.reduce(zeros, 0), low.min(0), high.max(0))


def _row_sums(block: Tensor) -> tuple[Vector, Vector]:
    """Sums of x and of x^2 of each plane of ``[planes, S]``: short rows in float32, added up in float64."""
    size = block.shape[1]
    row = _row_length(size)
    whole = size - size % row
    rows = block.view(-1, size // row, row) if whole == size else block[:, :whole].unflatten(1, (-1, row))
    norms = torch.linalg.vector_norm(rows, dim=2).numpy().astype(np.float64)
    first, second = np.add.reduce(rows.sum(2).numpy(), 1, dtype=np.float64), np.einsum("pr,pr->p", norms, norms)
    if whole < size:
        first += block[:, whole:].sum(1).numpy()
        second += torch.linalg.vector_norm(block[:, whole:], dim=1).double().square_().numpy()
    return first, second


def _row_extremes(block: Tensor, scratch: Tensor) -> tuple[Vector, Vector, Vector]:
    return _zeros(block, 1, scratch[: len(block)]), block.amin(1).double().numpy(), block.amax(1).double().numpy()


def _zeros(block: Tensor, position: int, scratch: Tensor) -> Vector:
    """Number of zeros along ``position``: a comparison into floats is summed thirty times faster than into booleans."""
    return torch.eq(block, 0, out=scratch).sum(position).double().numpy()


def _pixels(view: Tensor, *, extremes: bool) -> _Sums:
    """The same of ``[N, S, C]``, channels innermost."""
    row = _row_length(view.shape[1])
    step = row * max(1, _CACHED // (row * view.shape[2]))
    images = [np.add.reduce([_pixel_sums(block, row) for block in image.split(step)]) for image in view]
    first, second = np.stack([image[0] for image in images]), np.add.reduce([image[1] for image in images])
    if not extremes:
        return _Sums(first, second)
    scratch = torch.empty_like(view[0])
    zeros = np.add.reduce([_zeros(image, 0, scratch) for image in view])
    return _Sums(first, second, zeros, view.amin((0, 1)).double().numpy(), view.amax((0, 1)).double().numpy())


def _pixel_sums(block: Tensor, row: int) -> tuple[Vector, Vector]:
    """Sums of x and of x^2 over the positions of ``[positions, C]``."""
    whole = block.shape[0] - block.shape[0] % row
    return _column_sums(block, whole, row), _column_sums(block.square(), whole, row)


def _column_sums(block: Tensor, whole: int, row: int) -> Vector:
    total = block[:whole].unflatten(0, (-1, row)).sum(1).double().sum(0)
    if whole < block.shape[0]:
        total += block[whole:].sum(0)
    vector: Vector = total.numpy()
    return vector


@lru_cache(maxsize=256)
def _row_length(size: int) -> int:
    """The largest divisor of ``size`` that makes a good row, or the longest row, which leaves a rest."""
    longest = min(size, _ROW)
    divisors = (length for length in range(longest, _SHORT_ROW - 1, -1) if size % length == 0)
    return next(divisors, longest)


def _along(vector: Tensor, channel: int) -> Tensor:
    return vector[:, None] if channel == 1 else vector


def _exact(view: Tensor, channel: int) -> Moments:
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
