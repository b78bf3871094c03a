"""A data set as numbered chunks, any of which can be read; and a stream, which can only be gone through."""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, SequentialSampler

from bninspect.errors import BNInspectError, InputError, SourceError
from bninspect.inspection.stats.pieces import pieces_of
from bninspect.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from bninspect.inspection.population.ranges import Range

    Pick = Callable[[Any], Any]

STREAM = 40  # bits of a chunk's number within a stream; its rank stands above them
_SIZE = 32  # images of a chunk, where nobody says
_PROBES = 8  # images that tell one data set from another


class Indexed:
    """Data of which any image can be read by its number; chunk k holds those from ``k * batch_size`` on."""

    def __init__(
        self,
        read: Callable[[Iterable[Any]], Iterator[Any]],
        indices: Any,
        batch_size: int,
        notes: tuple[str, ...],
        whole: int,
    ) -> None:
        self.indices, self.batch_size, self.notes = indices, batch_size, notes
        self.chunks: int | None = -(-len(indices) // batch_size)
        self.num_images: int | None = len(indices)
        self.whole: int | None = whole
        self._read = read

    def pieces(self, ranges: list[Range]) -> Iterator[Any]:
        """The pieces of these chunks, in order."""
        size = self.batch_size
        return self._read(self.indices[k * size : (k + 1) * size] for begin, end in ranges for k in range(begin, end))

    def digest(self) -> str:
        """A SHA-256 of some images, evenly spread."""
        last = len(self.indices) - 1
        some = sorted({last * k // (_PROBES - 1) for k in range(_PROBES)})
        found = hashlib.sha256()
        for piece in self._read(self.indices[k : k + 1] for k in some):
            _update(found, piece)
        return found.hexdigest()

    def mark(self, _: Any) -> str | None:
        """Any chunk can be read again: nothing has to be remembered of one."""
        return None


class Stream:
    """Pieces that come one after another: chunk k is the k-th of this process."""

    def __init__(self, source: Iterable[Any], pick: Pick, rank: int, batch_size: int | None) -> None:
        self.source, self.pick, self.first = source, pick, rank << STREAM
        self.size = batch_size
        self.batch_size = batch_size or 0
        self.notes: tuple[str, ...] = ()
        self.chunks: int | None = None
        self.num_images: int | None = None
        self.whole: int | None = None

    def pieces(self, _: list[Range]) -> Iterator[Any]:
        """All pieces from the beginning, those that were measured before among them."""
        return _told(lambda: pieces_of(map(self.pick, self.source), self.size), lambda number: f"piece {number:,}")

    def mark(self, piece: Any) -> str | None:
        """A SHA-256 of the first image of a piece, by which it is known again."""
        found = hashlib.sha256()
        _update(found, tuple(value[:1] for value in (piece if isinstance(piece, tuple) else (piece,))))
        return found.hexdigest()

    def digest(self) -> str:
        """Nothing can be read of a stream without taking it away."""
        return ""


def _update(found: Any, piece: Any) -> None:
    for value in piece if isinstance(piece, tuple) else (piece,):
        found.update(f"{value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def divided(
    data: Any,
    *,
    pick: Pick | None,
    batch_size: int | None,
    workers: int,
    sample: int | None,
    seed: int,
    rank: int,
    world_size: int,
    own_share: bool,
) -> Indexed | Stream:
    """The data in chunks.

    Raises:
        InputError: they cannot be cut and several processes, or a sample, are asked for; they are empty.
    """
    pick = pick or _itself
    loader = data if isinstance(data, DataLoader) else None
    dataset: Any = data if loader is None else loader.dataset
    in_batches = loader is not None and loader.batch_sampler is None  # each item is a batch, and no image
    if own_share or in_batches or not (isinstance(dataset, Tensor) or _is_map_style(dataset)):
        _refuse_cut(data, sample, world_size, own_share=own_share)
        if isinstance(data, Tensor):
            return Stream([data], pick, rank, batch_size or _SIZE)
        if _is_map_style(data):
            return Stream(DataLoader(data, batch_size or _SIZE, num_workers=workers), pick, rank, None)
        return Stream(data, pick, rank, batch_size)
    if batch_size is not None and batch_size < 1:
        raise InputError(f"the batch size must be at least 1, and {batch_size} was given")
    whole = len(dataset)
    if not whole:
        raise InputError("the data set is empty: it holds no image")
    indices, notes = _drawn(whole, sample, seed)
    size = batch_size or (loader.batch_size if loader else None) or _SIZE
    if isinstance(dataset, Tensor):
        return Indexed(lambda chunks: (pick(dataset[_span(chunk)]) for chunk in chunks), indices, size, notes, whole)
    if loader:
        notes += _unused(loader)
    return Indexed(_reader(dataset, loader, workers, pick), indices, size, notes, whole)


def _unused(loader: DataLoader[Any]) -> tuple[str, ...]:
    """What a loader does that is not done here."""
    own = loader.sampler if loader.batch_size is not None else loader.batch_sampler
    notes = []
    if not isinstance(own, SequentialSampler):
        notes.append(f"the DataLoader's {type(own).__name__} is unused: images are taken by their index")
    if loader.drop_last:
        notes.append("the DataLoader's drop_last is unused: no image is left out")
    return tuple(notes)


def _itself(step: Any) -> Any:
    return step


def _is_map_style(data: Any) -> bool:
    if isinstance(data, (IterableDataset, list, tuple, dict, str)):
        return False
    return hasattr(data, "__getitem__") and hasattr(data, "__len__")


def _refuse_cut(data: Any, sample: int | None, world_size: int, *, own_share: bool) -> None:
    kind = type(data).__name__
    if isinstance(data, DataLoader) and data.batch_sampler is None:
        kind = "DataLoader whose items are whole batches (batch_size=None)"
    if sample is not None:
        raise InputError(f"a sample is drawn by the images' numbers, and a {kind} has none: give a map-style data set")
    if hasattr(data, "__getitem__") and not (hasattr(data, "__len__") or hasattr(data, "__iter__")):
        raise InputError(f"a {kind} has no length: a map-style data set has __len__ beside __getitem__")
    if not (hasattr(data, "__iter__") or _is_map_style(data)):
        raise InputError(f"a {kind} is no data set: give a tensor, a map-style data set, a DataLoader or an iterable")
    if world_size > 1 and not own_share:
        raise InputError(
            f"a {kind} cannot be cut into {world_size} shares: give a map-style data set, or a function that takes "
            "rank and world_size and gives the share of one process; or run one process"
        )


def _drawn(total: int, sample: int | None, seed: int) -> tuple[Any, tuple[str, ...]]:
    """The numbers of the images that are looked at, in order."""
    if sample is None:
        return range(total), ()
    if not 2 <= sample <= total:
        raise InputError(f"a sample has at least 2 images and at most the {total:,} that there are, not {sample:,}")
    indices = np.sort(np.random.default_rng(seed).choice(total, sample, replace=False))
    return indices, (f"a sample of {sample:,} of {total:,} images, seed {seed}; mean_error is for the whole",)


def _span(chunk: Any) -> Any:
    return slice(chunk.start, chunk.stop) if isinstance(chunk, range) else torch.from_numpy(chunk)


def _reader(dataset: Any, loader: Any, workers: int, pick: Pick) -> Callable[[Iterable[Any]], Iterator[Any]]:
    names = ("collate_fn", "pin_memory", "timeout", "worker_init_fn", "multiprocessing_context", "prefetch_factor")
    given = {name: getattr(loader, name) for name in names} if loader else {}
    number = workers or (loader.num_workers if loader else 0)
    if not number:
        for name in ("timeout", "multiprocessing_context", "prefetch_factor"):
            given.pop(name, None)

    def read(chunks: Iterable[Any]) -> Iterator[Any]:
        asked: list[list[int]] = []

        def order() -> Iterator[list[int]]:
            for chunk in chunks:
                asked.append(list(map(int, chunk)))
                yield asked[-1]

        steps: Any = DataLoader(_Seeded(dataset), batch_sampler=order(), num_workers=number, **given)
        return _told(lambda: map(pick, steps), lambda number: _named(asked[number]))

    return read


def _named(chunk: list[int]) -> str:
    return f"image {chunk[0]:,}" if len(chunk) == 1 else f"images {chunk[0]:,} to {chunk[-1]:,}"


def _told(begin: Callable[[], Iterator[Any]], where: Callable[[int], str]) -> Iterator[Any]:
    """The same pieces; what the user's own code raises on the way is said to be its, and of which images."""
    number = 0
    try:
        for piece in begin():
            yield piece
            number += 1
    except BNInspectError:
        raise
    except (Exception, SystemExit) as error:
        lines = str(error).strip().splitlines() or [""]
        told = lines[-1].removeprefix(f"{type(error).__name__}: ") if lines[0].startswith("Caught ") else lines[0]
        text = printable(told, 200)  # of a worker's traceback the last line
        raise SourceError(f"the data raised {type(error).__name__} at {where(number)}: {text}") from error


class _Seeded(Dataset[Any]):
    """A data set whose random numbers depend on the chunk that is read, and not on what was read before."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitems__(self, indices: list[int]) -> Any:
        torch.manual_seed(indices[0])
        random.seed(indices[0])
        np.random.seed(indices[0] % (1 << 32))
        if hasattr(self.dataset, "__getitems__"):
            return self.dataset.__getitems__(indices)
        return [self.dataset[index] for index in indices]
