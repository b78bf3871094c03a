"""The statistics of the layers while a model trains, and the step at which something broke."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bninspect.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn
    from torch.optim import Optimizer

    from bninspect.inspection.watch.session import Watch
    from bninspect.report import Alarm


def watch(
    model: nn.Module,
    optimizer: Optimizer | None = None,
    *,
    every: int = 50,
    to: Any = None,
    channels: bool = False,
    accumulation: int = 1,
    start: int | None = None,
    append: bool = False,
    ranks: bool = False,
    probe: Any = None,
    probe_every: int | None = None,
    on_alarm: Callable[[Alarm], None] | None = None,
) -> Watch:
    """Watch a training loop, within a ``with`` block: the training is unchanged, and no hook is in the forward.

    What the batch of a step was follows from the running statistics before and after it. At every step the layers are
    looked at for what is wrong; each layer is told once for each code, as a line of the record and, but for what is
    only information, a :class:`bninspect.errors.WatchWarning`. On a GPU that is one step later, so that nobody waits.

    Args:
        model: that trains, with its DistributedDataParallel or ``torch.compile`` around it where there is one.
        optimizer: whose steps are counted; without one, call ``step()`` of what the block is given.
        every: steps from one record to the next.
        to: where records go: a path that ends in .jsonl and does not exist; a ``SummaryWriter``; an object with ``log``
            or ``log_metrics`` (a run of W&B, loggers of Lightning and MLflow); a function of a dict and a step; or a
            list of these. Of several processes, the first alone records.
        channels: write the vectors of each record, as safetensors in a folder beside the file.
        accumulation: batches whose gradients make one step.
        start: steps that were done before; default 0, or, where a run is continued, those in its file.
        append: go on with the run in the file.
        ranks: compare the processes of ``torch.distributed`` at each record; each must watch, with the same settings.
        probe: a batch for :func:`bninspect.check`, whose findings are recorded.
        probe_every: steps from one look at it to the next; default ``every``.
        on_alarm: called with each :class:`bninspect.report.Alarm`; what it raises ends the loop.

    Raises:
        InputError: a setting makes no sense, the file exists, or there is no layer that keeps statistics.
    """
    counts = {"every": every, "accumulation": accumulation, "probe_every": probe_every, "start": start}
    for name, value in counts.items():
        if value is not None:
            _refuse_unless_count(name, value, least=int(name != "start"))
    if probe_every and probe is None:
        raise InputError("probe_every says how often the probe is looked at: give probe=batch as well")
    if on_alarm is not None and not callable(on_alarm):
        raise InputError(f"on_alarm is a function of an alarm, and a {type(on_alarm).__name__} was given")
    from bninspect.inspection.watch.run import Run, Settings
    from bninspect.inspection.watch.session import Watch

    return Watch(
        Run(
            model,
            optimizer,
            to,
            Settings(
                every=every,
                accumulation=accumulation,
                start=start,
                append=append,
                channels=channels,
                ranks=ranks,
                probe=probe,
                probe_every=probe_every or every,
                on_alarm=on_alarm,
            ),
        )
    )


def _refuse_unless_count(name: str, value: Any, *, least: int) -> None:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise InputError(f"{name} must be a whole number, and {value!r} was given")
    if value < least:
        raise InputError(f"{name} must be positive, and {value} was given")
