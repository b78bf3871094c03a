"""How far the processes of one training are apart, gathered on the host by a group of their own."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import distributed

from bninspect.errors import InputError
from bninspect.inspection.watch.warned import warn
from bninspect.rules.step_facts import Apart

if TYPE_CHECKING:
    from bninspect.inspection.watch.history import Modes, Step
    from bninspect.inspection.watch.segments import Segments
    from bninspect.report import Vector

_DECAY = 0.95  # from one step to the next: some 40 of them together
_ENOUGH = 20  # steps before distances are told
_LEAST = 1e-4  # of a ratio of variances: what is computed may fall below 0 by chance
_PATIENCE = timedelta(minutes=5)


def rank() -> int | None:
    """The number of this process; None where there is only one."""
    return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else None


class Ranks:
    """This process among the others; each must make one at the same time, and watch the same steps.

    Compared are the stored statistics, as moving averages over steps. DistributedDataParallel puts those of the first
    process into all others at each forward: they are then one batch apart, by the momentum of its difference.

    Args:
        segments: of the layers.
        shared: whether the first process's statistics are put into all others.

    Raises:
        InputError: there are no others.
    """

    def __init__(self, segments: Segments, *, shared: bool) -> None:
        if rank() is None or distributed.get_world_size() < 2:
            raise InputError("ranks=True compares processes, and torch.distributed runs with one or none: leave it out")
        self._segments, self._shared, self._steps = segments, shared, 0
        self._stored = np.zeros((2, int(segments.sizes.sum())))
        self._group: Any = distributed.new_group(backend="gloo", timeout=_PATIENCE)

    def first(self, number: int) -> int:
        """What the first process says."""
        told = torch.tensor([number])
        distributed.broadcast(told, 0, group=self._group)
        return int(told)

    def apart(self, step: Step, modes: Modes, *, due: bool) -> Apart | None:
        """Take a step in; how far processes are apart, where that is ``due``.

        If another process is gone, that is a warning, and nothing is compared any more.
        """
        if self._group is None:
            return None
        stored = np.stack([step.after.channels[name] for name in ("running_mean", "running_var")])
        self._stored += (1 - _DECAY) * (stored - self._stored)
        self._steps += 1
        if not due:
            return None
        try:
            return self._gathered(stored, modes)
        except RuntimeError as error:
            warn(f"processes are no longer compared: {error}")
            self.close()
            return None

    def close(self) -> None:
        """Leave the group."""
        if self._group is not None and distributed.is_initialized():
            distributed.destroy_process_group(self._group)
        self._group = None

    def _gathered(self, stored: Vector, modes: Modes) -> Apart | None:
        """Nothing but a hash where all agree to the bit, as with SyncBatchNorm."""
        digest = torch.tensor([int.from_bytes(hashlib.blake2b(stored.tobytes(), digest_size=7).digest(), "big")])
        digests = [torch.zeros_like(digest) for _ in range(distributed.get_world_size(self._group))]
        distributed.all_gather(digests, digest, group=self._group)
        if all(bool(other == digest) for other in digests):
            return None
        mine = np.stack([*self._stored / (1 - _DECAY**self._steps), *stored.astype(np.float64)])
        first = torch.from_numpy(mine.copy())
        distributed.broadcast(first, 0, group=self._group)
        most = torch.from_numpy(self._distances(mine, first.numpy(), modes))
        distributed.all_reduce(most, distributed.ReduceOp.MAX, group=self._group)
        d, r, unequal = most.numpy()
        return Apart(d=d, r=r, unequal=unequal > 0)

    def _distances(self, mine: Vector, first: Vector, modes: Modes) -> Vector:
        """``|d|`` and the ratio of deviations, medians by layer, and which differ in any bit, ``[3, layers]``."""
        segments = self._segments
        unequal = segments.total((mine[2:] != first[2:]).any(axis=0)) > 0
        weight = segments.spread(np.where(modes.momentum > 0, modes.momentum, 1)) if self._shared else 1.0
        eps = segments.spread(segments.eps)
        with np.errstate(all="ignore"):
            scale = first[1] + eps
            d = np.abs(mine[0] - first[0]) / weight / np.sqrt(scale)
            r = np.sqrt(np.maximum(1 + (mine[1] - first[1]) / weight / scale, _LEAST))
            r = np.maximum(r, 1 / r)
        if self._steps < _ENOUGH:
            d, r = np.zeros_like(d), np.ones_like(r)
        medians = [segments.median(np.nan_to_num(values, nan=none)) for values, none in ((d, 0.0), (r, 1.0))]
        return np.stack([*medians, unequal.astype(np.float64)])
