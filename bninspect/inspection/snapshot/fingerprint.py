"""What tells one batch from another: the SHA-256 of its tensors, whichever way it is cut into pieces."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Fingerprint:
    """A batch that is hashed as it is read.

    Args:
        batch: as :func:`bninspect.stats` takes it: a tensor, a tuple of tensors, or an iterable of either.

    Attributes:
        data: the same batch, to be read instead; ``digest`` is known once it was read.
    """

    def __init__(self, batch: Tensor | tuple[Any, ...] | Iterable[Any]) -> None:
        self._inputs: dict[int, Any] = {}
        self._images = 0
        if isinstance(batch, (Tensor, tuple)):
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
        tensors = piece if isinstance(piece, tuple) else (piece,)
        for index, tensor in enumerate(tensors):
            if isinstance(tensor, Tensor):  # what is none will be refused by those who read on
                self._of(index, tensor).update(_bytes(tensor))
        first = next((tensor for tensor in tensors if isinstance(tensor, Tensor)), None)
        self._images += 0 if first is None or not first.dim() else len(first)

    def _of(self, index: int, tensor: Tensor) -> Any:
        if index not in self._inputs:
            self._inputs[index] = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape[1:])} ".encode())
        return self._inputs[index]


def _bytes(tensor: Tensor) -> Any:
    import torch

    plain = tensor.detach().cpu().contiguous().reshape(-1)
    return plain.view(torch.uint8).numpy()
