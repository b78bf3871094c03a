"""The data as steps that can be gone through again: what the model takes, and the labels where there are any."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from bninspect.containers import are_labels, labels_of
from bninspect.errors import InputError
from bninspect.inspection.stats.pieces import as_given, given, pieces_of
from bninspect.observe.steps import is_one_step, tensors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bninspect.observe.forward import Forward


class Step(NamedTuple):
    """One piece: the model's inputs, and a class for each image or ``None``."""

    inputs: tuple[Any, ...]
    labels: Tensor | None = None

    @property
    def mark(self) -> Any:
        """Something by which the same images are known again; ``None`` where no tensor is in sight."""
        found = tensors(self.inputs)
        return (*(tuple(x.shape) for x in found), max(found, key=Tensor.numel).sum().item()) if found else None


class Data:
    """A batch, to be gone through more than once.

    Args:
        batch: a tensor; or an iterable of pieces: a tensor, a tuple of tensors for a model of several inputs, or a list
            ``[input, labels]``, as a DataLoader makes it.
        batch_size: split the pieces into such of at most as many images.
        by: the user's own function, which takes them as they are.

    Raises:
        InputError: it can be gone through once only.
    """

    def __init__(self, batch: Any, batch_size: int | None, *, by: Forward | None = None) -> None:
        self.by = by
        if not is_one_step(batch) and iter(batch) is batch:
            raise InputError(
                f"the batch is a {type(batch).__name__}, which can be gone through once, and recalibrating goes "
                "through the data several times: give a tensor, a list or a DataLoader"
            )
        self.batch, self.batch_size = batch, batch_size

    def __iter__(self) -> Iterator[Step]:
        return self._split() if self.by is None else map(Step, as_given(self.batch, self.batch_size))

    def answered(self, step: Step, output: Any, images: int) -> tuple[Any, Tensor | None]:
        """What was predicted for so many images, and their labels; a function of the user's may give both."""
        if self.by is None:
            return output, step.labels
        if isinstance(output, (list, tuple)) and len(output) == 2 and are_labels(output[1], images):
            return output[0], output[1]
        return output, labels_of(step.inputs[0], images)

    def _split(self) -> Iterator[Step]:
        for piece in given(self.batch):
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
    known = isinstance(first, Tensor) and first.dim() and are_labels(second, len(first))
    return first, second if known else None
