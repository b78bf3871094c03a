"""A batch as pieces that a model takes; what no BatchNorm can take is refused before anything runs."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from torch import Tensor, nn

from bninspect.containers import has_names, parts_of
from bninspect.errors import InputError
from bninspect.observe.regroup import split
from bninspect.observe.steps import steps_of
from bninspect.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bninspect.report import StatsReport


def pieces_of(batch: Any, batch_size: int | None) -> Iterator[tuple[Any, ...]]:
    """Tuples of inputs, at most ``batch_size`` images each."""
    if batch_size is not None and batch_size < 1:
        raise InputError(f"the batch size must be at least 1, and {batch_size} was given")
    for piece in given(batch):
        inputs = piece if isinstance(piece, tuple) else (piece,)
        if not all(isinstance(value, Tensor) for value in inputs) or not inputs:
            raise InputError(
                f"a batch is a tensor or an iterable of tensors (or of tuples of them), and held {held(inputs)}"
            )
        if batch_size is None or not inputs[0].dim():
            yield inputs
        else:
            yield from zip(*(value.split(batch_size) for value in inputs), strict=True)


def given(batch: Any) -> Any:
    """The pieces of a batch, of which a tuple has several; what is a single one is not gone through."""
    return batch if isinstance(batch, tuple) else steps_of(batch)


def held(inputs: tuple[Any, ...]) -> str:
    """What is no input, and what to do with it where it has names."""
    names = next((list(parts_of(value) or ()) for value in inputs if has_names(value)), [])
    found = ", ".join(type(value).__name__ for value in inputs) or "an empty tuple"
    if not names:
        return found
    shown = ", ".join(printable(str(name), 40) for name in names[:12])
    return f"{found} of {shown}: forward=lambda model, step: model(step[{names[0]!r}]) says what the model takes of it"


def as_given(batch: Any, batch_size: int | None) -> Iterator[tuple[Any, ...]]:
    """Each step as it comes, as the one input of the user's own forward; of at most ``batch_size`` images.

    Raises:
        InputError: while it is read, a step is to be split, and is no tensor and names none.
    """
    for step in steps_of(batch):
        if batch_size is None:
            yield (step,)
        else:
            yield from split((step,), batch_size)


def first_of(pieces: Iterator[tuple[Any, ...]]) -> tuple[tuple[Any, ...], Iterator[tuple[Any, ...]]]:
    """The first piece, and all of them."""
    first = next(pieces, None)
    if first is None:
        raise InputError("the batch is empty: it held no piece")
    return first, chain([first], pieces)


def refuse_unfit(x: Tensor) -> None:
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


def fresh_layer(x: Tensor) -> nn.Module:
    """A new BatchNorm of as many channels as ``x`` has, in training mode."""
    kinds = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
    refuse_unfit(x)
    if x.dim() not in kinds:
        raise InputError(f"a batch for BatchNorm is [N, C] or [N, C, ...] with 2 to 5 dimensions, not {list(x.shape)}")
    if not x.is_floating_point():
        raise InputError(f"the batch {list(x.shape)} holds integers ({x.dtype}): give floats, for example x.float()")
    layer: nn.Module = kinds[x.dim()](x.shape[1], dtype=x.dtype if x.dtype.itemsize > 2 else None)
    return layer


def with_values(report: StatsReport, output: list[tuple[Tensor, Tensor]]) -> StatsReport:
    """The batch normalised, ``(x - mean) / sqrt(var + eps) * weight + bias``, in float64."""
    (layer,) = report.layers
    channels = layer.channels
    assert channels is not None
    if report.tool.mode == "train" and layer.count == 1:
        raise InputError(
            "one value per channel cannot be normalised by its own statistics: give more rows, or no --values"
        )
    x = np.concatenate([piece.double().numpy() for piece, _ in output])
    shape = (1, -1, *([1] * (x.ndim - 2)))
    mean, var = channels.mean, channels.var
    if report.tool.mode == "eval":
        mean, var = channels.running_mean, channels.running_var
    assert mean is not None
    assert var is not None
    normal = (x - mean.reshape(shape)) / np.sqrt(var.reshape(shape) + layer.eps)
    return msgspec.structs.replace(report, values=normal)
