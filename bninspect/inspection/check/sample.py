"""The batch that check was given: its pieces, how many images each has, and the first images, which are run again."""

from __future__ import annotations

from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from bninspect.errors import InputError
from bninspect.inspection.stats.pieces import held
from bninspect.observe.regroup import Cut, UncutError, length_of
from bninspect.observe.steps import is_one_step

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SAMPLE = 64  # images that are run again with batch statistics


class Images(NamedTuple):
    """Images as the inputs of one forward, and how they are cut into others; if they cannot be, ``why`` not."""

    inputs: tuple[Any, ...]
    num_images: int
    cut: Cut | None
    why: str = ""


class Pieces:
    """A batch of any kind, read once.

    Args:
        batch: as :func:`bninspect.check` takes it.
        kind: where it came from, if it was named on the command line.
        opaque: its pieces are steps as a loader made them, for a function of the user's own.

    Attributes:
        first: the inputs of the first piece; ``None`` where there is no batch.
        user_made: whether the pieces are batches as the user makes them.
        sizes: images in each of the batches that were read, if they are the user's.
    """

    def __init__(self, batch: Any, kind: str | None, *, opaque: bool = False) -> None:
        self.first: tuple[Any, ...] | None = None
        self.user_made = False
        self.opaque = opaque
        self.sizes: list[int] = []
        self._counts: list[int] = []
        self._ran = 0
        self._kept: list[tuple[Any, ...]] = []
        self._pieces: Any = batch
        if batch is None:
            return
        if is_one_step(batch):
            self.first = self._inputs(batch)
            self._pieces = (batch,) if opaque else batch
            return
        pieces = iter(batch)
        first = next(pieces, None)
        if first is None:
            raise InputError("the batch is empty: it held no piece")
        self.first, self._pieces = self._inputs(first), chain([first], pieces)
        self.user_made = kind in (None, "python")

    def read(self) -> Any:
        """The batch; its pieces are counted, and the first images remembered, on the way."""
        if isinstance(self._pieces, Tensor) or (isinstance(self._pieces, tuple) and not self.opaque):
            self._keep(self._inputs(self._pieces))
            return [self._pieces] if isinstance(self._pieces, tuple) else self._pieces
        return self._remembering(self._pieces)

    def _remembering(self, pieces: Iterable[Any]) -> Iterator[Any]:
        for piece in pieces:
            inputs = self._inputs(piece)
            if not self.opaque:
                self._keep(inputs)
                yield piece
                continue
            if sum(self._counts) < SAMPLE:
                self._kept.append(inputs)
            yield piece
            self._counted(self._ran - sum(self._counts))

    def _keep(self, inputs: tuple[Any, ...]) -> None:
        count = len(inputs[0])
        if (missing := SAMPLE - sum(self._counts)) > 0:
            self._kept.append(tuple(value[:missing] for value in inputs))
        self._counted(count)

    def _counted(self, count: int) -> None:
        self._counts.append(count)
        if self.user_made:
            self.sizes.append(count)

    def ran(self, images: int) -> None:
        """So many images were run so far: only that tells how many there are in a step of the user's own."""
        self._ran = images

    def count(self, images: int | None) -> None:
        """Read what was not read, for the sizes alone; ``images`` are those of the first piece, if that was run."""
        if not self.user_made or self.sizes:
            return
        if not self.opaque:
            self.sizes += [len(self._inputs(piece)[0]) for piece in self._pieces]
        elif images and self.first:
            with suppress(UncutError):
                cut = Cut(self.first, length_of(self.first) or images)
                self.sizes += [cut.images(self._inputs(piece)) for piece in self._pieces]

    def are_split(self) -> bool:
        """Whether pieces of less memory may be made of them: not of batches as the user makes them."""
        whole = self.first is None or (self.opaque and length_of(self.first) is None)
        return not (self.user_made or whole)

    @property
    def images(self) -> int:
        """How many were read."""
        return sum(self._counts)

    @property
    def usual(self) -> int | None:
        """The most frequent of the sizes."""
        return max(self.sizes, key=self.sizes.count, default=None)

    def joined(self) -> Images:
        """The remembered images as one piece; the first piece alone where they do not go together."""
        first, count = self._kept[0], self._counts[0]
        try:
            cut = Cut(first, count if self.opaque else len(first[0]))
        except UncutError as error:
            return Images(first, count, None, str(error))
        try:
            inputs = cut.joined(self._kept)
        except UncutError:
            inputs = first
        count = cut.images(inputs)
        if count > SAMPLE:
            inputs, count = cut.rows(inputs, torch.arange(SAMPLE)), SAMPLE
        return Images(inputs, count, cut)

    def _inputs(self, piece: Any) -> tuple[Any, ...]:
        if self.opaque:
            return (piece,)
        inputs = piece if isinstance(piece, tuple) else (piece,)
        if not inputs or not all(isinstance(value, Tensor) and value.dim() for value in inputs):
            raise InputError(
                f"a batch is a tensor, a tuple of tensors or an iterable of these, and held {held(inputs)}"
            )
        return inputs
