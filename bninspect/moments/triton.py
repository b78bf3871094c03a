"""One pass over a layer's input on a GPU, one launch a layer, by a kernel that Triton compiles.

A program owns some channels and some images, or a part of one image where images are too few to keep the device busy.
It sums ``d = x - shift`` and ``d^2`` in float32, ``shift`` being the mean of a few of its values, so that the sums keep
their digits at any offset; sums are kept element by element in registers, and flushed into float64 after a few
additions. What the programs of many layers found lies in one buffer, and is merged by one launch, in float64 around one
of the shifts, and copied to the host once, after the forward: nothing waits inside it.

Taken are float32, float16 and bfloat16 in contiguous layouts ``[N, C, S]`` and ``[N, S, C]`` with more than one
position; the rest goes by :mod:`bninspect.moments.queued`. Channels that lie far from their shifts, and those with NaN
or infinite values, come back with a mean of NaN: :func:`bninspect.moments.exact` has to measure them again.
"""

from __future__ import annotations

import importlib.util
import math
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from bninspect.moments import Moments, kernels, view_of

if TYPE_CHECKING:
    from collections.abc import Sequence


_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_FIGURES = 7  # of a program and channel: shift, sums of d and d^2, of the squared sums of d of images, zeros, min, max
_FLUSH = 16  # tiles that are summed in float32, by groups of so many: sums of equal values err in one direction,
_NEAR = 8  # and all tiles of a group are read at once
_PLANES = 512, 2, 16  # values of a tile, warps, programs per multiprocessor: positions innermost
_LINE = 16  # bytes that a thread reads at once: a tile where channels lie innermost, by
_PIXELS = 4, 4  # warps; programs per multiprocessor
_CHANNELS = 64, 32  # of a tile of pixels: the first that wastes little on what is no channel
_WASTE = 1.15
_SAMPLES = 4  # tiles for the shift, spread over images and positions: images differ, and the first tile is an edge
_MERGED = 8, 64, 8  # channels that one program merges, figures of each at a time, and its warps
_FAR = 3.0  # a channel is trusted where its squares around the shifts are at most so many times its M2
_PARTIAL = 1 << 20  # entries of the buffer for partial figures, 8 MB: what is full is merged and used again
_ALIGNED = 16
_LEAST = 128  # values of a channel that a program reads at the least: its figures are small beside them
_WARP = 32
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
    itemsize: int


class Plan(NamedTuple):
    """How a layer is cut: a program takes ``rows`` channels of ``per`` images, or of one of the ``parts`` of an image.

    It reads tiles of ``width`` positions, ``tiles`` in each part but the last, which has the rest of them.
    """

    rows: int
    width: int
    per: int
    parts: int
    tiles: int
    blocks: int
    splits: int
    warps: int


class Row(NamedTuple):
    """What the merge of a layer depends on: where its figures begin, their number, and what each of them is of."""

    start: int
    units: int
    parts: int
    channels: int
    size: int
    images: int
    per: int
    span: int


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
        self.processors = processors or torch.cuda.get_device_properties(device).multi_processor_count
        self.partial = torch.empty(_PARTIAL, dtype=torch.float64, device=device)
        self._launchers: dict[tuple[Any, ...], Launcher | None] = {}
        self._mergers: dict[tuple[Row, ...], Merger] = {}
        self._forward = Forward(self)

    def launch(self, x: Tensor) -> Slot | None:
        """Measure a layer's input ``[N, C, *positions]``; ``None`` where the kernel does not take it."""
        key = x.shape, x.stride(), x.dtype
        if key not in self._launchers:
            shape = shape_of(x)
            self._launchers[key] = (
                None if shape is None else Launcher(shape, plan_of(shape, self.processors), self.partial)
            )
        launcher = self._launchers[key]
        return None if launcher is None else self._forward.launch(x, launcher)

    def merge(self, rows: tuple[Row, ...]) -> Tensor:
        """The moments of these layers, whose partial figures are in the buffer."""
        if rows not in self._mergers:
            self._mergers[rows] = Merger(rows, self.partial)
        return self._mergers[rows]()

    def finish(self) -> None:
        """Merge what the launches since the last call found; a slot of theirs then has its figures."""
        self._forward.finish()
        self._forward = Forward(self)


class Forward:
    """The layers of one forward: partial figures, merged whenever their buffer is full, and the moments at the end."""

    def __init__(self, kernels: Kernels) -> None:
        self.channels = 0
        self._kernels = kernels
        self._used = 0
        self._waiting: list[Row] = []
        self._merged: list[Tensor] = []
        self._moments: Moments | None = None

    def launch(self, x: Tensor, launcher: Launcher) -> Slot:
        """Queue the kernel of a layer."""
        if self._used + launcher.need > _PARTIAL:
            self._merge()
        self._waiting.append(launcher(x, self._used))
        self._used += launcher.need
        slot = Slot(self, self.channels, self.channels + launcher.shape.channels)
        self.channels = slot.stop
        return slot

    def _merge(self) -> None:
        if self._waiting:
            self._merged.append(self._kernels.merge(tuple(self._waiting)))
            self._waiting.clear()
        self._used = 0

    def finish(self) -> None:
        """Merge the rest, and bring the figures of all layers to the host."""
        self._merge()
        if self._merged:
            table = self._merged[0] if len(self._merged) == 1 else torch.cat(self._merged, dim=1)
            self._moments = Moments(*table.cpu().numpy())
            self._merged.clear()

    def moments(self, start: int, stop: int) -> Moments:
        """Of the channels from ``start`` to ``stop``."""
        assert self._moments is not None, "the forward is not finished"
        if stop - start == self.channels:
            return self._moments
        return Moments(*(vector[start:stop] for vector in self._moments))


class Call:
    """A kernel's launch over a grid: looked up by Triton once, and afterwards called as it was compiled.

    Triton's own way costs several times as much as the call that it ends in. What it goes by is the same each time: the
    sizes are those of the shape, and which pointers are divisible by 16.
    """

    def __init__(self, kernel: Any, grid: tuple[int, int, int], **options: Any) -> None:
        self._kernel, self._grid, self._options = kernel, grid, options
        self._compiled: Any = None

    def __call__(self, *arguments: Any) -> None:
        """Queue the kernel."""
        if self._compiled is not None:
            self._compiled(*arguments)
            return
        kernel = self._kernel[self._grid](*arguments, **self._options)
        if hasattr(kernel, "__getitem__"):  # not under the interpreter
            self._compiled = kernel[self._grid]


class Launcher:
    """The launch of layers of one shape and type."""

    def __init__(self, shape: Shape, plan: Plan, partial: Tensor) -> None:
        self.shape, self.plan, self.partial = shape, plan, partial
        self.need = -(-plan.splits * shape.channels * _FIGURES // _ALIGNED) * _ALIGNED
        steps = math.gcd(shape.channels, _ALIGNED), math.gcd(shape.size, _ALIGNED)
        sizes = shape.images, shape.channels // steps[0], shape.size // steps[1], plan.per
        self._arguments = (*sizes, shape.last, *steps, *_cut(shape, plan), _FLUSH, _NEAR)
        self._places: dict[int, tuple[Tensor, Row]] = {}
        grid = plan.blocks, plan.splits, 1
        self._aligned, self._other = (Call(_kernels()[0], grid, num_warps=plan.warps) for _ in range(2))

    def __call__(self, x: Tensor, start: int) -> Row:
        """Queue the kernel on ``x``; its partial figures begin at ``start``."""
        if start not in self._places:
            self._places[start] = self.partial[start:], self._row(start)
        out, row = self._places[start]
        call = self._aligned if x.data_ptr() % _ALIGNED == 0 else self._other
        call(x, out, *self._arguments)
        return row

    def _row(self, start: int) -> Row:
        shape, plan = self.shape, self.plan
        units, span = plan.splits // plan.parts, plan.tiles * plan.width
        return Row(start, units, plan.parts, shape.channels, shape.size, shape.images, plan.per, span)


class Merger:
    """The launch that merges the partial figures of some layers."""

    def __init__(self, rows: tuple[Row, ...], partial: Tensor) -> None:
        table, blocks, start = [], [], 0
        for index, row in enumerate(rows):
            table.append((*row, start))
            blocks += [(index, first) for first in range(0, row.channels, _MERGED[0])]
            start += row.channels
        self._partial, self._channels = partial, start
        self._tables = torch.tensor(table, device=partial.device), torch.tensor(blocks, device=partial.device)
        self._call = Call(_kernels()[1], (len(blocks), 1, 1), num_warps=_MERGED[2])

    def __call__(self) -> Tensor:
        """The fields of :class:`Moments` of these layers side by side, ``[10, C1 + C2 + ...]``."""
        shape = len(Moments._fields), self._channels
        merged = torch.empty(shape, dtype=torch.float64, device=self._partial.device)
        self._call(self._partial, merged, *self._tables, self._channels, *_MERGED[:2], _FAR)
        return merged


def slots_together(slots: Sequence[Slot]) -> list[Moments]:
    """Moments of neighbouring slots, those of a forward side by side at once."""
    if all(slot.forward is slots[0].forward for slot in slots):
        return [slots[0].forward.moments(slots[0].start, slots[-1].stop)]
    return [slot.forward.moments(slot.start, slot.stop) for slot in slots]


def shape_of(x: Tensor) -> Shape | None:
    """How a tensor lies in memory; ``None`` where the kernel does not take it."""
    if x.dtype not in _DTYPES or x.dim() < 3 or not x.numel():
        return None
    view, channel = view_of(x)
    last = channel == 2
    shape = Shape(view.shape[0], view.shape[channel], view.shape[3 - channel], last, x.itemsize)
    taken = shape.size > 1 and shape.channels * shape.size < _INT32 and view.is_contiguous()
    return shape if taken and shape.channels * _FIGURES + _ALIGNED <= _PARTIAL else None


def plan_of(shape: Shape, processors: int) -> Plan:
    """Tiles that a program reads by whole lines, and so many programs that every multiprocessor has its share."""
    if shape.last:
        warps, waves = _PIXELS
        rows = _rows_of(shape.channels)
        width = max(1, min(_power(shape.size), warps * _WARP * _LINE // shape.itemsize // rows))
    else:
        values, warps, waves = _PLANES
        width = min(values, _power(shape.size))
        rows = max(1, min(_power(shape.channels), values // width))
    blocks = -(-shape.channels // rows)
    splits = max(1, min(-(-processors * waves // blocks), _PARTIAL // (shape.channels * _FIGURES + _ALIGNED)))
    full = shape.size // width
    tiles = max(1, -(-full * shape.images // (splits * _FLUSH))) * _FLUSH
    parts = max(1, full // tiles)
    if parts > 1:
        return Plan(rows, width, 1, parts, tiles, blocks, shape.images * parts, warps)
    per = min(shape.images, max(-(-shape.images // splits), -(-_LEAST // shape.size)))
    return Plan(rows, width, per, 1, full, blocks, -(-shape.images // per), warps)


def _rows_of(channels: int) -> int:
    """Channels of a tile of pixels."""
    for rows in _CHANNELS:
        if -(-channels // rows) * rows <= _WASTE * channels:
            return rows
    return min(_CHANNELS[-1], _power(channels))


def _cut(shape: Shape, plan: Plan) -> tuple[int, ...]:
    """The tiles of a program, as the kernel is compiled for them."""
    full, tail = divmod(shape.size, plan.width)
    whole = shape.channels % plan.rows == 0
    samples = min(_SAMPLES, max(plan.per, plan.tiles))
    carry = max(1, _NEAR // (full + (tail > 0)))  # images whose squares share a register
    return plan.rows, plan.width, full, tail > 0, whole, plan.parts, plan.tiles, samples, carry


def _power(number: int) -> int:
    """The least power of two that is no smaller."""
    return 1 << max(0, (number - 1).bit_length())


@cache
def _kernels() -> tuple[Any, Any]:
    """The kernels, to be compiled when they are first launched."""
    import triton
    import triton.language

    vars(kernels)["tl"] = triton.language
    vars(kernels)["add"] = triton.jit(kernels.add)
    return triton.jit(kernels.layer), triton.jit(kernels.merge)
