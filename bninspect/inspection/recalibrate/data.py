"""The data as steps that can be gone through again: what the model takes, and the labels where there are any."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from bninspect.errors import InputError
from bninspect.inspection.stats.pieces import pieces_of

if TYPE_CHECKING:
    from collections.abc import Iterator


class Step(NamedTuple):
    """One piece: the model's inputs, and a class for each image or ``None``."""

    inputs: tuple[Any, ...]
    labels: Tensor | None = None

    @property
    def mark(self) -> tuple[tuple[int, ...], float]:
        """Something by which the same images are known again."""
        first = self.inputs[0]
        return tuple(first.shape), float(first.sum())


class Data:
    """A batch, to be gone through more than once.

    Args:
        batch: a tensor; or an iterable of pieces: a tensor, a tuple of tensors for a model of several inputs, or a list
            ``[input, labels]``, as a DataLoader makes it.
        batch_size: split the pieces into such of at most as many images.

    Raises:
        InputError: it can be gone through once only.
    """

    def __init__(self, batch: Any, batch_size: int | None) -> None:
        if not isinstance(batch, Tensor) and iter(batch) is batch:
            raise InputError(
                f"the batch is a {type(batch).__name__}, which can be gone through once, and recalibrating goes "
                "through the data several times: give a tensor, a list or a DataLoader"
            )
        self.batch, self.batch_size = batch, batch_size

    def __iter__(self) -> Iterator[Step]:
        for piece in (self.batch,) if isinstance(self.batch, Tensor) else self.batch:
            inputs, labels = _parts(piece)
            start = 0
            for part in pieces_of([inputs], self.batch_size):
                if labels is None or not part[0].dim():
                    yield Step(part)
                else:
                    yield Step(part, labels[start : start + len(part[0])])
                    start += len(part[0])


def _parts(piece: Any) -> tuple[Any, Tensor | None]:
    """Inputs and labels of what a loader gave."""
    if not isinstance(piece, list) or not piece:
        return piece, None
    first, second = piece[0], piece[1] if len(piece) > 1 else None
    return first, second if _are_labels(second, first) else None


def _are_labels(value: Any, images: Any) -> bool:
    if not isinstance(value, Tensor) or not isinstance(images, Tensor) or value.dim() != 1 or not images.dim():
        return False
    return len(value) == len(images) and value.dtype in (torch.int64, torch.int32, torch.int16, torch.uint8)
