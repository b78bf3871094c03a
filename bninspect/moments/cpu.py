"""One cheap pass over a layer's input on the CPU, from which its moments follow.

``mean(x^2) - mean(x)^2`` costs hardly more than a read of ``x``; its relative error is that of a float32 sum times
``1 + kappa^2``, ``kappa = |mean| / std``. Where channels lie innermost, their squares are taken around a value near the
mean, which costs nothing. Channels where the error could pass the promised 1e-6 are shifted by their mean and measured
again; what is still in doubt (constants, overflow, underflow, NaN) is done in float64 by the definition.

The work is in two parts. :func:`sums_of` is all that needs ``x``, and keeps to few calls of torch: between two layers
of a forward every instruction has to be fetched from memory again, and numpy's twenty small ones cost more there than
the read. :func:`collect` does the rest for all layers of a forward at once.
"""

from __future__ import annotations

from functools import lru_cache, reduce
from itertools import accumulate, groupby
from math import gcd
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bninspect.moments import FAST, TINY, Moments, along, exactly, merge, view_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_ROW = {
    1: 224,
    2: 128,
}  # longest run summed in float32 at once, by the dimension of channels: in longer ones, above all
# over pixels, which are added one by one, equal values err in one direction (2e-6 at 1024)
_SHORT_ROW = 64  # shorter runs are not worth their calls
_CACHED = 1 << 17  # values of a block for each thread, of which several figures are taken: only the first read of
# them comes from memory, the others from the cache of one core
_TOY = 4096  # so few values are done in float64 at once
_SMALL_PLANE = 128  # below so many positions torch finds extremes faster over images first
_PROMISE = 1e-6  # relative error of a variance
_ROUNDING = {torch.float32: 1e-7, torch.float64: 2e-16}  # rms relative error of one row's mean square (measured)
_SIGMAS = 5  # a channel is trusted where this many standard deviations of its error keep the promise
_TRUST = {1: 6.0, 2: 3.0}  # and never beyond: on a grid of values errors lean one way, above all added up over pixels
_TRUST_DOUBLE = 1e8  # the same in float64
_TRUST_LEVELS = 1.5  # of data of a few levels, whose errors do not average out at all
_PROBE = 34  # values of a channel that are looked at for equal ones side by side
_RUN = 64  # values in a row that torch is as fast with as with any more
_LANES = 32  # torch finds extremes of columns four times as fast where their number is a multiple of it

_difference_squared = torch.ops.aten.mse_loss.out


class Sums(NamedTuple):
    """What one pass over a layer's input found, from which :func:`collect` makes moments later.

    ``sums`` ``[N, C]`` of x over the ``size`` positions of each image, and ``squares`` ``[C]``, sums of x^2, are in
    float64, where x is less ``shift`` ``[C]``; ``extremes`` are the number of zeros, min and max ``[C]``; ``again`` are
    indices of the channels that were measured again, and what was found then.
    """

    sums: Tensor
    squares: Tensor
    size: int
    shift: Tensor | None = None
    extremes: tuple[Tensor, Tensor, Tensor] | None = None
    again: tuple[Tensor, Sums | Moments] | None = None


def measure(x: Tensor, *, extremes: bool = True) -> Moments:
    """Moments of a tensor on the CPU over everything but its channels, exact to 1e-6 relative.

    Args:
        x: ``[N, C]`` or ``[N, C, *positions]``, floating, any memory format.
        extremes: also find min, max and the number of zeros.
    """
    return collect([sums_of(x, extremes=extremes)])


def sums_of(x: Tensor, *, extremes: bool = True) -> Sums | Moments:
    """The part of :func:`measure` that needs ``x``, for :func:`collect` to complete."""
    view, channel = view_of(x)
    if view.shape[3 - channel] <= 1 or view.numel() <= _TOY:
        return exactly(view, channel)
    if x.dtype not in FAST:
        images = [_one_pass(image.float(), channel, extremes=extremes) for image in view.split(1)]
        return reduce(merge, (_pool([image]) for image in images))
    return _one_pass(view, channel, extremes=extremes)


def collect(found: Sequence[Moments | Sums]) -> Moments:
    """What :func:`sums_of` found, for all layers side by side.

    Returns:
        Vectors of ``[C1 + C2 + ...]`` in the order of ``found``.
    """
    parts = [part for (kind, _), run in groupby(found, _kind) for part in _FINISH[kind](list(run))]
    return Moments(*(np.concatenate(vectors) for vectors in zip(*parts, strict=True))) if len(parts) > 1 else parts[0]


def _kind(found: Moments | Sums) -> tuple[type, int]:
    """What can be finished together: sums over as many images."""
    return type(found), len(found.sums) if isinstance(found, Sums) else 0


def _one_pass(view: Tensor, channel: int, *, extremes: bool) -> Sums:
    """One pass, then a second or third one at the channels that need it."""
    found = _planes(view, extremes=extremes) if channel == 1 else _pixels(view, extremes=extremes)
    doubt = _doubt(found, view, channel)
    return found if doubt is None else found._replace(again=(doubt, _closer(view, channel, found, doubt)))


def _doubt(found: Sums, view: Tensor, channel: int) -> Tensor | None:
    """Indices of the channels whose variance may break the promise, or is not a number; ``None`` if there are none.

    The sum of squares is ``1 + kappa^2`` times M2. Errors of different rows are independent, so the relative error of
    M2 has a standard deviation of ``rounding * (1 + kappa^2) / sqrt(rows)``; but not where values are equal.
    """
    images, dtype = len(found.sums), view.dtype
    rows = images * max(1, found.size // _row_length(found.size, channel))
    trust = _TRUST_DOUBLE if dtype == torch.float64 else _TRUST[channel]
    limit = min(trust, _PROMISE * rows**0.5 / (_SIGMAS * _ROUNDING[dtype]))
    count = images * found.size
    most, few = (1 - 1 / limit) * count, (1 - 1 / min(limit, _TRUST_LEVELS)) * count
    second = found.squares
    share = found.sums.sum(0).square_().div_(second)  # NaN for zeros
    low, high = second.aminmax()
    if found.shift is not None:  # sums were made of x itself, and must not be much larger than what is left of them
        share.masked_fill_(found.shift.double().square().mul_(count) > second * trust**2, torch.inf)
    greatest, sound = float(share.max()), float(low) > TINY * count and float(high) < torch.inf
    if sound and greatest <= few:
        return None
    shares, squares = share.numpy(), second.numpy()
    trusted = shares <= few
    if dtype == torch.float32:
        between = np.flatnonzero(~trusted)
        trusted[between] = ~_of_levels(view, channel, between)
    if not sound or greatest > most:
        trusted &= (shares <= most) & (squares > TINY * count) & (squares < np.inf)
    return None if trusted.all() else torch.from_numpy(np.flatnonzero(~trusted))


def _of_levels(view: Tensor, channel: int, index: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
    """Which of these channels hold equal values next to each other, or next but one, as data of a few levels do."""
    probe = (view[0, :, :_PROBE] if channel == 1 else view[0, :_PROBE].t()).numpy()[index]
    last = probe[:, 2:]
    found: npt.NDArray[np.bool_] = ((last != 0) & ((last == probe[:, 1:-1]) | (last == probe[:, :-2]))).any(1)
    return found


def _closer(view: Tensor, channel: int, found: Sums, index: Tensor) -> Sums:
    """A pass over the channels ``index`` around their means; in float64 where that is not enough."""
    shift = found.sums[:, index].sum(0) / (len(view) * found.size)
    if found.shift is not None:
        shift += found.shift[index]
    shift = shift.to(view.dtype)
    part = view.index_select(channel, index).sub_(along(shift, channel))
    near = _planes(part, extremes=False) if channel == 1 else _pixels(part, extremes=False)
    rest = _doubt(near, part, channel)
    exact = None if rest is None else (rest, exactly(view.index_select(channel, index[rest]), channel))
    near = near._replace(shift=shift if near.shift is None else shift.double() + near.shift, again=exact)
    if found.extremes:
        zeros, low, high = found.extremes
        near = near._replace(extremes=(zeros[index], low[index], high[index]))
    return near


def _pool(layers: Sequence[Sums]) -> Moments:
    """Moments of all images together, for layers side by side; each has been given as many images."""
    images = len(layers[0].sums)
    widths = [one.sums.shape[1] for one in layers]
    size = np.repeat([float(one.size) for one in layers], widths)
    first = torch.cat([one.sums for one in layers], 1).numpy()
    second = torch.cat([one.squares for one in layers]).numpy()
    pooled = Moments(*np.full((len(Moments._fields), len(size)), np.nan))
    with np.errstate(invalid="ignore", over="ignore"):  # channels with NaN or infinite values are overlaid
        mean = first.sum(0) / (images * size)
        pooled.M2[:] = second - mean * mean * (images * size)
        pooled.image_M2[:] = np.square(first / size - mean).sum(0)
    pooled.count[:], pooled.images[:], pooled.nonfinite[:] = images * size, images, 0
    pooled.mean[:] = pooled.image_mean[:] = mean
    starts = accumulate(widths[:-1], initial=0)
    _complete(pooled, list(zip(layers, starts, strict=True)))
    return pooled


def _complete(pooled: Moments, layers: Sequence[tuple[Sums, int]]) -> None:
    """Write into the moments what is not in the sums of the layers, which begin at these channels."""
    for one, start in layers:
        layer = slice(start, start + one.sums.shape[1])
        if one.shift is not None:
            with np.errstate(invalid="ignore"):  # where it is not a number, the channel is overlaid
                pooled.mean[layer] += one.shift.double().numpy()
            pooled.image_mean[layer] = pooled.mean[layer]
        if one.extremes:
            pooled.zeros[layer], pooled.min[layer], pooled.max[layer] = (figure.numpy() for figure in one.extremes)
    doubted = [(one.again[0].numpy() + start, one.again[1]) for one, start in layers if one.again]
    if doubted:
        where = np.concatenate([index for index, _ in doubted])
        for old, new in zip(pooled, collect([again for _, again in doubted]), strict=True):
            old[where] = new


def _planes(view: Tensor, *, extremes: bool) -> Sums:
    """A pass over ``[N, C, S]``, in blocks that stay in the cache while several figures are taken of them.

    The last block is first: its values were written last, and the layer will read those of the first block first.
    """
    images, channels, size = view.shape
    row = _row_length(size, 1)
    blocks = _blocks(view, max(1, _cached() // size), merged=True)
    scratch = torch.empty_like(blocks[0], memory_format=torch.contiguous_format) if extremes else None
    columns = zip(*[_plane_block(block, row, scratch) for block in reversed(blocks)], strict=True)
    sums, squares, *found = (column[0] if len(blocks) == 1 else torch.cat(column[::-1]) for column in columns)
    sums = sums.view(images, channels, -1).sum(2, dtype=torch.float64)
    squares = squares.view(images, channels, -1).sum((0, 2), dtype=torch.float64)
    if not extremes:
        return Sums(sums, squares, size)
    zeros = found[0].view(images, channels).sum(0, dtype=torch.float64)
    if size < _SMALL_PLANE:
        low, high = view.amin(0).amin(1), _bits(view).amax(0).amax(1)
    else:
        low, high = found[1].view(images, channels).amin(0), found[2].view(images, channels).amax(0)
    return Sums(sums, squares, size, extremes=(zeros, low, _greatest(high, view, 1)))


def _blocks(view: Tensor, length: int, *, merged: bool) -> list[Tensor]:
    """``[N, K, *]`` in parts ``[length, *]`` of ``N * K``; each is of one image where images cannot be merged."""
    if merged and (len(view) == 1 or view.stride(0) == view.shape[1] * view.stride(1)):
        return list(view.flatten(0, 1).split(length))
    return [block for image in view for block in image.split(length)]


def _plane_block(block: Tensor, row: int, scratch: Tensor | None) -> list[Tensor]:
    """Of each plane of ``[planes, S]``: sums of x and x^2 over its rows; its zeros, and of a large plane extremes."""
    if block.stride(1) != 1:  # torch adds up what lies apart one by one, and errs as much
        block = block.contiguous()
    figures = [_of_rows(torch.sum, block, row), _of_rows(torch.linalg.vector_norm, block, row).square_()]
    if scratch is None:
        return figures
    figures.append(_zeros(block, 1, scratch[: len(block)]))
    return figures if block.shape[1] < _SMALL_PLANE else [*figures, block.amin(1), _bits(block).amax(1)]


def _bits(block: Tensor) -> Tensor:
    """The same memory as integers, which are in order where no number is negative, and compared in half the time."""
    return block.view(torch.int32 if block.dtype == torch.float32 else torch.int64)


def _greatest(bits: Tensor, view: Tensor, channel: int) -> Tensor:
    """The greatest values ``[C]`` by the greatest bits; channels without a positive value are looked at again."""
    high = bits.view(view.dtype)
    if int(bits.amin()) < 0:
        index = (bits < 0).nonzero().flatten()
        high[index] = view.index_select(channel, index).amax((0, 3 - channel))
    return high


def _zeros(block: Tensor, dim: int, scratch: Tensor) -> Tensor:
    """The number of zeros along a dimension of ``[A, B]``, counted as floats, thirty times faster than truth values.

    One thread alone first asks numpy whether there are any, which takes it half the time.
    """
    if torch.get_num_threads() == 1 and not np.equal(block.numpy(), 0).any():
        return block.new_zeros(block.shape[1 - dim])
    return torch.eq(block, 0, out=scratch).sum(dim)


def _of_rows(figure: Callable[..., Tensor], block: Tensor, row: int) -> Tensor:
    """A figure of each row of ``[planes, S]``, ``[planes, rows]``: short ones, for which float32 will do."""
    whole = block.shape[1] // row * row
    if whole == block.shape[1]:
        return figure(block.view(len(block), -1, row), dim=2)
    rest = figure(block[:, whole:], dim=1, keepdim=True)
    return torch.cat([figure(block[:, :whole].unflatten(1, (-1, row)), dim=2), rest], 1)


def _pixels(view: Tensor, *, extremes: bool) -> Sums:
    """The same over ``[N, S, C]``, channels innermost, around values near the means."""
    images, size, channels = view.shape
    row = _row_length(size, 2)
    blocks = _blocks(view, row * max(1, _cached() // (row * channels)), merged=size % row == 0)
    scratch = torch.empty_like(blocks[0], memory_format=torch.contiguous_format)
    shift = blocks[-1].mean(0)
    wide = _side_by_side(shift, row)
    columns = zip(
        *[_pixel_block(block, wide, row, scratch[: len(block)], extremes=extremes) for block in reversed(blocks)],
        strict=True,
    )
    sums, squares, *found = (column[0] if len(blocks) == 1 else torch.cat(column[::-1]) for column in columns)
    sums = sums.view(images, -1, channels).sum(1, dtype=torch.float64).sub_(shift.double() * size)
    squares = squares.view(-1, channels).sum(0, dtype=torch.float64)
    if not extremes:
        return Sums(sums, squares, size, shift)
    zeros, low, high = (figure.view(-1, channels) for figure in found)
    ends = low.amin(0), _greatest(high.amax(0), view, 2)
    return Sums(sums, squares, size, shift, extremes=(zeros.sum(0, dtype=torch.float64), *ends))


def _side_by_side(shift: Tensor, row: int) -> Tensor:
    """A shift ``[C]`` for several pixels of a row side by side where C alone is a short run for torch."""
    channels = len(shift)
    if channels >= _RUN:
        return shift
    return shift.repeat(next((n for n in range(2, row) if row % n == 0 and n * channels >= _RUN), row))


def _pixel_block(block: Tensor, wide: Tensor, row: int, scratch: Tensor, *, extremes: bool) -> list[Tensor]:
    """Of ``[positions, C]``: sums of x and (x - shift)^2 over rows of positions, ``[rows, C]``; zeros and extremes."""
    if block.is_contiguous() and block.numel() % len(wide) == 0:
        _difference_squared(block.view(-1, len(wide)), wide, 0, out=scratch.view(-1, len(wide)))
    else:
        _difference_squared(block, wide[: block.shape[1]], 0, out=scratch)
    whole = len(block) // row * row
    figures = [
        torch.cat([part[:whole].unflatten(0, (-1, row)).sum(1), part[whole:].sum(0, keepdim=True)])
        if whole < len(block)
        else part.unflatten(0, (-1, row)).sum(1)
        for part in (block, scratch)
    ]
    if not extremes:
        return figures
    return [*figures, _zeros(block, 0, scratch), _wide(torch.amin, block), _wide(torch.amax, _bits(block))]


def _wide(extreme: Callable[..., Tensor], block: Tensor) -> Tensor:
    """``extreme`` over the positions of ``[positions, C]``, ``[C]``: of several pixels side by side where C is odd."""
    channels = block.shape[1]
    beside = _LANES // gcd(channels, _LANES)
    whole = len(block) // beside * beside
    if beside == 1 or whole == 0 or not block.is_contiguous():
        return extreme(block, 0)
    found = extreme(block[:whole].view(-1, beside * channels), 0).view(beside, channels)
    return extreme(torch.cat([found, block[whole:]]), 0)


def _cached() -> int:
    """Values of a block, of which each thread has its share."""
    return _CACHED * torch.get_num_threads()


@lru_cache(maxsize=256)
def _row_length(size: int, channel: int) -> int:
    """The largest divisor of ``size`` that makes a good row, or the longest row, which leaves a rest."""
    longest = min(size, _ROW[channel])
    return next((length for length in range(longest, _SHORT_ROW - 1, -1) if size % length == 0), longest)


_FINISH: dict[type, Any] = {
    Moments: lambda found: found,
    Sums: lambda found: [_pool(found)],
}
