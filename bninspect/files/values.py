"""From places to numbers: the records of the wanted tensors are read in file order, checked, and cut into vectors."""

from __future__ import annotations

import math
from array import array
from itertools import groupby
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from bninspect.files import limits
from bninspect.files.archive import Records, refuse_damage, whole
from bninspect.files.dtypes import SIZES, decoded, stored, width
from bninspect.files.nodes import Refused, Storage, Tensor
from bninspect.files.rebuild import contiguous, reach

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bninspect.files.archive import Numbers, Record
    from bninspect.files.opened import Opened
    from bninspect.report import Vector

_AHEAD = 1 << 18
_PIECE = 1 << 14
_GONE = Tensor(Storage("", 0, 0), "", 0, (), ())
_ADJACENT = ((1,), ())


class Container(Protocol):
    """A file that holds storages."""

    file: Opened
    big_endian: bool

    def positions(self, storages: Sequence[Storage]) -> Numbers:
        """Where the storages' records begin: what to sort by."""

    def records(self, storages: Sequence[Storage]) -> Records:
        """Where the storages' bytes lie."""


class PlainStorages:
    """Storages that lie in a file as they are: the key of each is where it begins, counted from ``start``."""

    big_endian = False  # such files are in this order, whichever machine wrote them

    def __init__(self, file: Opened, start: int = 0) -> None:
        self.file = file
        self._start = start

    def positions(self, storages: Sequence[Storage]) -> Numbers:
        """Where the storages begin."""
        return self._start + np.array([storage.key for storage in storages], np.int64)

    def records(self, storages: Sequence[Storage]) -> Records:
        """Where the storages' bytes lie."""
        sizes = np.array([storage.count * width(storage.dtype) for storage in storages], np.int64)
        none = np.full(len(sizes), -1, np.int64)
        return Records(self.positions(storages), sizes, none, none)


def read_values(
    container: Container, tensors: list[Tensor], elements: int = limits.ELEMENTS
) -> tuple[list[Vector], bool]:
    """The values of every tensor, and whether every byte was held against a checksum where the file has one.

    Args:
        container: holds all of them.
        tensors: what to read; of one with several dimensions, the whole record is read as well. The list is empty
            afterwards: a tensor is let go of once its value is there.
        elements: the most that all of them together may hold.

    Raises:
        Refused: a record is missing, damaged, or not as long as the file says.
    """
    order = array("q", np.argsort(container.positions([one.storage for one in tensors]), kind="stable").tobytes())
    storages = [storage for storage, _ in groupby(tensors[index].storage for index in order)]
    _refuse_excess(tensors, storages, elements)
    values = _Values(container, tensors)
    groups = groupby(order, lambda index: tensors[index].storage)
    for record, (storage, group) in zip(container.records(storages), groups, strict=True):
        if record.size != storage.count * width(storage.dtype):
            raise Refused("a record is not as long as the file says elsewhere")
        values.take(record, list(group))
    tensors.clear()
    return values.all(), values.complete


def read_from(
    containers: Sequence[Container], tensors: list[Tensor], elements: int = limits.ELEMENTS
) -> tuple[list[Vector], bool]:
    """As :func:`read_values`, with a container for each tensor; each file is read through once."""
    if len(set(map(id, containers))) < 2:
        return read_values(containers[0], tensors, elements) if containers else ([], True)
    shares: dict[int, list[int]] = {}
    for index, container in enumerate(containers):
        shares.setdefault(id(container), []).append(index)
    values: list[Any] = [None] * len(tensors)
    complete = True
    for share in shares.values():
        found, checked = read_values(containers[share[0]], [tensors[index] for index in share], elements)
        complete &= checked
        for index, value in zip(share, found, strict=True):
            values[index] = value
    return values, complete


def _refuse_excess(tensors: Sequence[Tensor], storages: Sequence[Storage], elements: int) -> None:
    shown = sum(map(_length, tensors))
    if shown > 4 * sum(storage.count for storage in storages) + limits.FREE_ELEMENTS or shown > elements:
        raise Refused("its tensors show far more values than it stores")


def _length(tensor: Tensor) -> int:
    shape = tensor.shape
    return (shape[0] if shape else 1) if len(shape) < 2 else math.prod(shape)


class _Pieces:
    """Short vectors of one type, end to end."""

    def __init__(self) -> None:
        self.indices = array("q")
        self.lengths = array("q")
        self.raw = bytearray()

    def add(self, index: int, length: int, raw: bytes) -> None:
        self.indices.append(index)
        self.lengths.append(length)
        self.raw += raw


class _Values:
    """Values of tensors, record by record; short vectors of one type are kept as bytes and decoded together."""

    def __init__(self, container: Container, tensors: list[Tensor]) -> None:
        self.container = container
        self.tensors = tensors
        self.complete = True
        self._values: list[Any] = [None] * len(tensors)
        self._pieces: dict[str, _Pieces] = {}
        self._budget = limits.CHECKED_BYTES

    def take(self, record: Record, group: list[int]) -> None:
        """Read the record of these tensors."""
        for index in group:
            _refuse_outside(self.tensors[index], record)
        if len(group) == 1 and _is_all_of(self.tensors[group[0]], record):
            self._fill(record, group[0])
        elif record.size <= limits.WHOLE_RECORD or any(len(self.tensors[index].shape) > 1 for index in group):
            self._cut_whole(whole(self.container.file, record, _AHEAD), group)
        else:
            self._cut_parts(record, group)
        for index in group:
            self.tensors[index] = _GONE

    def all(self) -> list[Vector]:
        """What was taken, in the order of the tensors."""
        for dtype, pieces in self._pieces.items():
            flat = np.frombuffer(pieces.raw, stored(dtype, self.container.big_endian), sum(pieces.lengths))
            together, end = decoded(flat, dtype), 0
            for index, length in zip(pieces.indices, pieces.lengths, strict=True):
                begin, end = end, end + length
                self._values[index] = together[begin:end]
        return self._values

    def _fill(self, record: Record, index: int) -> None:
        """Read a long tensor to where it stays."""
        tensor = self.tensors[index]
        flat = np.empty(_length(tensor), stored(tensor.dtype, self.container.big_endian))
        buffer = flat.view(np.uint8).data
        self.container.file.fill(record.start, buffer)
        refuse_damage(buffer, record)
        self._values[index] = decoded(flat, tensor.dtype, copy=False).reshape(tensor.shape)

    def _cut_whole(self, raw: bytes, group: list[int]) -> None:
        for index in group:
            tensor = self.tensors[index]
            dtype, length = tensor.dtype, _length(tensor)
            size = SIZES[dtype]
            if tensor.strides in _ADJACENT and length * size <= _PIECE:
                if dtype not in self._pieces:
                    self._pieces[dtype] = _Pieces()
                begin = tensor.offset * size
                self._pieces[dtype].add(index, length, raw[begin : begin + length * size])
            else:
                self._values[index] = decoded(_window(raw, tensor, big_endian=self.container.big_endian), dtype)

    def _cut_parts(self, record: Record, group: list[int]) -> None:
        if record.packed >= 0:
            raise Refused("a layer lies in a compressed record too long to look into")
        file, fits = self.container.file, record.size <= self._budget
        self._budget -= record.size if fits else 0
        self.complete &= fits
        if fits and record.crc >= 0:
            _refuse_damage(file, record)
        for index in group:
            tensor = self.tensors[index]
            part = _in_parts(file, record, tensor, big_endian=self.container.big_endian)
            self._values[index] = decoded(part, tensor.dtype)


def _is_all_of(tensor: Tensor, record: Record) -> bool:
    """Whether the record is nothing but this tensor, in its own order, and long."""
    size = _length(tensor) * SIZES[tensor.dtype]
    return record.packed < 0 and size == record.size > _PIECE and tensor.strides == contiguous(tensor.shape)


def _refuse_outside(tensor: Tensor, record: Record) -> None:
    length = _length(tensor)
    far = length - 1 if tensor.strides in _ADJACENT else reach(tensor)
    if length and (tensor.offset + far + 1) * SIZES[tensor.dtype] > record.size:
        raise Refused("a tensor reaches beyond its storage")


def _refuse_damage(file: Opened, record: Record) -> None:
    import zlib

    crc, end = 0, record.start + record.size
    for start in range(record.start, end, limits.CHUNK):
        crc = zlib.crc32(file.read(start, min(limits.CHUNK, end - start)), crc)
    if crc != record.crc:
        raise Refused("a record does not match its checksum: the file is damaged")


def _in_parts(file: Opened, record: Record, tensor: Tensor, *, big_endian: bool) -> npt.NDArray[np.generic]:
    """A vector out of a record that is too long to be held: as few rows at a time as fit."""
    size = SIZES[tensor.dtype]
    length, stride = _length(tensor), tensor.strides[0] if tensor.strides else 1
    step = max(1, limits.CHUNK // (max(1, stride) * size))
    if length // step > limits.READS:
        raise Refused("a tensor is scattered over more places than any honest one")
    out = np.empty(length, stored(tensor.dtype, big_endian))
    for first in range(0, length, step):
        count = min(step, length - first)
        span = ((count - 1) * stride + 1) * size
        raw = file.read(record.start + (tensor.offset + first * stride) * size, span)
        out[first : first + count] = np.frombuffer(raw, out.dtype)[:: max(1, stride)]
    return out


def _nothing(tensor: Tensor, dtype: np.dtype[np.generic]) -> npt.NDArray[np.generic]:
    try:
        return np.empty(tensor.shape, dtype)
    except ValueError as error:  # of no elements, and of more along one dimension than numpy can count
        raise Refused("a tensor has a shape that no array can have") from error


def _window(raw: bytes, tensor: Tensor, *, big_endian: bool) -> npt.NDArray[np.generic]:
    flat = np.frombuffer(raw, stored(tensor.dtype, big_endian), len(raw) // SIZES[tensor.dtype])
    length, offset = _length(tensor), tensor.offset
    if len(tensor.shape) > 1:
        if not length:
            return _nothing(tensor, flat.dtype)
        steps = zip(tensor.shape, tensor.strides, strict=True)
        strides = [stride * flat.itemsize if size > 1 else 0 for size, stride in steps]
        return np.lib.stride_tricks.as_strided(flat[offset:], tensor.shape, strides, writeable=False)
    stride = tensor.strides[0] if tensor.strides else 1
    if stride == 0:
        return np.repeat(flat[offset : offset + 1], length)
    return flat[offset : offset + (length - 1) * stride + 1 if length else offset : stride]
