"""A watch as a callback of Lightning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback

import bninspect

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

    from bninspect.inspection.watch.session import Watch


class LightningWatch(Callback):
    """Watch the training of a Lightning ``Trainer``: ``Trainer(callbacks=[LightningWatch(to="run.jsonl")])``.

    Args:
        options: those of :func:`bninspect.watch`. ``to`` is by default the trainer's own loggers; ``accumulation`` and
            ``start`` are the trainer's.

    Attributes:
        watch: the present or last :class:`Watch`, with its ``alarms``.
    """

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._steps = 0
        self.watch: Watch | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the watch."""
        given = {
            "to": list(trainer.loggers),
            "accumulation": trainer.accumulate_grad_batches,
            "start": trainer.global_step,
            **self._options,
        }
        self._steps = trainer.global_step
        self.watch = bninspect.watch(trainer.strategy.model or pl_module, **given).__enter__()

    def on_train_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Count a step, where this batch ended one."""
        if self.watch is not None and trainer.global_step > self._steps:
            self._steps = trainer.global_step
            self.watch.step()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002  # Lightning's names
        """End the watch."""
        self._close(None)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:  # noqa: ARG002
        """End the watch, and say by what."""
        self._close(exception)

    def _close(self, error: BaseException | None) -> None:
        if self.watch is not None:
            self.watch.__exit__(type(error) if error else None, error, None)
