"""One pass over a layer's input on a GPU, one launch a layer, by a kernel that Triton compiles.

A program owns some channels and some images. It sums ``d = x - shift`` and ``d^2`` in float32, ``shift`` being the mean
of its first tile, so that the sums keep their digits at any offset; sums are kept element by element in registers, and
flushed into float64 after a few additions, once an image at the least. What the programs of all layers of a forward
found lies in one buffer, and is merged by one launch, in float64 around one of their means, and copied to the host
once, after the forward: nothing waits inside it.

Taken are float32, float16 and bfloat16 in contiguous layouts ``[N, C, S]`` and ``[N, S, C]`` with more than one
position; the rest goes by :mod:`bninspect.moments.queued`. Channels that lie far from their shifts, and those with NaN
or infinite values, come back with a mean of NaN: :func:`bninspect.moments.exact` has to measure them again.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from bninspect.moments import Moments, kernels, view_of

if TYPE_CHECKING:
    from collections.abc import Sequence


_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_FIGURES = 8  # of a program and channel: images, mean, M2, image_M2, zeros, min, max, sum of d^2
_FLUSH = 16  # additions in float32 to one register
_PLANES = 512, 2  # values of a tile and warps: measured best on an H100, positions innermost
_PIXELS = 2048, 4  # and channels innermost
_MOST_CHANNELS = 64  # of a tile of pixels
_WAVES = 16  # programs per multiprocessor
_WIDTH, _HEIGHT = 32, 32  # channels that one program merges, and figures of each at a time
_FAR = 8.0  # a channel is trusted where its squares around the shifts are at most so many times its M2
_PARTIAL = 1 << 19  # entries of the buffer for partial figures, 4 MB: what is full is merged and used again
_ALIGNED = 16
_LEAST = 64  # values of a channel that a program reads at the least: its figures are small beside them
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
        self.processors = processors or torch.cuda.get_device_properties(device).multi_processor_count
        self.partial = torch.empty(_PARTIAL, dtype=torch.float64, device=device)
        self._launchers: dict[tuple[Any, ...], Launcher | None] = {}
        self._forward = Forward(self.partial)

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

    def finish(self) -> None:
        """Merge what the launches since the last call found; a slot of theirs then has its figures."""
        self._forward.finish()
        self._forward = Forward(self.partial)


class Forward:
    """The layers of one forward: partial figures, merged whenever their buffer is full, and the moments at the end."""

    def __init__(self, partial: Tensor) -> None:
        self.partial = partial
        self.channels = 0
        self._used = 0
        self._waiting: list[tuple[int, ...]] = []
        self._merged: list[Tensor] = []
        self._moments: Moments | None = None

    def launch(self, x: Tensor, launcher: Launcher) -> Slot:
        """Queue the kernel of a layer."""
        if self._used + launcher.need > self.partial.shape[0]:
            self._merge()
        start, channels = self._used, launcher.shape.channels
        launcher(x, start)
        self._waiting.append((start, launcher.plan.splits, channels, launcher.shape.size))
        self._used += launcher.need
        slot = Slot(self, self.channels, self.channels + channels)
        self.channels = slot.stop
        return slot

    def _merge(self) -> None:
        if self._waiting:
            self._merged.append(_merged(self.partial, tuple(self._waiting)))
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


class Launcher:
    """The launch of layers of one shape and type: looked up by Triton once, and afterwards called as it was compiled.

    Triton's own way costs several times as much as the call that it ends in. What it goes by is the same each time: the
    sizes are those of the shape, and the pointers divisible by 16.
    """

    def __init__(self, shape: Shape, plan: Plan, partial: Tensor) -> None:
        self.shape, self.plan, self.partial = shape, plan, partial
        self.need = -(-plan.splits * shape.channels * _FIGURES // _ALIGNED) * _ALIGNED
        self._grid = (plan.blocks, plan.splits, 1)
        sizes = shape.images, shape.channels, shape.size, plan.per
        full, tail = shape.size // plan.width, shape.size % plan.width != 0
        whole = shape.channels % plan.rows == 0
        self._arguments = (*sizes, shape.last, plan.rows, plan.width, full, tail, whole, _FLUSH)
        self._outs: dict[int, Tensor] = {}
        self._compiled: Any = None

    def __call__(self, x: Tensor, start: int) -> None:
        """Queue the kernel on ``x``; its partial figures begin at ``start``."""
        out = self._outs.get(start)
        if out is None:
            out = self._outs[start] = self.partial[start:]
        aligned = x.data_ptr() % _ALIGNED == 0
        if self._compiled is not None and aligned:
            self._compiled(x, out, *self._arguments)
            return
        kernel = _kernels()[0][self._grid](x, out, *self._arguments, num_warps=self.plan.warps)
        if aligned and hasattr(kernel, "__getitem__"):  # not under the interpreter
            self._compiled = kernel[self._grid]


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
    shape = Shape(view.shape[0], view.shape[channel], view.shape[3 - channel], channel == 2)
    taken = shape.size > 1 and shape.channels * shape.size < _INT32 and view.is_contiguous()
    return shape if taken and shape.channels * _FIGURES + _ALIGNED <= _PARTIAL else None


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
    splits = max(1, min(-(-processors * _WAVES // blocks), _PARTIAL // (shape.channels * _FIGURES + _ALIGNED)))
    per = min(shape.images, max(-(-shape.images // splits), -(-_LEAST // shape.size)))
    return Plan(rows, width, per, blocks, -(-shape.images // per), warps)


def _power(number: int) -> int:
    """The least power of two that is no smaller."""
    return 1 << max(0, (number - 1).bit_length())


@cache
def _kernels() -> tuple[Any, Any]:
    """The kernels, to be compiled when they are first launched."""
    import triton
    import triton.language

    vars(kernels)["tl"] = triton.language
    return triton.jit(kernels.layer), triton.jit(kernels.merge)


def _merged(partial: Tensor, layers: tuple[tuple[int, ...], ...]) -> Tensor:
    """The fields of :class:`Moments` of these layers side by side, ``[10, C1 + C2 + ...]``, by one launch."""
    table, blocks, channels = _tables(layers, partial.device)
    merged = torch.empty((len(Moments._fields), channels), dtype=torch.float64, device=partial.device)
    _kernels()[1][(blocks.shape[0],)](partial, merged, table, blocks, channels, W=_WIDTH, K=_HEIGHT, FAR=_FAR)
    return merged


@cache
def _tables(layers: tuple[tuple[int, ...], ...], device: torch.device) -> tuple[Tensor, Tensor, int]:
    """Of each layer: place of its figures, splits, channels, positions, place of its channels; blocks; all channels."""
    rows, blocks, start = [], [], 0
    for index, (begin, splits, channels, size) in enumerate(layers):
        rows.append((begin, splits, channels, size, start))
        blocks += [(index, first) for first in range(0, channels, _WIDTH)]
        start += channels
    return torch.tensor(rows, device=device), torch.tensor(blocks, device=device), start
