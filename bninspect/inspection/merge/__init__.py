"""The report of ``stats`` from the parts that several processes wrote; nothing is run."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from bninspect.errors import InputError, SourceError
from bninspect.text import printable

if TYPE_CHECKING:
    from bninspect.inspection.population.part import Part
    from bninspect.report import StatsReport

_SHOWN = 3  # gaps that an error lists


def merge(parts: str | Path, *, partial: bool = False) -> StatsReport:
    """Put the parts in a folder together; the report is the same however the work was shared.

    Args:
        parts: the folder.
        partial: report what there is, where parts are missing or not finished, with a note of how much is missing.

    Raises:
        SourceError: there are no parts, or one is damaged.
        InputError: chunks are missing, or in two parts; or parts are of different models, data or settings.
    """
    from bninspect.inspection.population.part import Part, places, refuse_others

    folder = Path(parts)
    found = [Part(place.path) for place in places(folder)]
    if not found:
        raise SourceError(
            f"there are no parts in {printable(str(folder))}: bninspect stats MODEL --batch SOURCE --parts DIR "
            "writes them"
        )
    refuse_others(found[1:], found[0].header.settings, found[0].path.name)
    _refuse_overlaps(found)
    lacking = _lacking(found)
    if lacking and not partial:
        raise InputError(
            f"{printable(str(folder))} does not hold everything: {lacking}. Start the same command again, which does "
            "the rest, or give --partial for a report of what there is"
        )
    return _merged(found, lacking)


def _refuse_overlaps(parts: list[Part]) -> None:
    spans = sorted((span, part.path.name) for part in parts for span in part.header.spans())
    for ((_, end), one), ((begin, _), other) in pairwise(spans):
        if begin < end:
            raise InputError(
                f"{printable(one)} and {printable(other)} both hold chunk {begin:,}: two runs wrote at the same time, "
                "or a part was copied; move one of them elsewhere"
            )


def _lacking(parts: list[Part]) -> str:
    """What is missing, in words; empty where nothing is."""
    from bninspect.inspection.population.ranges import missing

    header = parts[0].header
    total, size = header.chunks, header.settings.batch_size
    if total is None:
        return _lacking_streams(parts)
    gaps = missing(total, [span for part in parts for span in part.header.spans()])
    if not gaps:
        return ""
    images = header.settings.num_images or 0
    lost = sum(min(end * size, images) - begin * size for begin, end in gaps)
    shown = ", ".join(f"{begin * size:,} to {min(end * size, images) - 1:,}" for begin, end in gaps[:_SHOWN])
    more = f" and {len(gaps) - _SHOWN} ranges more" if len(gaps) > _SHOWN else ""
    return f"{lost:,} of {images:,} images are missing ({shown}{more}, counted from 0)"


def _lacking_streams(parts: list[Part]) -> str:
    number = parts[0].header.world_size
    done = {part.header.rank for part in parts if part.header.finished}
    left = [str(rank) for rank in range(number) if rank not in done]
    return f"of {number} processes those of rank {', '.join(left)} have not come to their end" if left else ""


def _merged(parts: list[Part], lacking: str) -> StatsReport:
    import msgspec

    from bninspect.inspection.population.tree import Tree
    from bninspect.inspection.stats.assemble import assemble

    parts = sorted((part for part in parts if part.header.nodes), key=lambda part: part.header.spans())
    if not parts:
        raise InputError("no part holds an image: the data gave none, or no process has written yet")
    tree = Tree()
    dtypes: dict[str, str] = {}
    for part in parts:
        dtypes = {**part.header.dtypes, **dtypes}
        for level, index, node in part.nodes():
            tree.add(level, index, node)
    images, pooled = tree.total()
    settings = parts[0].header.settings
    sampled = settings.sample / settings.whole if settings.sample and settings.whole else None
    frame = msgspec.structs.replace(
        parts[0].frame(),
        num_images=images,
        num_pieces=sum(end - begin for part in parts for begin, end in part.header.spans()),
    )
    if lacking:
        frame = msgspec.structs.replace(frame, notes=(f"not the whole: {lacking}", *frame.notes))
    return assemble(frame, parts[0].layers(), pooled, dtypes, extremes=settings.extremes, sampled=sampled)
