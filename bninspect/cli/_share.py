"""One process's share of ``stats --parts``: which it is, and how far it is, on standard error."""

from __future__ import annotations

import os
import shlex
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from bninspect.cli import _options as options
from bninspect.errors import InputError
from bninspect.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bninspect.inspection.population.work import Progress

_OF_MERGE = ("fmt", "output", "snapshot", "update", "channels", "sort", "top")
_OF_ONE = ("values", "live", "max_batches")
_DIGITS = 10  # of a number that counts processes or threads
_PERIOD = 1.0  # seconds between two lines on a terminal


def measure(model: str, batch: str, settings: dict[str, Any]) -> None:
    """Measure the share of this process, which RANK and WORLD_SIZE name, as torchrun sets them."""
    import torch

    import bninspect

    _refuse_unused()
    rank, world_size = share = _share()
    found = options.find_model(model, settings)
    if options.is_stored(found):
        options.refuse_to_run(found, "--parts")
    torch.set_num_threads(_threads())
    given = options.find_batch(batch, {**settings, "share": share}, found)
    if given.synthetic:
        raise click.UsageError("--parts is for a data set, and a random batch is made up: leave --parts out")
    built = options.build(found, settings["seed"])
    images = 0

    def count(progress: Progress) -> None:
        nonlocal images
        images = progress.images
        if show is not None:
            show(progress)

    with _progress(rank, world_size) as show:
        bninspect.population(
            built,
            given.data,
            settings["parts"],
            rank=rank,
            world_size=world_size,
            batch_size=settings["batch_size"],
            workers=settings["workers"],
            sample=settings["sample"],
            seed=settings["seed"],
            every=settings["every"],
            mode=settings["mode"] or "eval",
            device=_device(settings["device"], rank),
            layer=settings["layer"],
            pick=given.pick,
            own_share=given.own_share,
            source=options.source_of(found, given),
            notes=(*found.notes, *dict.fromkeys(options.remarks_of(found))),
            on_chunk=count,
        )
    if not images:
        click.echo(f"the share of rank {rank} is empty: its part holds no image", err=True)
    if rank == 0:
        then = f"bninspect merge {shlex.quote(settings['parts'])}"
        click.echo(f"rank 0 is done; when all are: {printable(then)}", err=True)


def _refuse_unused() -> None:
    """What is said of a report that this command does not print."""
    context = click.get_current_context()
    for parameter in context.command.params:
        name = parameter.name or ""
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if given and name in (*_OF_MERGE, *_OF_ONE):
            where = "give it to bninspect merge" if name in _OF_MERGE else "leave it out"
            raise click.UsageError(f"--parts prints no report, and {parameter.opts[-1]} is about one: {where}")


def _threads() -> int:
    """As torchrun sets them: figures depend on their number to the bit."""
    text = (os.environ.get("OMP_NUM_THREADS") or "1").split(",")[0]  # of nested levels the first
    if not _is_number(text) or not int(text):
        raise InputError(f"OMP_NUM_THREADS is {printable(repr(text), 40)}: a number of threads was expected")
    return int(text)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < _DIGITS


def _share() -> tuple[int, int]:
    texts = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if not all(map(_is_number, texts)) or int(texts[0]) >= int(texts[1]):
        raise InputError(
            f"RANK is {printable(repr(texts[0]), 40)} and WORLD_SIZE {printable(repr(texts[1]), 40)}: a rank is a "
            "number from 0 to below the number of processes; torchrun sets both"
        )
    return int(texts[0]), int(texts[1])


def _device(name: str | None, rank: int) -> str | None:
    """``cuda`` alone means a device for each process."""
    if name != "cuda":
        return name
    import torch

    return f"cuda:{rank % max(1, torch.cuda.device_count())}"


@contextmanager
def _progress(rank: int, world_size: int) -> Iterator[Callable[[Progress], None] | None]:
    """Rank 0 tells how far it is: on a terminal in one line, elsewhere when its part is written."""
    if rank:
        yield None
        return
    terminal = sys.stderr.isatty()
    shown = 0.0

    def show(progress: Progress) -> None:
        nonlocal shown
        if progress.written or (terminal and time.monotonic() - shown >= _PERIOD):
            shown = time.monotonic()
            text = line(progress, world_size)
            click.echo(f"\r\x1b[K{text}" if terminal else text, nl=not terminal, err=True)

    try:
        yield show
    finally:
        if terminal and shown:
            click.echo(err=True)


def line(progress: Progress, world_size: int) -> str:
    """``1,024 of 50,000 images, 120 images/s, 7 min left``; of one share where there are several."""
    speed = (progress.images - progress.resumed) / max(progress.seconds, 1e-9)
    of = "" if progress.total is None else f" of {progress.total:,}"
    where = f"rank 0 of {world_size}: " if world_size > 1 else ""
    text = f"{where}{progress.images:,}{of} images, {speed:,.0f} images/s"
    if progress.total is None or not speed or progress.images >= progress.total:
        return text
    return f"{text}, {_duration((progress.total - progress.images) / speed)} left"


def _duration(seconds: float) -> str:
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} s"
