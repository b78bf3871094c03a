"""From places to numbers: the records of the wanted tensors are read in file order, checked, and cut into vectors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from bninspect.models._files import limits
from bninspect.models._files.archive import checked
from bninspect.models._files.dtypes import SIZES, decoded, stored
from bninspect.models._files.nodes import Refused

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from bninspect.models._files.archive import Record
    from bninspect.models._files.nodes import Storage, Tensor
    from bninspect.models._files.opened import Opened
    from bninspect.report import Vector

_AHEAD = 1 << 16


class Container(Protocol):
    """A file that holds storages."""

    file: Opened
    big_endian: bool

    def position(self, storage: Storage) -> int:
        """Where the storage's record begins: what to sort by."""

    def record(self, storage: Storage) -> Record:
        """Where the storage's bytes lie."""


class Wanted:
    """A vector to be read; ``vector`` is its value afterwards."""

    __slots__ = ("container", "tensor", "vector")

    def __init__(self, container: Container, tensor: Tensor) -> None:
        self.container = container
        self.tensor = tensor
        self.vector: Vector | None = None


def fill(wanted: Iterable[Wanted], elements: int = limits.ELEMENTS) -> bool:
    """Read every wanted vector; whether every byte was held against a checksum where the file has one.

    Args:
        wanted: what to read; tensors of several dimensions are read as well, with their whole record.
        elements: the most that all of them together may hold.

    Raises:
        Refused: a record is missing, damaged, or not as long as the file says.
    """
    order = sorted(wanted, key=_position)
    _refuse_excess(order, elements)
    complete = True
    budget = limits.CHECKED_BYTES
    for group in _by_storage(order):
        record = _record(group[0])
        for one in group:
            _refuse_outside(one.tensor, record)
        if record.size <= limits.WHOLE_RECORD or any(len(one.tensor.shape) > 1 for one in group):
            _cut_all(group, record)
        else:
            fits = record.size <= budget
            budget -= record.size if fits else 0
            complete &= fits
            _cut_parts(group, record, check=fits)
    return complete


def _position(one: Wanted) -> int:
    return one.container.position(one.tensor.storage)


def _by_storage(order: list[Wanted]) -> Iterator[list[Wanted]]:
    """Neighbours that lie in one record."""
    group: list[Wanted] = []
    for one in order:
        if group and (one.tensor.storage is not group[0].tensor.storage or one.container is not group[0].container):
            yield group
            group = []
        group.append(one)
    if group:
        yield group


def _refuse_excess(order: list[Wanted], elements: int) -> None:
    shown = sum(_length(one.tensor) for one in order)
    held = sum(group[0].tensor.storage.count for group in _by_storage(order))
    if shown > 4 * held + limits.FREE_ELEMENTS or shown > elements:
        raise Refused("its tensors show far more values than it stores")


def _length(tensor: Tensor) -> int:
    return math.prod(tensor.shape)


def _record(one: Wanted) -> Record:
    storage = one.tensor.storage
    record = one.container.record(storage)
    size = 1 if storage.dtype == "untyped" else SIZES.get(storage.dtype, 0)
    if record.size != storage.count * size:
        raise Refused("a record is not as long as the file says elsewhere")
    return record


def _refuse_outside(tensor: Tensor, record: Record) -> None:
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    last = tensor.offset + reach if _length(tensor) else -1
    if (last + 1) * SIZES[tensor.dtype] > record.size:
        raise Refused("a tensor reaches beyond its storage")


def _cut_all(group: list[Wanted], record: Record) -> None:
    file = group[0].container.file
    raw = checked(file.read(record.start, record.size, ahead=_AHEAD), record)
    for one in group:
        one.vector = decoded(_window(raw, one.tensor, big_endian=one.container.big_endian), one.tensor.dtype)


def _cut_parts(group: list[Wanted], record: Record, *, check: bool) -> None:
    file = group[0].container.file
    if check and record.crc is not None:
        _refuse_damage(file, record)
    for one in group:
        one.vector = decoded(_in_parts(file, record, one), one.tensor.dtype)


def _refuse_damage(file: Opened, record: Record) -> None:
    import zlib

    crc, end = 0, record.start + record.size
    for start in range(record.start, end, limits.CHUNK):
        crc = zlib.crc32(file.read(start, min(limits.CHUNK, end - start)), crc)
    if crc != record.crc:
        raise Refused("a record does not match its checksum: the file is damaged")


def _in_parts(file: Opened, record: Record, one: Wanted) -> npt.NDArray[np.generic]:
    """A vector out of a record that is too long to be held: as few rows at a time as fit."""
    tensor, size = one.tensor, SIZES[one.tensor.dtype]
    length, stride = _length(tensor), tensor.strides[0] if tensor.strides else 1
    step = max(1, limits.CHUNK // (max(1, stride) * size))
    if length // step > limits.READS:
        raise Refused("a tensor is scattered over more places than any honest one")
    out = np.empty(length, stored(tensor.dtype, one.container.big_endian))
    for first in range(0, length, step):
        count = min(step, length - first)
        span = ((count - 1) * stride + 1) * size
        raw = file.read(record.start + (tensor.offset + first * stride) * size, span)
        out[first : first + count] = np.frombuffer(raw, out.dtype)[:: max(1, stride)]
    return out


def _window(raw: bytes, tensor: Tensor, *, big_endian: bool) -> npt.NDArray[np.generic]:
    flat = np.frombuffer(raw, stored(tensor.dtype, big_endian), len(raw) // SIZES[tensor.dtype])
    length, offset = _length(tensor), tensor.offset
    if len(tensor.shape) > 1:
        if not length:
            return np.empty(tensor.shape, flat.dtype)
        steps = zip(tensor.shape, tensor.strides, strict=True)
        strides = [stride * flat.itemsize if size > 1 else 0 for size, stride in steps]
        return np.lib.stride_tricks.as_strided(flat[offset:], tensor.shape, strides, writeable=False)
    stride = tensor.strides[0] if tensor.strides else 1
    if stride == 0:
        return np.repeat(flat[offset : offset + 1], length)
    return flat[offset : offset + (length - 1) * stride + 1 if length else offset : stride]
