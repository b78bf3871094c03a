"""A shadow of the model that is fed piece by piece, and the moments of its layers so far."""

from __future__ import annotations

from contextlib import nullcontext
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakMethod

import msgspec

from bninspect import moments
from bninspect.errors import InputError
from bninspect.inspection.stats.assemble import Pooled, assemble, split
from bninspect.inspection.stats.pieces import refuse_unfit
from bninspect.moments import queued
from bninspect.moments.way import Way
from bninspect.observe.audit import Audit
from bninspect.observe.forward import forward
from bninspect.observe.guard import unseen
from bninspect.observe.layers import batchnorms, describe, given, scripted, unjudged
from bninspect.observe.norms import Norm, plain
from bninspect.observe.process import tool_of
from bninspect.observe.shadow import remarks, set_mode, shadow
from bninspect.observe.steps import moved
from bninspect.report import Mode, Source, StatsReport

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import Tensor, nn

    from bninspect.layers import BatchNormLayer
    from bninspect.moments import Moments
    from bninspect.moments.way import Found
    from bninspect.observe.forward import Forward
    from bninspect.report import Vector


class Run:
    """A shadow of the model that is fed piece by piece, and the moments of its layers so far."""

    def __init__(
        self,
        model: nn.Module,
        mode: Mode,
        place: torch.device,
        *,
        layer: str | None,
        extremes: bool,
        source: Source | None,
        by: Forward | None = None,
    ) -> None:
        self.name = source.model if source and source.model else type(model).__name__
        self.source = source or Source(model=self.name)
        self.mode, self.place, self.extremes, self.by = mode, place, extremes, by
        self.layers = {path: describe(path, module) for path, module in batchnorms(model).items()}
        self.layers = _chosen(self.layers, layer, self.name)
        self.twin = shadow(model, device=place, stepped=by is not None)
        self.audit = Audit(self.twin, _weak(self._direct))
        self.audit.needed |= by is not None  # the user's function may make any call
        self.way = Way(place)
        self.pooled: Pooled = {}
        self.measured: tuple[tuple[str, ...], Moments] | None = None  # of the last piece
        self.dtypes: dict[str, str] = {}
        self.seen: list[tuple[str, Found]] = []  # in the forward that runs
        self.again: set[str] = set()
        self.images = self.pieces = 0
        self.begin: Callable[[], None] | None = None  # called before each forward
        self.counted: int | None = None  # images of a step, as the first layer sees them
        self.shape: tuple[int, ...] | None = None
        self.dtype: torch.dtype | None = None
        self._watch()

    def _watch(self) -> None:
        count, called = _weak(self._count), _weak(self._called)
        for path, module in batchnorms(self.twin).items():
            if self.audit.needed:
                self.audit.watch(module)
            if self.by is not None:
                module.register_forward_pre_hook(count, with_kwargs=True)
            if path in self.layers:
                module.register_forward_pre_hook(partial(called, path), with_kwargs=True)
        set_mode(self.twin, self.mode)

    def _count(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.counted is None:
            self.counted = len(given(args, kwargs))

    def _called(self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._look(path, module, given(args, kwargs))

    def _direct(self, module: nn.Module, norm: Norm) -> None:
        """A layer whose function was called, and not the layer; what it does not tell itself, the call does."""
        path = self.audit.owners.names[id(module)]
        if path not in self.layers:
            return
        if self.layers[path].eps is None:
            self.layers[path] = msgspec.structs.replace(self.layers[path], eps=norm.eps)
        self._look(path, module, norm.x)

    def _look(self, path: str, module: nn.Module, x: Tensor) -> None:
        layer = self.layers[path]
        self.dtype = self.dtype or x.dtype
        if layer.num_features == 0:  # a lazy layer learns its channels from its first input
            layer = self.layers[path] = describe(path, module)
        if x.dim() < 2 or x.shape[1] != layer.num_features:
            return  # the layer itself is about to refuse it, in its own words
        x = plain(x)
        if x.is_quantized:
            x = x.dequantize()
        if path not in self.dtypes:
            self.dtypes[path] = str(x.dtype).removeprefix("torch.")
        with unseen():
            found = moments.exact(x) if path in self.again else self.way.look(x, extremes=self.extremes)
        self.seen.append((path, found))

    def feed(self, piece: tuple[Any, ...]) -> Any:
        """Run one piece and merge what was measured."""
        if self.by is None:
            refuse_unfit(piece[0])
        inputs = moved(piece, self.place)
        result, paths, found = self._forward(inputs)
        if found and self.place.type != "cpu" and (doubtful := queued.doubtful(found)).any():
            self.again = {path for path, doubt in zip(paths, self._split(paths, doubtful), strict=True) if doubt.any()}
            result, paths, found = self._forward(inputs)
            self.again = set()
        if found:
            self.measured = paths, found
        self.pieces += 1
        self.images += len(piece[0]) if self.by is None else self.counted or 0
        return result

    def _forward(self, inputs: tuple[Any, ...]) -> tuple[Any, tuple[str, ...], Moments | None]:
        """The model's output; the layers in call order, and their moments side by side."""
        self.seen.clear()
        self.counted = None
        if self.begin is not None:
            self.begin()
        if not self.pieces and self.by is None:
            self.shape, self.dtype = tuple(inputs[0].shape), inputs[0].dtype
        with self.audit if self.audit.needed else nullcontext():
            result = forward(self.twin, inputs, what=self.name, by=self.by)
        self._pool()  # what the piece before found, while a device is at work on this one
        found = self.way.together([found for _, found in self.seen]) if self.seen else None
        return result, tuple(path for path, _ in self.seen), found

    def _pool(self) -> None:
        if self.measured is not None:
            paths, found = self.measured
            self.pooled[paths] = moments.merge(self.pooled[paths], found) if paths in self.pooled else found
            self.measured = None

    def _split(self, paths: tuple[str, ...], vector: Vector) -> list[Vector]:
        return split(self.layers, paths, vector)

    def take(self) -> Pooled:
        """What was measured since this was last asked; the run begins anew, and goes on counting."""
        self._pool()
        found, self.pooled = self.pooled, {}
        return found

    def report(self) -> StatsReport:
        """The report of everything that was fed so far, in call order."""
        self._pool()
        return assemble(self.frame(), self.layers, self.pooled, self.dtypes, extremes=self.extremes)

    def frame(self) -> StatsReport:
        """The report without what was measured."""
        return StatsReport(
            tool=tool_of(self.place, self.dtype, self.mode),
            source=_with_shape(self.source, self.shape),
            num_images=self.images,
            num_pieces=self.pieces,
            layers=(),
            functional_calls=self.audit.report(),
            notes=(
                *_notes(self),
                *unjudged(self.twin),
                *scripted(self.twin),
                *remarks(self.twin),
                *self.way.notes,
            ),
        )


def _weak(method: Callable[..., None]) -> Callable[..., None]:
    """A method for a hook of the shadow: a hook that held the run would keep both until the collector comes."""
    method_of = WeakMethod(method)

    def call(*args: Any, **kwargs: Any) -> None:
        alive = method_of()
        if alive is not None:
            alive(*args, **kwargs)

    return call


def _notes(run: Run) -> tuple[str, ...]:
    notes = []
    if not run.layers:
        notes.append(f"{run.name} has no BatchNorm layer")
    elif run.by is not None and run.pieces and not run.images:
        notes.append("the function that was given ran no BatchNorm layer of the model that it got: nothing was seen")
    if run.source.synthetic:
        notes.append("the batch is synthetic: distances to the running statistics say nothing about real data")
    return tuple(notes)


def _with_shape(source: Source, shape: tuple[int, ...] | None) -> Source:
    return msgspec.structs.replace(source, batch_shape=source.batch_shape or shape)


def _chosen(layers: dict[str, BatchNormLayer], glob: str | None, name: str) -> dict[str, BatchNormLayer]:
    if glob is None:
        return layers
    chosen = {path: layer for path, layer in layers.items() if fnmatchcase(path, glob)}
    if not chosen:
        shown = ", ".join(list(layers)[:4]) or "none at all"
        raise InputError(f"no BatchNorm layer of {name} matches {glob!r}: its layers are named {shown} ...")
    return chosen
