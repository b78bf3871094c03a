"""One pass over a layer's input on a GPU, one launch a layer, by a kernel that Triton compiles.

A program owns some channels and some images. It sums ``d = x - shift`` and ``d^2`` in float32, ``shift`` being the mean
of its first tile, so that the sums keep their digits at any offset; sums are kept element by element in registers, and
flushed into float64 after a few additions, once an image at the least. What the programs of all layers of a forward
found lies in one buffer, and is merged by one launch (Chan, Golub and LeVeque, COMPSTAT 1982) and copied to the host
once, after the forward: nothing waits inside it.

Taken are float32, float16 and bfloat16 in contiguous layouts ``[N, C, S]`` and ``[N, S, C]`` with more than one
position; the rest goes by :mod:`bninspect.moments.queued`. Channels that lie far from their shifts, and those with NaN
or infinite values, come back with a mean of NaN: :func:`bninspect.moments.exact` has to measure them again.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bninspect.moments import Moments, view_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    import triton.language as tl
else:
    tl: Any = None  # triton.language, where the kernels look it up; set by _kernels()

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_FIGURES = 8  # of a program and channel: images, mean, M2, image_M2, zeros, min, max, sum of d^2
_FLUSH = 16  # additions in float32 to one register
_PLANES = 512, 2  # values of a tile and warps: measured best on an H100, positions innermost
_PIXELS = 2048, 4  # and channels innermost
_MOST_CHANNELS = 64  # of a tile of pixels
_WAVES = 16  # programs per multiprocessor
_WIDTH = 32  # channels that one program merges
_FAR = 8.0  # a channel is trusted where its squares around the shifts are at most so many times its M2
_LEAST = 1 << 16  # entries of the first buffer
_INT32 = 1 << 31


def available(device: torch.device) -> bool:
    """Whether Triton is installed, and can compile for this device."""
    return device.type == "cuda" and torch.version.hip is None and importlib.util.find_spec("triton") is not None


class Shape(NamedTuple):
    """What the launch of a layer depends on: sizes, and whether channels lie innermost."""

    images: int
    channels: int
    size: int
    last: bool


class Plan(NamedTuple):
    """How a layer is cut: a program takes ``rows`` channels of ``per`` images, in tiles of ``width`` positions."""

    rows: int
    width: int
    per: int
    blocks: int
    splits: int
    warps: int


class Slot(NamedTuple):
    """The place of a layer in what a :class:`Forward` finds."""

    forward: Forward
    start: int
    stop: int


class Kernels:
    """The launches of one run; :meth:`finish` ends those of a forward.

    Args:
        device: where the tensors are.
        processors: multiprocessors of it; default as torch counts them.
    """

    def __init__(self, device: torch.device, processors: int | None = None) -> None:
        self.device = device
        self.processors = processors or torch.cuda.get_device_properties(device).multi_processor_count
        self._plans: dict[Shape, Plan] = {}
        self._capacity = _LEAST
        self._forward = Forward(self)

    def launch(self, x: Tensor) -> Slot | None:
        """Measure a layer's input ``[N, C, *positions]``; ``None`` where the kernel does not take it."""
        if x.dtype not in _DTYPES or x.dim() < 3 or not x.numel():
            return None
        view, channel = view_of(x)
        shape = Shape(len(view), view.shape[channel], view.shape[3 - channel], channel == 2)
        if shape.size < 2 or shape.channels * shape.size >= _INT32 or not view.is_contiguous():
            return None
        plan = self._plans.get(shape)
        if plan is None:
            plan = self._plans[shape] = plan_of(shape, self.processors)
        return self._forward.launch(view, shape, plan)

    def finish(self) -> None:
        """Merge what the launches since the last call found; a slot of theirs then has its figures."""
        self._forward.finish()
        self._capacity = max(self._capacity, self._forward.used)
        self._forward = Forward(self)

    def buffer(self, least: int) -> Tensor:
        """Room for the figures of a forward as large as the largest so far, or of one layer."""
        return torch.empty(max(self._capacity, least), dtype=torch.float64, device=self.device)


class Forward:
    """The layers of one forward: where each has its partial figures, and afterwards the merged ones."""

    def __init__(self, kernels: Kernels) -> None:
        self.kernels = kernels
        self.used = 0
        self.channels = 0
        self._buffers: list[tuple[Tensor, list[tuple[int, ...]]]] = []
        self._left = 0
        self._sizes: list[tuple[int, int]] = []
        self._moments: Moments | None = None

    def launch(self, view: Tensor, shape: Shape, plan: Plan) -> Slot:
        """Queue the kernel of a layer."""
        need = plan.splits * shape.channels * _FIGURES
        if need > self._left:
            buffer = self.kernels.buffer(need)
            self._buffers.append((buffer, []))
            self._left = buffer.numel()
        buffer, layers = self._buffers[-1]
        start = buffer.numel() - self._left
        _layer_kernel(view, buffer[start:], shape, plan)
        layers.append((start, plan.splits, shape.channels, shape.size))
        self._left -= need
        self.used += need
        slot = Slot(self, self.channels, self.channels + shape.channels)
        self._sizes.append((shape.channels, shape.size))
        self.channels = slot.stop
        return slot

    def finish(self) -> None:
        """Merge, and bring the figures of all layers to the host."""
        tables = [_merged(buffer, layers) for buffer, layers in self._buffers if layers]
        self._buffers.clear()
        if tables:
            table = (torch.cat(tables) if len(tables) > 1 else tables[0]).cpu().numpy()
            self._moments = _moments(table, self._sizes)

    def moments(self, start: int, stop: int) -> Moments:
        """Of the channels from ``start`` to ``stop``."""
        assert self._moments is not None, "the forward is not finished"
        return Moments(*(vector[start:stop] for vector in self._moments))


def slots_together(slots: Sequence[Slot]) -> list[Moments]:
    """Moments of neighbouring slots, those of a forward side by side at once."""
    if all(slot.forward is slots[0].forward for slot in slots):
        return [slots[0].forward.moments(slots[0].start, slots[-1].stop)]
    return [slot.forward.moments(slot.start, slot.stop) for slot in slots]


def _moments(table: npt.NDArray[np.float64], sizes: Sequence[tuple[int, int]]) -> Moments:
    """The figures ``[C, 8]`` as moments; channels that cannot be trusted have a mean of NaN."""
    images, mean, spread, between, zeros, low, high, squares = np.ascontiguousarray(table.T)
    count = images * np.repeat([float(size) for _, size in sizes], [channels for channels, _ in sizes])
    constant = low == high
    spread, between = np.where(constant, 0, spread), np.where(constant, 0, between)
    mean = np.where(constant, low, np.where(squares > _FAR * spread, np.nan, mean))
    return Moments(count, mean, spread, images, mean, between, np.zeros_like(mean), zeros, low, high)


def plan_of(shape: Shape, processors: int) -> Plan:
    """Tiles of a fixed number of values, and so many programs that every multiprocessor has its share."""
    values, warps = _PIXELS if shape.last else _PLANES
    if shape.last:
        rows = min(_MOST_CHANNELS, _power(shape.channels))
        width = max(1, min(_power(shape.size), values // rows))
    else:
        width = min(values, _power(shape.size))
        rows = max(1, min(_power(shape.channels), values // width))
    blocks = -(-shape.channels // rows)
    splits = max(1, min(shape.images, -(-processors * _WAVES // blocks)))
    per = -(-shape.images // splits)
    return Plan(rows, width, per, blocks, -(-shape.images // per), warps)


def _power(number: int) -> int:
    """The least power of two that is no smaller."""
    return 1 << max(0, (number - 1).bit_length())


@cache
def _kernels() -> tuple[Any, Any]:
    """The kernels, to be compiled when they are first launched."""
    import triton
    import triton.language

    globals()["tl"] = triton.language
    return triton.jit(_layer), triton.jit(_merge)


def _layer_kernel(view: Tensor, out: Tensor, shape: Shape, plan: Plan) -> None:
    images, channels, size, last = shape
    _kernels()[0][(plan.blocks, plan.splits)](
        view,
        out,
        images,
        channels,
        size,
        plan.per,
        LAST=last,
        R=plan.rows,
        B=plan.width,
        FULL=size // plan.width,
        TAIL=size % plan.width != 0,
        WHOLE=channels % plan.rows == 0,
        FLUSH=_FLUSH,
        num_warps=plan.warps,
    )


def _merged(buffer: Tensor, layers: Sequence[tuple[int, ...]]) -> Tensor:
    """The figures of all layers of a buffer, ``[C1 + C2 + ..., 8]``, by one launch."""
    table, blocks = _tables(tuple(layers), buffer.device)
    merged = torch.empty((sum(layer[2] for layer in layers), _FIGURES), dtype=torch.float64, device=buffer.device)
    _kernels()[1][(len(blocks),)](buffer, merged, table, blocks, W=_WIDTH, num_warps=1)
    return merged


@cache
def _tables(layers: tuple[tuple[int, ...], ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Of each layer: where its figures begin, splits, channels, positions, where its channels begin; and all blocks."""
    rows, blocks, start = [], [], 0
    for index, (begin, splits, channels, size) in enumerate(layers):
        rows.append((begin, splits, channels, size, start))
        blocks += [(index, first) for first in range(0, channels, _WIDTH)]
        start += channels
    return tuple(torch.tensor(table, dtype=torch.int64, device=device) for table in (rows, blocks))  # type: ignore[return-value]


# The kernels. Names of sizes are those of the formulas; a loop counts from zero, and what it counts is added to.


def _layer(  # type: ignore[no-untyped-def]  # noqa: ANN202, PLR0912, PLR0915, PLR0917  # a kernel is one function
    x, out, N, C, S, PER,  # noqa: ANN001
    LAST: tl.constexpr, R: tl.constexpr, B: tl.constexpr,
    FULL: tl.constexpr, TAIL: tl.constexpr, WHOLE: tl.constexpr, FLUSH: tl.constexpr,
):  # fmt: skip
    """Partial figures of R channels over PER images, each read in tiles ``[R, B]``: full ones, then the tail masked."""
    c = tl.program_id(0) * R + tl.arange(0, R)
    s = tl.arange(0, B)
    inside = c < C
    n0 = tl.program_id(1) * PER
    if LAST:
        cell = s[None, :] * C + c[:, None]
        step = B * C
    else:
        cell = c[:, None] * S + s[None, :]
        step = B
    image = C.to(tl.int64) * S
    if WHOLE:
        start = s[None, :] < S
        rest = (FULL * B + s)[None, :] < S
    else:
        start = inside[:, None] & (s[None, :] < S)
        rest = inside[:, None] & ((FULL * B + s)[None, :] < S)
    first = tl.load(x + n0.to(tl.int64) * image + cell, mask=start, other=0.0).to(tl.float32)
    shift = (tl.sum(first, 1) / tl.minimum(S, B).to(tl.float32))[:, None]
    count = 0.0
    mean = tl.zeros((R,), tl.float64)
    spread = tl.zeros((R,), tl.float64)
    between = tl.zeros((R,), tl.float64)
    squares = tl.zeros((R,), tl.float64)
    zeros = tl.zeros((R, B), tl.float32)
    low = tl.full((R, B), float("inf"), tl.float32)
    high = tl.full((R, B), float("-inf"), tl.float32)
    size = S.to(tl.float64)
    for i in range(tl.minimum(PER, N - n0)):
        row = x + (n0 + i).to(tl.int64) * image + cell
        total = tl.zeros((R,), tl.float64)
        square = tl.zeros((R,), tl.float64)
        for g in range(FULL // FLUSH):
            a = tl.zeros((R, B), tl.float32)
            q = tl.zeros((R, B), tl.float32)
            for k in range(FLUSH):
                if WHOLE:
                    v = tl.load(row + (g * FLUSH + k) * step).to(tl.float32)
                else:
                    v = tl.load(row + (g * FLUSH + k) * step, mask=inside[:, None], other=0.0).to(tl.float32)
                d = v - shift
                a += d
                q += d * d
                low = tl.minimum(low, v)
                high = tl.maximum(high, v)
                zeros += (v == 0.0).to(tl.float32)
            total += tl.sum(a, 1).to(tl.float64)
            square += tl.sum(q, 1).to(tl.float64)
        a = tl.zeros((R, B), tl.float32)
        q = tl.zeros((R, B), tl.float32)
        for k in range(FULL % FLUSH):
            if WHOLE:
                v = tl.load(row + (FULL // FLUSH * FLUSH + k) * step).to(tl.float32)
            else:
                v = tl.load(row + (FULL // FLUSH * FLUSH + k) * step, mask=inside[:, None], other=0.0).to(tl.float32)
            d = v - shift
            a += d
            q += d * d
            low = tl.minimum(low, v)
            high = tl.maximum(high, v)
            zeros += (v == 0.0).to(tl.float32)
        if TAIL:
            v = tl.load(row + FULL * step, mask=rest, other=0.0).to(tl.float32)
            d = tl.where(rest, v - shift, 0.0)
            a += d
            q += d * d
            low = tl.minimum(low, tl.where(rest, v, float("inf")))
            high = tl.maximum(high, tl.where(rest, v, float("-inf")))
            zeros += (rest & (v == 0.0)).to(tl.float32)
        total += tl.sum(a, 1).to(tl.float64)
        square += tl.sum(q, 1).to(tl.float64)
        own = total / size
        delta = own - mean
        count += 1.0
        mean += delta / count
        between += delta * (own - mean)
        spread += square - total * own
        squares += square
    o = out + (tl.program_id(1) * C + c) * 8
    tl.store(o, tl.zeros((R,), tl.float64) + count, mask=inside)
    tl.store(o + 1, mean + tl.sum(shift, 1).to(tl.float64), mask=inside)
    tl.store(o + 2, spread + between * size, mask=inside)
    tl.store(o + 3, between, mask=inside)
    tl.store(o + 4, tl.sum(zeros.to(tl.float64), 1), mask=inside)
    tl.store(o + 5, tl.min(low, 1).to(tl.float64), mask=inside)
    tl.store(o + 6, tl.max(high, 1).to(tl.float64), mask=inside)
    tl.store(o + 7, squares, mask=inside)


def _merge(source, merged, table, blocks, W: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Figures of W channels of one layer, over all its programs."""
    layer = tl.load(blocks + tl.program_id(0) * 2)
    c = tl.load(blocks + tl.program_id(0) * 2 + 1) + tl.arange(0, W)
    row = table + layer * 5
    splits = tl.load(row + 1)
    C = tl.load(row + 2)
    size = tl.load(row + 3).to(tl.float64)
    inside = c < C
    count = tl.zeros((W,), tl.float64)
    mean = tl.zeros((W,), tl.float64)
    spread = tl.zeros((W,), tl.float64)
    between = tl.zeros((W,), tl.float64)
    zeros = tl.zeros((W,), tl.float64)
    squares = tl.zeros((W,), tl.float64)
    low = tl.full((W,), float("inf"), tl.float64)
    high = tl.full((W,), float("-inf"), tl.float64)
    for k in range(splits):
        p = source + tl.load(row) + (k * C + c) * 8
        n = tl.load(p, mask=inside, other=1.0)
        delta = tl.load(p + 1, mask=inside, other=0.0) - mean
        apart = delta * delta * count * n / (count + n)
        mean += delta * n / (count + n)
        count += n
        spread += tl.load(p + 2, mask=inside, other=0.0) + apart * size
        between += tl.load(p + 3, mask=inside, other=0.0) + apart
        zeros += tl.load(p + 4, mask=inside, other=0.0)
        low = tl.minimum(low, tl.load(p + 5, mask=inside, other=0.0))
        high = tl.maximum(high, tl.load(p + 6, mask=inside, other=0.0))
        squares += tl.load(p + 7, mask=inside, other=0.0)
    o = merged + (tl.load(row + 4) + c) * 8
    tl.store(o, count, mask=inside)
    tl.store(o + 1, mean, mask=inside)
    tl.store(o + 2, spread, mask=inside)
    tl.store(o + 3, between, mask=inside)
    tl.store(o + 4, zeros, mask=inside)
    tl.store(o + 5, low, mask=inside)
    tl.store(o + 6, high, mask=inside)
    tl.store(o + 7, squares, mask=inside)
