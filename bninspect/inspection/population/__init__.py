"""Statistics over a data set that any number of processes share, none of which waits for another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch
    from torch import nn

    from bninspect.inspection.population.work import Progress
    from bninspect.report import Mode, Source


def population(
    model: nn.Module,
    data: Any,
    parts: str | Path,
    *,
    rank: int = 0,
    world_size: int = 1,
    batch_size: int | None = None,
    workers: int = 0,
    sample: int | None = None,
    seed: int = 0,
    every: float = 60,
    mode: Mode = "eval",
    device: str | torch.device | None = None,
    layer: str | None = None,
    extremes: bool = True,
    pick: Callable[[Any], Any] | None = None,
    own_share: bool = False,
    source: Source | None = None,
    notes: tuple[str, ...] = (),
    on_chunk: Callable[[Progress], None] | None = None,
) -> Path:
    """Measure this process's share of a data set into a part, which :func:`bninspect.merge` puts together with others.

    The merged report is the same to the byte for any number of processes, any order and any restart, on the same kind
    of device with the same batch size and number of threads. A process that was killed goes on from its part; one of a
    run with another ``world_size`` takes only what no part holds yet.

    Args:
        model: any module; it is left as found.
        data: a tensor, a map-style data set, a DataLoader (its data set, its collate_fn and its workers are used, its
            sampler is not), or an iterable, for one process.
        parts: the folder of the parts.
        rank: the number of this process; ``world_size``: how many there are.
        world_size: see ``rank``.
        batch_size: images in a chunk; default that of the DataLoader, else 32.
        workers: processes that read; default those of the DataLoader.
        sample: look at so many images, drawn from all of them by ``seed``.
        seed: see ``sample``.
        every: seconds between two times that the part is written.
        mode: ``eval`` or ``train``: which statistics normalise.
        device: where to run; default where the model is.
        layer: a glob over paths; only these layers are measured.
        extremes: also find min, max and the share of zeros.
        pick: what of a step of the data is the model's input; default the step.
        own_share: ``data`` is an iterable over the share of this process alone.
        source: where model and data came from, for the report's header.
        notes: for the report, beside its own.
        on_chunk: called after each chunk.

    Returns:
        The part.

    Raises:
        InputError: the data cannot be cut or do not fit; or the folder holds parts of another run.
        ForwardError: the model's forward raised.
    """
    from pathlib import Path

    from bninspect.inspection.population.data import divided
    from bninspect.inspection.population.work import Work
    from bninspect.inspection.stats.run import Run
    from bninspect.observe.process import resolve_device
    from bninspect.observe.unwrap import unwrap

    found = divided(
        data,
        pick=pick,
        batch_size=batch_size,
        workers=workers,
        sample=sample,
        seed=seed,
        rank=rank,
        world_size=world_size,
        own_share=own_share,
    )
    model = unwrap(model)
    run = Run(model, mode, resolve_device(device, model), layer=layer, extremes=extremes, source=source)
    work = Work(run, found, Path(parts), rank, world_size)
    work.notes = notes
    work.begin(model, layer=layer, sample=sample, seed=seed)
    work.go_on(every, on_chunk)
    return work.place.path
