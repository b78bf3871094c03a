"""The batch that check was given: its pieces, how many images each has, and the first images, which are run again."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bninspect.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SAMPLE = 64  # images that are run again with batch statistics


class Pieces:
    """A batch of any kind, read once.

    Attributes:
        first: the inputs of the first piece; ``None`` where there is no batch.
        user_made: whether the pieces are batches as the user makes them.
        sizes: images in each of the batches that were read, if they are the user's.
    """

    def __init__(self, batch: Any, kind: str | None) -> None:
        self.first: tuple[Any, ...] | None = None
        self.user_made = False
        self.sizes: list[int] = []
        self._kept: list[tuple[Any, ...]] = []
        self._pieces: Any = batch
        if batch is None:
            return
        if isinstance(batch, (Tensor, tuple)):
            self.first = _inputs(batch)
            return
        pieces = iter(batch)
        first = next(pieces, None)
        if first is None:
            raise InputError("the batch is empty: it held no piece")
        self.first, self._pieces = _inputs(first), chain([first], pieces)
        self.user_made = kind in (None, "python")

    def read(self) -> Any:
        """The batch; its pieces are counted, and the first images remembered, on the way."""
        if isinstance(self._pieces, (Tensor, tuple)):
            self._kept.append(tuple(value[:SAMPLE] for value in _inputs(self._pieces)))
            return self._pieces
        return self._remembering(self._pieces)

    def _remembering(self, pieces: Iterable[Any]) -> Iterator[Any]:
        kept = 0
        for piece in pieces:
            inputs = _inputs(piece)
            if self.user_made:
                self.sizes.append(len(inputs[0]))
            if kept < SAMPLE:
                self._kept.append(tuple(value[: SAMPLE - kept] for value in inputs))
                kept += len(self._kept[-1][0])
            yield piece

    def count(self) -> None:
        """Read what was not read, for the sizes alone."""
        if self.user_made and not self.sizes:
            self.sizes += [len(_inputs(piece)[0]) for piece in self._pieces]

    @property
    def usual(self) -> int | None:
        """The most frequent of the sizes."""
        return max(self.sizes, key=self.sizes.count, default=None)

    def joined(self) -> tuple[Any, ...]:
        """The remembered images as one piece; the first piece alone where shapes differ."""
        shapes = {tuple(value.shape[1:] for value in piece) for piece in self._kept}
        if len(self._kept) == 1 or len(shapes) > 1:
            return self._kept[0]
        return tuple(torch.cat(values) for values in zip(*self._kept, strict=True))


def _inputs(piece: Any) -> tuple[Any, ...]:
    inputs = piece if isinstance(piece, tuple) else (piece,)
    if not inputs or not all(isinstance(value, Tensor) and value.dim() for value in inputs):
        found = ", ".join(type(value).__name__ for value in inputs) or "an empty tuple"
        raise InputError(f"a batch is a tensor, a tuple of tensors or an iterable of these, and held {found}")
    return inputs
