"""A part: what one process has measured so far, in one file that is old or new, never half.

The format is safetensors: the nodes of the tree and the layers' stored values, and in the metadata a header as JSON.
What was measured and that it was measured are the same bytes, so that nothing is counted twice or not at all.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

import msgspec

from bninspect import writing
from bninspect.errors import InputError, SourceError
from bninspect.inspection.population.tree import Node, Packed, Tree, refuse_misfits
from bninspect.inspection.stats.figures import STATE
from bninspect.layers import BatchNormLayer  # noqa: TC001  # msgspec reads the types of a struct
from bninspect.report import Struct
from bninspect.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bninspect.report import StatsReport

_MARK = "bninspect.part"
_LEVELS = 63
_CHUNKS = 1 << 62  # of all streams
_PROCESSES = 1 << 22  # whose streams have numbers of their own below that
_NAME = re.compile(r"part-g(\d+)-(\d+)-of-(\d+)\.safetensors", re.ASCII)


class Settings(Struct, frozen=True, kw_only=True):
    """All that figures depend on, and that parts must have in common to be merged."""

    model: str
    model_sha256: str
    data: str
    data_sha256: str
    num_images: int | None
    sample: int | None
    whole: int | None
    seed: int
    batch_size: int
    mode: str
    layer: str | None
    extremes: bool
    device: str
    threads: int
    tf32: bool | None
    torch: str
    bninspect: str


class Header(Struct, frozen=True, kw_only=True):
    """What a part says of itself.

    Attributes:
        chunks: in the whole data set; ``None`` in a stream, whose end is not known before it is ``finished``.
        frame: a report without its layers, as JSON; ``None`` before the first chunk.
        orders: the layers in the order of their calls, for each such order that was seen.
        last: what the last piece of a stream is known by.
        nodes: level, index, images and number of the order of each set of vectors in the file.
    """

    settings: Settings
    rank: int
    world_size: int
    chunks: int | None
    finished: bool = False
    last: str | None = None
    frame: str | None = None
    layers: tuple[BatchNormLayer, ...] = ()
    dtypes: dict[str, str] = msgspec.field(default_factory=dict)
    orders: tuple[tuple[str, ...], ...] = ()
    nodes: tuple[tuple[int, int, int, tuple[int, ...]], ...] = ()

    def spans(self) -> list[tuple[int, int]]:
        """The chunks that are in the part."""
        return sorted((index << level, (index + 1) << level) for level, index, _, _ in self.nodes)


class Place(msgspec.Struct, frozen=True):
    """Where a part lies: generations tell runs with different numbers of processes apart."""

    path: Path
    generation: int
    rank: int
    world_size: int


def places(folder: Path) -> list[Place]:
    """The parts in a folder, the oldest generation first."""
    if folder.exists() and not folder.is_dir():
        raise SourceError(f"{printable(str(folder))} is no folder: parts lie in one")
    found = [(path, _NAME.fullmatch(path.name)) for path in (folder.iterdir() if folder.is_dir() else ())]
    numbered = [Place(path, *map(int, match.groups())) for path, match in found if match]
    return sorted(numbered, key=lambda place: (place.generation, place.world_size, place.rank))


def place_for(folder: Path, known: list[Place], rank: int, world_size: int) -> Place:
    """Where this process writes: with those of the last run if it had as many processes, else in a new generation."""
    last = known[-1] if known else None
    generation = 0 if last is None else last.generation + (last.world_size != world_size)
    name = f"part-g{generation}-{rank:05d}-of-{world_size:05d}.safetensors"
    return Place(folder / name, generation, rank, world_size)


def save(path: Path, header: Header, tree: Tree) -> None:
    """Write a part, whole or not at all; ``header`` still lacks what the tree says."""
    from safetensors.numpy import save as serialised

    orders: dict[tuple[str, ...], int] = {}
    vectors: Packed = {}
    nodes = []
    for (level, index), node in sorted(tree.nodes.items()):
        numbers = tuple(orders.setdefault(paths, len(orders)) for paths in node.found)
        nodes.append((level, index, node.images, numbers))
        for number, packed in zip(numbers, node.found.values(), strict=True):
            vectors |= {f"node.{level}.{index}.{number}.{name}": vector for name, vector in packed.items()}
    for number, layer in enumerate(header.layers):
        vectors |= {f"layer.{number}.{name}": vector for name, vector in _state(layer).items()}
    plain = tuple(msgspec.structs.replace(layer, **dict.fromkeys(STATE)) for layer in header.layers)
    full = msgspec.structs.replace(header, layers=plain, orders=tuple(orders), nodes=tuple(nodes))
    writing.write(path, serialised(vectors, {_MARK: msgspec.json.encode(full).decode()}))


def _state(layer: BatchNormLayer) -> Packed:
    import numpy as np

    known = {name: getattr(layer, name) for name in STATE}
    return {name: np.ascontiguousarray(vector) for name, vector in known.items() if vector is not None}


class Part:
    """A part that is read: its header at once, its layers and vectors when they are asked for.

    Of thousands of parts the layers of each would be most of the memory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _understood(path) as file:
            header = self._header(file)
            _refuse_unsound(header)
        self._channels = {sys.intern(layer.path): layer.num_features for layer in header.layers}
        orders = tuple(tuple(map(sys.intern, order)) for order in header.orders)
        self.header = msgspec.structs.replace(header, layers=(), orders=orders)

    def _header(self, file: Any) -> Header:
        text: str | None = (file.metadata() or {}).get(_MARK)
        if text is None:
            raise SourceError(f"{printable(str(self.path))} is no part of bninspect: move it elsewhere")
        return msgspec.json.decode(text, type=Header)

    def nodes(self) -> Iterator[tuple[int, int, Node]]:
        """Level, index and content of each node."""
        with _understood(self.path) as file:
            names = _grouped(file.keys())
            for level, index, images, numbers in self.header.nodes:
                found = {}
                for number in numbers:
                    paths, node = self.header.orders[number], f"node.{level}.{index}.{number}"
                    found[paths] = {name: file.get_tensor(f"{node}.{name}") for name in names[node]}
                    refuse_misfits(found[paths], sum(self._channels[path] for path in paths))
                yield level, index, Node(images, found)

    def layers(self) -> dict[str, BatchNormLayer]:
        """The layers with their stored values."""
        with _understood(self.path) as file:
            names = _grouped(file.keys())
            layers = {}
            for number, layer in enumerate(self._header(file).layers):
                group = names.get(f"layer.{number}", ())
                vectors = {name: file.get_tensor(f"layer.{number}.{name}") for name in group}
                fits = (layer.num_features,)
                if any(name not in STATE or vector.shape != fits for name, vector in vectors.items()):
                    raise ValueError(f"its layer {number} holds what is no value of a layer")
                layers[layer.path] = msgspec.structs.replace(layer, **vectors)
            return layers

    def frame(self) -> StatsReport:
        """The report without its layers."""
        from bninspect import codec

        assert self.header.frame is not None
        return codec.decode(self.header.frame.encode(), str(self.path))  # type: ignore[return-value]


def _refuse_unsound(header: Header) -> None:
    """A header that no run writes would ask for memory without end."""
    if not 0 <= header.rank < header.world_size <= _PROCESSES:
        raise ValueError(f"it is of process {header.rank} of {header.world_size}")
    for level, index, images, numbers in header.nodes:
        if not (0 <= level < _LEVELS and 0 <= index < _CHUNKS >> level and 0 <= images < _CHUNKS):
            raise ValueError(f"it names a node {level}, {index} of {images} images")
        if len(set(numbers)) < len(numbers) or not all(0 <= number < len(header.orders) for number in numbers):
            raise ValueError(f"node {level}, {index} names an order of layers twice, or one that is not there")
    paths = {layer.path for layer in header.layers}
    if len(paths) < len(header.layers) or any(path not in paths for order in header.orders for path in order):
        raise ValueError("it names a layer twice, or one that is not there")
    if header.nodes and header.frame is None:
        raise ValueError("it holds figures, and not of what")
    _refuse_unsound_size(header)


def _refuse_unsound_size(header: Header) -> None:
    settings, chunks = header.settings, header.chunks
    if chunks is None:
        if settings.num_images is not None:
            raise ValueError("it is of a stream, whose number of images is not known")
        return
    total, size = settings.num_images, settings.batch_size
    if total is None or size < 1 or not 0 < total < _CHUNKS or chunks != -(-total // size):
        raise ValueError(f"it is of {chunks} chunks for {total} images, {size} each")
    if settings.sample is not None and (settings.whole is None or settings.sample > settings.whole):
        raise ValueError(f"it is a sample of {settings.sample} of {settings.whole} images")
    if any(end > chunks for _, end in header.spans()):
        raise ValueError(f"it holds more than its {chunks} chunks")


def _grouped(keys: Any) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for key in keys:
        parts = key.split(".")
        depth = 4 if parts[0] == "node" else 2
        groups.setdefault(".".join(parts[:depth]), []).append(".".join(parts[depth:]))
    return groups


class _understood:  # noqa: N801  # used as a function that opens a file
    """An open part; whatever is wrong with it is said of the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Any:
        from safetensors import SafetensorError, safe_open

        try:
            self._file: Any = safe_open(self.path, framework="np")
            return self._file.__enter__()  # type: ignore[no-untyped-call]
        except (SafetensorError, OSError) as error:
            raise self._damaged(error) from error

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        from safetensors import SafetensorError

        self._file.__exit__(kind, error, trace)
        if isinstance(error, (SafetensorError, msgspec.MsgspecError, KeyError, ValueError, OverflowError)):
            raise self._damaged(error) from error

    def _damaged(self, error: BaseException) -> SourceError:
        return SourceError(
            f"the part {printable(str(self.path))} cannot be read ({printable(str(error), 100)}): delete it, and start "
            "the same command again to have its share measured anew"
        )


def refuse_others(parts: list[Part], wanted: Settings, shown: str) -> None:
    """Refuse parts of another model, other data or other settings.

    Args:
        parts: those that are there.
        wanted: what they are held against.
        shown: whose settings these are, for the error.

    Raises:
        InputError: one differs; it is named, and in what.
    """
    words = {"model_sha256": "the values of the model", "data_sha256": "the images", "whole": "the size of the data"}
    for part in parts:
        for name in Settings.__struct_fields__:
            theirs, ours = getattr(part.header.settings, name), getattr(wanted, name)
            if theirs != ours:
                values = "differ" if name.endswith("sha256") else f"is {theirs!r}, and {ours!r} in {shown}"
                raise InputError(
                    f"{printable(str(part.path))} is of another run: {words.get(name, name)} {printable(values, 300)}. "
                    "Give another folder, or the same settings"
                )
