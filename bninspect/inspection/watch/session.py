"""What a ``with`` block of :func:`bninspect.watch` is given: nothing of the model is kept beyond it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bninspect.errors import InputError

if TYPE_CHECKING:
    from contextlib import ExitStack
    from types import TracebackType

    from torch import Tensor

    from bninspect.inspection.watch.run import Run
    from bninspect.report import Alarm


class Watch:
    """A run that is watched within a ``with`` block."""

    def __init__(self, run: Run) -> None:
        self._run: Run | None = run
        self._alarms = run.alarms
        self._undo: ExitStack | None = None

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """Those so far, in their order."""
        return tuple(self._alarms)

    def step(self, **scalars: float | Tensor) -> None:
        """Count a step, where no optimizer does; ``scalars`` such as a loss are recorded with it.

        Raises:
            InputError: an optimizer counts the steps, or this is outside of the block.
        """
        if self._run is None or self._undo is None:
            raise InputError("watch.step() was called outside of its with block")
        if self._run.counted_by_optimizer:
            raise InputError("the optimizer counts the steps: leave watch.step() out, or the optimizer")
        self._run.count(scalars)

    def __enter__(self) -> Watch:
        if self._run is None or self._undo is not None:
            raise InputError("a watch is for one with block: call bninspect.watch again")
        self._undo = self._run.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._run, undo = None, self._undo
        if undo is not None:
            undo.__exit__(kind, error, traceback)
