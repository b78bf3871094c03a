"""The work of one process: its share of the chunks, fed to the model one by one, and the part that it writes."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, Any

import msgspec
import torch

from bninspect import codec
from bninspect.errors import BNInspectError, InputError
from bninspect.inspection.population.data import STREAM, Indexed, Stream
from bninspect.inspection.population.part import Header, Part, Settings, place_for, places, refuse_others, save
from bninspect.inspection.population.ranges import Range, missing, share, without
from bninspect.inspection.population.tree import Tree, leaf
from bninspect.observe.process import tool_of, undisturbed
from bninspect.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import nn

    from bninspect.inspection.stats.run import Run


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a process is in its own share: images done, since when in seconds, and of how many (where known)."""

    images: int
    total: int | None
    resumed: int
    seconds: float
    written: bool


class Work:
    """What one process does and has done."""

    def __init__(self, run: Run, data: Indexed | Stream, folder: Path, rank: int, world_size: int) -> None:
        if world_size < 1 or not 0 <= rank < world_size:
            raise InputError(f"there is no process {rank} of {world_size}: ranks count from 0")
        self.run, self.data, self.folder = run, data, folder
        self.rank, self.world_size = rank, world_size
        self.notes: tuple[str, ...] = ()
        self.tree = Tree()
        self.left: list[Range] = []

    def begin(self, model: nn.Module, *, layer: str | None, sample: int | None, seed: int) -> None:
        """Find out what is there already, and what is left to do for this process.

        Raises:
            InputError: what is there is of another run.
            BNInspectError: the folder cannot be made.
        """
        self._make_folder()
        known = places(self.folder)
        self.place = place_for(self.folder, known, self.rank, self.world_size)
        parts = {place.path: Part(place.path) for place in known}
        settings = self._settings(model, layer=layer, sample=sample, seed=seed)
        refuse_others(list(parts.values()), settings, "this run")
        own = parts.get(self.place.path)
        older = [parts[place.path] for place in known if place.generation < self.place.generation]
        self.header = own.header if own else self._fresh(settings)
        for level, index, node in own.nodes() if own else ():
            self.tree.add(level, index, node)
        self.left = self._left(older)
        self.resumed = self.tree.total()[0] if own else 0

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            shown = printable(str(self.folder))
            raise BNInspectError(f"the folder {shown} cannot be made: {error.strerror or error}") from error

    def _settings(self, model: nn.Module, *, layer: str | None, sample: int | None, seed: int) -> Settings:
        tool = tool_of(self.run.place, None, self.run.mode)
        with undisturbed(self.run.place):
            digest = self.data.digest()
        return Settings(
            model=self.run.name,
            model_sha256=digest_of(model),
            data=self.run.source.batch or "",
            data_sha256=digest,
            num_images=self.data.num_images,
            sample=sample,
            whole=self.data.whole,
            seed=seed,
            batch_size=self.data.batch_size,
            mode=self.run.mode,
            layer=layer,
            extremes=self.run.extremes,
            device=self.run.place.type,
            threads=torch.get_num_threads(),
            tf32=tool.tf32,
            torch=str(torch.__version__),
            bninspect=tool.bninspect,
        )

    def _fresh(self, settings: Settings) -> Header:
        return Header(settings=settings, rank=self.rank, world_size=self.world_size, chunks=self.data.chunks)

    def _left(self, older: list[Part]) -> list[Range]:
        done = self.tree.spans()
        if self.data.chunks is not None:
            before = [span for part in older for span in part.header.spans()]
            return without(share(missing(self.data.chunks, before), self.rank, self.world_size), done)
        if older:
            raise InputError(
                f"{printable(str(self.folder))} holds parts of a stream that {older[0].header.world_size} processes "
                f"read, and it cannot be shared anew among {self.world_size}: give another folder, or as many processes"
            )
        first = self.rank << STREAM
        return [] if self.header.finished else [(max([first, *(end for _, end in done)]), first + (1 << STREAM))]

    def go_on(self, every: float, on_chunk: Callable[[Progress], None] | None) -> None:
        """Measure what is left; write every so many seconds, at the end, and when something goes wrong on the way."""
        self._write()  # that it cannot be written is better known at once
        self.images, self.begun = self.resumed, time.monotonic()
        written = self.begun
        try:
            pieces = self.data.pieces(self.left) if self.left else iter(())
            self._go_by(pieces)
            for chunk in (number for begin, end in self.left for number in range(begin, end)):
                if not self._measure(chunk, pieces):
                    break
                due = time.monotonic() - written >= every
                if due:
                    self._write()
                    written = time.monotonic()
                if on_chunk:
                    on_chunk(self._progress(written=due))
        except BaseException:
            self._write()
            raise
        if not self.tree.nodes and self.world_size == 1:
            raise InputError("the data are empty: they gave no piece")
        self.header = msgspec.structs.replace(self.header, finished=True)
        self._write()
        if on_chunk:
            on_chunk(self._progress(written=True))

    def _read(self, chunk: int, pieces: Any) -> Any:
        with undisturbed(self.run.place, seed=_seed(chunk)):
            return next(pieces, None)

    def _go_by(self, pieces: Any) -> None:
        """Read what was measured of a stream before, each piece with the seed that it had, and leave it out.

        Raises:
            InputError: the last of them is another than it was.
        """
        if not isinstance(self.data, Stream) or not self.left:
            return
        piece = None
        for chunk in range(self.data.first, self.left[0][0]):
            piece = self._read(chunk, pieces)
        if self.left[0][0] > self.data.first and (piece is None or self.data.mark(piece) != self.header.last):
            raise InputError(
                f"the stream gives other pieces than when {printable(self.place.path.name)} was written, and cannot "
                "be gone on with: delete that part, or give a stream that comes in the same order each time"
            )

    def _measure(self, chunk: int, pieces: Any) -> bool:
        """Feed one chunk; random numbers depend on it alone. False where a stream has come to its end."""
        before = self.run.images
        piece = self._read(chunk, pieces)
        if piece is None:
            return False
        with undisturbed(self.run.place, seed=_seed(chunk)):  # data that were read here have drawn for themselves
            self.run.feed(piece if isinstance(piece, tuple) else (piece,))
        images = self.run.images - before
        self.header = msgspec.structs.replace(self.header, last=self.data.mark(piece))
        self.tree.add(0, chunk, leaf(images, self.run.take()))
        self.images += images
        if self.header.frame is None:
            self.header = msgspec.structs.replace(self.header, frame=codec.encode(self._frame()))
        return True

    def _frame(self) -> Any:
        """The header of the report; which of several devices it was is left out."""
        frame = self.run.frame()
        tool = msgspec.structs.replace(frame.tool, device=self.run.place.type)
        return msgspec.structs.replace(frame, tool=tool, notes=(*self.data.notes, *frame.notes, *self.notes))

    def _progress(self, *, written: bool) -> Progress:
        size, total = self.data.batch_size, None
        if self.data.num_images is not None:
            ends = (min(end * size, self.data.num_images) - begin * size for begin, end in self.left)
            total = self.resumed + sum(ends)
        return Progress(
            images=self.images,
            total=total,
            resumed=self.resumed,
            seconds=time.monotonic() - self.begun,
            written=written,
        )

    def _write(self) -> None:
        run = self.run
        dtypes = {**run.dtypes, **self.header.dtypes}
        layers = tuple(run.layers.values())
        self.header = msgspec.structs.replace(self.header, layers=layers, dtypes=dtypes)
        save(self.place.path, self.header, self.tree)


def _seed(chunk: int) -> int:
    """32 bits that differ from chunk to chunk, of streams of several ranks as well."""
    return (chunk + (chunk >> STREAM) * 2654435761) % (1 << 32)


def digest_of(model: nn.Module) -> str:
    """A SHA-256 of a model's modules and of all their values."""
    found = hashlib.sha256(repr(model).encode("utf-8", "backslashreplace"))
    for name, value in model.state_dict().items():
        found.update(f"{name} {getattr(value, 'dtype', '')} {tuple(getattr(value, 'shape', ()))}".encode())
        if isinstance(value, torch.Tensor) and value.numel() and value.layout == torch.strided and not value.is_meta:
            found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
