"""What a batch does in every BatchNorm layer: exact per-channel statistics, beside the running ones."""

from __future__ import annotations

from collections import Counter
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import numpy as np

from bninspect.errors import InputError
from bninspect.inspection import _figures as figures
from bninspect.report import LayerRef, Mode, Source, StatsReport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import torch
    from torch import Tensor, nn

    from bninspect.glance import Glance
    from bninspect.layers import BatchNormLayer
    from bninspect.moments import Moments
    from bninspect.report import Vector


def stats(
    model: nn.Module | None,
    batch: Tensor | Iterable[Tensor] | Iterable[tuple[Tensor, ...]],
    *,
    mode: Mode | None = None,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    layer: str | None = None,
    extremes: bool = True,
    values: bool = False,
    source: Source | None = None,
    on_piece: Callable[[int, Callable[[], StatsReport]], None] | None = None,
) -> StatsReport:
    """Exact statistics of the input of every BatchNorm layer, over all pieces of a batch; the model is left as found.

    Args:
        model: any module; ``None`` gives the batch to a fresh ``BatchNorm{1,2,3}d`` of its own channel count.
        batch: a tensor ``[N, ...]``; or an iterable of tensors, the pieces of a stream, which are pooled exactly. A
            piece for a model of several inputs is a tuple of tensors.
        mode: ``eval`` (the default with a model): running statistics normalise. ``train`` (the default without):
            as in training, batch statistics normalise. Buffers are untouched either way.
        batch_size: split tensors along N into pieces of this size; memory then does not grow with N.
        device: where to run; default where the model is.
        layer: a glob over paths; only these layers are measured.
        extremes: also find min, max and the share of zeros.
        values: without a model, return the normalised output as well.
        source: where model and batch came from, for the report's header.
        on_piece: called after each piece with the number of images seen and a function that gives the report so far.

    Raises:
        InputError: the batch does not fit, holds integers, is empty; or the glob matches nothing.
        ForwardError: the model's forward raised.
    """
    from bninspect import observe

    pieces = _pieces(batch, batch_size)
    if model is None:
        first, pieces = _peek(pieces)
        mode, model = mode or "train", _fresh(first[0])
    model, mode = observe.unwrap(model), mode or "eval"
    place = observe.resolve_device(device, model)
    run = _Run(model, mode, place, layer=layer, extremes=extremes, source=source)
    output = []
    with observe.undisturbed(place):
        for piece in pieces:
            result = run.feed(piece)
            if values:
                output.append((piece[0], result))
            if on_piece:
                on_piece(run.images, run.report)
    if not run.pieces:
        raise InputError("the batch is empty: it held no piece")
    report = run.report()
    return _with_values(report, output) if values else report


class _Run:
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
    ) -> None:
        from bninspect import observe

        self.name = source.model if source and source.model else type(model).__name__
        self.source = source or Source(model=self.name)
        self.mode, self.place, self.extremes = mode, place, extremes
        self.layers = {path: observe.describe(path, module) for path, module in observe.batchnorms(model).items()}
        self.layers = _chosen(self.layers, layer, self.name)
        self.twin = observe.shadow(model, device=place)
        self.audit = observe.Audit({id(module): path for path, module in self.twin.named_modules()})
        self.pooled: dict[tuple[str, ...], Moments] = {}  # of all layers side by side, by the order of their calls
        self.dtypes: dict[str, str] = {}
        self.seen: list[tuple[str, Moments | Glance | Tensor]] = []  # in the forward that runs
        self.again: set[str] = set()
        self.images = self.pieces = 0
        self.shape: tuple[int, ...] | None = None
        self.dtype: torch.dtype | None = None
        self._watch()

    def _watch(self) -> None:
        from bninspect import observe

        for path, module in observe.batchnorms(self.twin).items():
            self.audit.watch(module)
            if path in self.layers:
                module.register_forward_pre_hook(self._hook(path), with_kwargs=True)
        observe.set_mode(self.twin, self.mode)

    def _hook(self, path: str) -> Callable[..., None]:
        from bninspect import glance, moments, observe

        def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = args[0] if args else next(iter(kwargs.values()))
            layer = self.layers[path]
            if layer.num_features == 0:  # a lazy layer learns its channels from its first input
                layer = self.layers[path] = observe.describe(path, module)
            if x.dim() < 2 or x.shape[1] != layer.num_features:
                return  # the layer itself is about to refuse it, in its own words
            if x.is_quantized:
                x = x.dequantize()
            if path not in self.dtypes:
                self.dtypes[path] = str(x.dtype).removeprefix("torch.")
            with observe.unseen():
                if path in self.again:
                    result: Moments | Glance | Tensor = moments.exact(x)
                elif x.device.type == "cpu":
                    result = glance.look(x, extremes=self.extremes)
                else:
                    result = moments.enqueue(x, extremes=self.extremes)
            self.seen.append((path, result))

        return look

    def feed(self, piece: tuple[Any, ...]) -> Any:
        """Run one piece and merge what was measured."""
        from bninspect import moments

        _check(piece[0])
        inputs = tuple(value.to(self.place, non_blocking=True) for value in piece)
        result, paths, found = self._forward(inputs)
        if found and self.place.type != "cpu" and (doubtful := moments.doubtful(found)).any():
            self.again = {path for path, doubt in zip(paths, self._split(paths, doubtful), strict=True) if doubt.any()}
            result, paths, found = self._forward(inputs)
            self.again = set()
        if found:
            self.pooled[paths] = moments.merge(self.pooled[paths], found) if paths in self.pooled else found
        self.pieces += 1
        self.images += len(piece[0])
        return result

    def _forward(self, inputs: tuple[Any, ...]) -> tuple[Any, tuple[str, ...], Moments | None]:
        """The model's output; the layers in call order, and their moments side by side."""
        from bninspect import glance, observe

        self.seen.clear()
        if self.pieces:
            result = observe.run(self.twin, inputs, what=self.name)
        else:
            self.shape, self.dtype = tuple(inputs[0].shape), inputs[0].dtype
            with self.audit:
                result = observe.run(self.twin, inputs, what=self.name)
        found = glance.collect([found for _, found in self.seen]) if self.seen else None
        return result, tuple(path for path, _ in self.seen), found

    def _split(self, paths: tuple[str, ...], vector: Vector) -> list[Vector]:
        """A vector over all layers side by side, by layer."""
        return np.split(vector, np.cumsum([self.layers[path].num_features for path in paths])[:-1])

    def _by_layer(self) -> dict[str, tuple[Moments, int]]:
        """Moments of each layer, pooled over its calls, and the most calls in one forward; in call order."""
        from bninspect import moments

        found: dict[str, tuple[Moments, int]] = {}
        for paths, pooled in self.pooled.items():
            calls = Counter(paths)
            for path, *vectors in zip(paths, *(self._split(paths, vector) for vector in pooled), strict=True):
                more = moments.Moments(*vectors)
                before, most = found.get(path, (None, 0))
                found[path] = moments.merge(before, more) if before else more, max(most, calls[path])
        return found

    def report(self) -> StatsReport:
        """The report of everything that was fed so far, in call order."""
        from bninspect import observe

        called = self._by_layer()
        layers = tuple(
            figures.live(self.layers[path], found, calls, self.dtypes[path], extremes=self.extremes)
            for path, (found, calls) in called.items()
        )
        missing = tuple(
            LayerRef(path=path, kind=layer.kind, num_features=layer.num_features, calls=0)
            for path, layer in self.layers.items()
            if path not in called
        )
        return StatsReport(
            tool=observe.tool(self.place, self.dtype, self.mode),
            source=_with_shape(self.source, self.shape),
            num_images=self.images,
            num_pieces=self.pieces,
            layers=layers,
            never_called=missing,
            functional_calls=self.audit.report(),
            notes=_notes(self, [path for path, (_, calls) in called.items() if calls > 1]),
        )


def _notes(run: _Run, shared: list[str]) -> tuple[str, ...]:
    notes = []
    if not run.layers:
        notes.append(f"{run.name} has no BatchNorm layer")
    if run.source.synthetic:
        notes.append("the batch is synthetic: distances to the running statistics say nothing about real data")
    if shared:
        notes.append(f"called more than once in a forward, and pooled over the calls: {', '.join(shared)}")
    return tuple(notes)


def _with_shape(source: Source, shape: tuple[int, ...] | None) -> Source:
    import msgspec

    return msgspec.structs.replace(source, batch_shape=source.batch_shape or shape)


def _chosen(layers: dict[str, BatchNormLayer], glob: str | None, name: str) -> dict[str, BatchNormLayer]:
    if glob is None:
        return layers
    chosen = {path: layer for path, layer in layers.items() if fnmatchcase(path, glob)}
    if not chosen:
        shown = ", ".join(list(layers)[:4]) or "none at all"
        raise InputError(f"no BatchNorm layer of {name} matches {glob!r}: its layers are named {shown} ...")
    return chosen


def _pieces(batch: Any, batch_size: int | None) -> Iterator[tuple[Any, ...]]:
    """Tuples of inputs, at most ``batch_size`` images each."""
    from torch import Tensor

    if batch_size is not None and batch_size < 1:
        raise InputError(f"the batch size must be at least 1, and {batch_size} was given")
    given = (batch,) if isinstance(batch, Tensor) else batch
    for piece in given:
        inputs = piece if isinstance(piece, tuple) else (piece,)
        if not all(isinstance(value, Tensor) for value in inputs) or not inputs:
            found = ", ".join(type(value).__name__ for value in inputs) or "an empty tuple"
            raise InputError(f"a batch is a tensor or an iterable of tensors (or of tuples of them), and held {found}")
        if batch_size is None or not inputs[0].dim():
            yield inputs
        else:
            yield from zip(*(value.split(batch_size) for value in inputs), strict=True)


def _peek(pieces: Iterator[tuple[Any, ...]]) -> tuple[tuple[Any, ...], Iterator[tuple[Any, ...]]]:
    from itertools import chain

    first = next(pieces, None)
    if first is None:
        raise InputError("the batch is empty: it held no piece")
    return first, chain([first], pieces)


def _check(x: Tensor) -> None:
    """Refuse what no BatchNorm can take, before anything runs."""
    shape = list(x.shape)
    if x.is_complex():
        raise InputError(f"the batch {shape} is complex ({x.dtype}): BatchNorm is defined on real values; give .real")
    if not x.is_floating_point() and x.dim() > 2:
        raise InputError(
            f"the batch {shape} holds integers ({x.dtype}): scale images to floats first, "
            "for example x.float() / 255, and normalise as in training"
        )
    if x.dim() == 0 or x.numel() == 0:
        raise InputError(f"the batch {shape} is empty: a batch has the shape [N, ...] with N of at least 1")


def _fresh(x: Tensor) -> nn.Module:
    """A new BatchNorm of as many channels as ``x`` has, in training mode."""
    from torch import nn

    kinds = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
    _check(x)
    if x.dim() not in kinds:
        raise InputError(f"a batch for BatchNorm is [N, C] or [N, C, ...] with 2 to 5 dimensions, not {list(x.shape)}")
    if not x.is_floating_point():
        raise InputError(f"the batch {list(x.shape)} holds integers ({x.dtype}): give floats, for example x.float()")
    layer: nn.Module = kinds[x.dim()](x.shape[1], dtype=x.dtype if x.dtype.itemsize > 2 else None)
    return layer


def _with_values(report: StatsReport, output: list[tuple[Tensor, Tensor]]) -> StatsReport:
    """The batch normalised, ``(x - mean) / sqrt(var + eps) * weight + bias``, in float64."""
    import msgspec

    (layer,) = report.layers
    channels = layer.channels
    assert channels is not None
    x = np.concatenate([piece.double().numpy() for piece, _ in output])
    shape = (1, -1, *([1] * (x.ndim - 2)))
    mean, var = channels.mean, channels.var
    if report.tool.mode == "eval":
        mean, var = channels.running_mean, channels.running_var
    assert mean is not None
    assert var is not None
    normal = (x - mean.reshape(shape)) / np.sqrt(var.reshape(shape) + layer.eps)
    return msgspec.structs.replace(report, values=normal)
