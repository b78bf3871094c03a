"""New statistics into the user's own buffers: all of them or none."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bninspect.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from torch import nn

    from bninspect.inspection.recalibrate.trial import Statistics


def put(layers: Mapping[str, nn.Module], values: Mapping[str, Statistics], pieces: int) -> None:
    """Copy statistics into the buffers that are there, so that references to them hold.

    Args:
        layers: the user's modules by path.
        values: the new statistics of some of them.
        pieces: what a layer that never counted a batch counts from now on.

    Raises:
        InputError: a value does not fit the buffer's type.
    """
    changes = [change for path in values for change in _changes(path, layers[path], values[path], pieces)]
    saved = [(buffer, buffer.detach().clone()) for buffer, _ in changes]
    try:
        _copy(changes)
    except BaseException:  # Ctrl-C as well
        _put_back(saved)
        raise


def _changes(path: str, module: Any, new: Statistics, pieces: int) -> list[tuple[Tensor, Tensor]]:
    changes = []
    for name, vector in (("running_mean", new.mean), ("running_var", new.var)):
        buffer: Tensor = getattr(module, name)
        value = torch.from_numpy(vector).to(buffer)
        if not value.isfinite().all():
            kind = str(buffer.dtype).removeprefix("torch.")
            raise InputError(f"the new {name} of layer {path} is too large for {kind}: nothing was changed")
        changes.append((buffer, value))
    counted = module.num_batches_tracked
    if isinstance(counted, Tensor) and int(counted) == 0:
        changes.append((counted, torch.full_like(counted, pieces)))
    return changes


def _copy(changes: list[tuple[Tensor, Tensor]]) -> None:
    for buffer, value in changes:
        with torch.no_grad(), _mode_of(buffer):
            buffer.copy_(value)


def _put_back(saved: list[tuple[Tensor, Tensor]]) -> None:
    """Every old value; Ctrl-C waits for it."""
    while saved:
        try:
            _copy(saved[-1:])
            saved.pop()
        except KeyboardInterrupt:
            continue


def _mode_of(buffer: Tensor) -> AbstractContextManager[Any]:
    """What was made in inference mode can be written to only there."""
    return torch.inference_mode() if buffer.is_inference() else nullcontext()
