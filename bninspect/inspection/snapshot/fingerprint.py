"""What tells one batch from another: the SHA-256 of its tensors, whichever way it is cut into pieces."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from bninspect.observe.steps import is_one_step, tensors

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor


class Fingerprint:
    """A batch that is hashed as it is read.

    Args:
        batch: as :func:`bninspect.stats` takes it: a tensor, a tuple of tensors, any other step, or an iterable of
            these; what is no tensor does not count.

    Attributes:
        data: the same batch, to be read instead; ``digest`` is known once it was read.
    """

    def __init__(self, batch: Tensor | tuple[Any, ...] | Iterable[Any]) -> None:
        self._inputs: dict[int, Any] = {}
        self._images = 0
        if is_one_step(batch):
            self._add(batch)
            self.data: Any = batch
        else:
            self.data = self._passing(batch)

    @property
    def digest(self) -> str:
        """64 hexadecimal digits; the number of images is part of it."""
        parts = [self._inputs[index].hexdigest() for index in sorted(self._inputs)]
        return hashlib.sha256(f"{self._images} {' '.join(parts)}".encode()).hexdigest()

    def _passing(self, batch: Iterable[Any]) -> Iterator[Any]:
        for piece in batch:
            self._add(piece)
            yield piece

    def _add(self, piece: Any) -> None:
        found = tensors(piece)
        for index, tensor in enumerate(found):
            self._of(index, tensor).update(_bytes(tensor))
        self._images += len(found[0]) if found and found[0].dim() else 0

    def _of(self, index: int, tensor: Tensor) -> Any:
        if index not in self._inputs:
            self._inputs[index] = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape[1:])} ".encode())
        return self._inputs[index]


def _bytes(tensor: Tensor) -> Any:
    import torch

    plain = tensor.detach().cpu().contiguous().reshape(-1)
    return plain.view(torch.uint8).numpy()
