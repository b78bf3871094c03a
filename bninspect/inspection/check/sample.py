"""The batch that check was given: its pieces, and the first images, which are run again."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bninspect.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SAMPLE = 64  # images that are run again with batch statistics


def opened(batch: Any, kind: str | None) -> tuple[tuple[Any, ...] | None, Any, bool]:
    """The first piece, all pieces, and whether they are batches as the user makes them."""
    if batch is None:
        return None, None, False
    if isinstance(batch, (Tensor, tuple)):
        return _inputs(batch), batch, False
    pieces = iter(batch)
    first = next(pieces, None)
    if first is None:
        raise InputError("the batch is empty: it held no piece")
    return _inputs(first), chain([first], pieces), kind in (None, "python")


def _inputs(piece: Any) -> tuple[Any, ...]:
    inputs = piece if isinstance(piece, tuple) else (piece,)
    if not inputs or not all(isinstance(value, Tensor) and value.dim() for value in inputs):
        found = ", ".join(type(value).__name__ for value in inputs) or "an empty tuple"
        raise InputError(f"a batch is a tensor, a tuple of tensors or an iterable of these, and held {found}")
    return inputs


def kept(pieces: Any, sample: list[tuple[Any, ...]]) -> Any:
    """The pieces, of which the first images are remembered on the way."""
    if isinstance(pieces, (Tensor, tuple)):
        sample.append(tuple(value[:SAMPLE] for value in _inputs(pieces)))
        return pieces
    return _remembering(pieces, sample)


def _remembering(pieces: Iterable[Any], sample: list[tuple[Any, ...]]) -> Iterator[Any]:
    kept = 0
    for piece in pieces:
        inputs = _inputs(piece)
        if kept < SAMPLE:
            sample.append(tuple(value[: SAMPLE - kept] for value in inputs))
            kept += len(sample[-1][0])
        yield piece


def joined(sample: list[tuple[Any, ...]]) -> tuple[Any, ...]:
    """The remembered images as one piece; the first piece alone where shapes differ."""
    if len(sample) == 1:
        return sample[0]
    shapes = {tuple(value.shape[1:] for value in piece) for piece in sample}
    if len(shapes) > 1:
        return sample[0]
    return tuple(torch.cat(values) for values in zip(*sample, strict=True))
