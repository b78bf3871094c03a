"""A watch as a callback of Hugging Face's Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

import bninspect

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from bninspect.inspection.watch.session import Watch


class TransformersWatch(TrainerCallback):
    """Watch the training of a Hugging Face ``Trainer``: ``Trainer(..., callbacks=[TransformersWatch()])``.

    Args:
        options: those of :func:`bninspect.watch`. ``to`` is by default ``bninspect.jsonl`` in the trainer's
            ``output_dir``, where a run that is resumed goes on; ``accumulation`` and ``start`` are the trainer's.

    Attributes:
        watch: the present or last :class:`Watch`, with its ``alarms``.
    """

    def __init__(self, **options: Any) -> None:
        self._options = options
        self.watch: Watch | None = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002  # the trainer's names
        model: Any = None,
        **_: Any,
    ) -> None:
        """Begin the watch."""
        folder = Path(args.output_dir or ".")
        folder.mkdir(parents=True, exist_ok=True)
        given = {
            "to": folder / "bninspect.jsonl",
            "append": state.global_step > 0,
            "accumulation": args.gradient_accumulation_steps,
            "start": state.global_step,
            **self._options,
        }
        self.watch = bninspect.watch(model, **given).__enter__()

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Count a step, before its gradients are put to zero."""
        if self.watch is not None:
            self.watch.step()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """End the watch."""
        if self.watch is not None:
            self.watch.__exit__(None, None, None)
