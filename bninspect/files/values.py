"""From places to numbers: the records of the wanted tensors are read in file order, checked, and cut into vectors.

Short records are read many at a time, and short vectors cut out in one step: a file may have half a million.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from bninspect.files import limits
from bninspect.files.archive import DAMAGED, Records, refuse_damage, whole, windows
from bninspect.files.dtypes import SIZES, decoded, stored, width
from bninspect.files.refused import Refused
from bninspect.files.strided import ADJACENT, in_parts, length_of, window
from bninspect.files.tensors import Storage, Tensor, contiguous, reach

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bninspect.files.archive import Numbers, Record
    from bninspect.files.opened import Opened
    from bninspect.report import Vector

_AHEAD = 1 << 18
_PIECE = 1 << 14
_FAR = 1 << 50  # bytes: beyond any file, and far from what 64 bits hold
_DTYPES = tuple(SIZES)
_KINDS = {name: kind for kind, name in enumerate(_DTYPES)}
_WIDTHS = np.array(tuple(SIZES.values()))


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
            afterwards: a tensor is let go of once its place is known.
        elements: the most that all of them together may hold.

    Raises:
        Refused: a record is missing, damaged, or not as long as the file says.
    """
    order = np.argsort(container.positions([one.storage for one in tensors]), kind="stable")
    tensors[:] = [tensors[index] for index in order.tolist()]
    first = _first_rows(tensors)
    storages = [tensors[row].storage for row in first.tolist()]
    _refuse_excess(tensors, storages, elements)
    records = container.records(storages)
    if records.size.tolist() != [storage.count * width(storage.dtype) for storage in storages]:
        raise Refused("a record is not as long as the file says elsewhere")
    values = _Values(container, order, _Rows(tensors, first, records))
    tensors.clear()
    return values.read(), values.complete


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


def _first_rows(tensors: Sequence[Tensor]) -> Numbers:
    """Where a tensor is of another storage than the one before it."""
    storages = np.fromiter((id(one.storage) for one in tensors), np.uint64, len(tensors))
    return np.flatnonzero(np.append(np.ones(1, np.bool_), storages[1:] != storages[:-1])[: len(tensors)])


def _refuse_excess(tensors: Sequence[Tensor], storages: Sequence[Storage], elements: int) -> None:
    shown = sum(map(length_of, tensors))
    if shown > 4 * sum(storage.count for storage in storages) + limits.FREE_ELEMENTS or shown > elements:
        raise Refused("its tensors show far more values than it stores")


class _Rows:
    """Tensors in file order, in columns: which record each is in, where in it, how long and of what type.

    Attributes:
        first: the first row of each record, and behind them the number of rows.
        begin: where it begins in its record, in bytes.
        size: how many bytes it has, if they are adjacent.
        odd: what is cut out by itself, by row: long, strided, or of several dimensions.
    """

    def __init__(self, tensors: Sequence[Tensor], first: Numbers, records: Records) -> None:
        many = len(tensors)
        self.records = records
        self.first = np.append(first, many)
        self.kind = np.fromiter((_KINDS[one.dtype] for one in tensors), np.int64, many)
        self.length = np.fromiter(map(length_of, tensors), np.int64, many)
        self.size = self.length * _WIDTHS[self.kind]
        adjacent = np.fromiter((one.strides in ADJACENT for one in tensors), np.bool_, many)
        self.is_odd = ~adjacent | (self.size > _PIECE)
        self.odd = {row: tensors[row] for row in np.flatnonzero(self.is_odd).tolist()}
        offset = np.fromiter((min(one.offset, _FAR) for one in tensors), np.int64, many)
        self.begin = offset * _WIDTHS[self.kind]
        ends = self.begin + self.size
        for row in np.flatnonzero(~adjacent & (self.length > 0)).tolist():
            ends[row] = min((offset.item(row) + reach(tensors[row]) + 1) * _WIDTHS.item(self.kind.item(row)), _FAR)
        if np.any((ends > np.repeat(records.size, np.diff(self.first))) & (self.length > 0)):
            raise Refused("a tensor reaches beyond its storage")

    def of(self, run: slice) -> slice:
        """The rows of these records."""
        return slice(self.first.item(run.start), self.first.item(run.stop))


class _Pieces:
    """Short vectors of one type, end to end."""

    def __init__(self) -> None:
        self.rows: list[Numbers] = []
        self.raw = bytearray()


class _Values:
    """Values of tensors, record by record; short vectors of one type are kept as bytes and decoded together."""

    def __init__(self, container: Container, order: Numbers, rows: _Rows) -> None:
        self.file = container.file
        self.big_endian = container.big_endian
        self.order = order
        self.rows = rows
        self.complete = True
        self._values: list[Any] = [None] * len(order)
        self._pieces: dict[int, _Pieces] = {}
        self._budget = limits.CHECKED_BYTES

    def read(self) -> list[Vector]:
        """All of them, in the order asked for."""
        records = self.rows.records
        alone = (records.packed >= 0) | (records.size > _PIECE)
        for run in windows(records.start, alone):
            if alone[run.start]:
                self._take(records[run.start], self.rows.of(run))
            else:
                self._take_together(run)
        self._decode()
        return self._values

    def _take_together(self, run: slice) -> None:
        """Read short records that are near to each other."""
        records, rows = self.rows.records, self.rows.of(run)
        base, size = records.start.item(run.start), records.size[run]
        begin = records.start[run] - base
        raw = self.file.read(base, int((begin + size).max()))
        if records.crc.item(run.start) >= 0:
            pieces = zip(begin.tolist(), (begin + size).tolist(), records.crc[run].tolist(), strict=True)
            if any(zlib.crc32(raw[start:end]) != crc for start, end, crc in pieces):
                raise Refused(DAMAGED)
        many = np.diff(self.rows.first[run.start : run.stop + 1])
        self._cut(raw, rows, np.repeat(begin, many), np.repeat(begin + size, many))

    def _take(self, record: Record, rows: slice) -> None:
        """Read a record that is long, or compressed."""
        odd = [self.rows.odd[row] for row in range(rows.start, rows.stop) if row in self.rows.odd]
        if rows.stop - rows.start == 1 and odd and _is_all_of(odd[0], record):
            self._fill(record, odd[0], rows.start)
        elif record.size <= limits.WHOLE_RECORD or any(len(one.shape) > 1 for one in odd):
            raw = whole(self.file, record, _AHEAD)
            many = rows.stop - rows.start
            self._cut(raw, rows, np.zeros(many, np.int64), np.full(many, len(raw)))
        else:
            self._cut_parts(record, rows)

    def _fill(self, record: Record, tensor: Tensor, row: int) -> None:
        """Read a long tensor to where it stays."""
        flat = np.empty(length_of(tensor), stored(tensor.dtype, self.big_endian))
        buffer = flat.view(np.uint8).data
        self.file.fill(record.start, buffer)
        refuse_damage(buffer, record)
        self._values[self.order.item(row)] = decoded(flat, tensor.dtype, copy=False).reshape(tensor.shape)

    def _cut(self, raw: bytes, rows: slice, begin: Numbers, end: Numbers) -> None:
        """Cut these rows' tensors out of ``raw``, in which the record of each lies from ``begin`` to ``end``."""
        odd = self.rows.is_odd[rows]
        for place in np.flatnonzero(odd).tolist():
            tensor = self.rows.odd[rows.start + place]
            value = window(raw[begin.item(place) : end.item(place)], tensor, big_endian=self.big_endian)
            self._values[self.order.item(rows.start + place)] = decoded(value, tensor.dtype)
        for kind in np.unique(self.rows.kind[rows][~odd]).tolist():
            alike = np.flatnonzero(~odd & (self.rows.kind[rows] == kind))
            starts = (begin + self.rows.begin[rows])[alike]
            ends = starts + self.rows.size[rows][alike]
            pieces = [raw[start:stop] for start, stop in zip(starts.tolist(), ends.tolist(), strict=True)]
            self._keep(kind, rows.start + alike, b"".join(pieces))

    def _keep(self, kind: int, rows: Numbers, raw: bytes) -> None:
        pieces = self._pieces.setdefault(kind, _Pieces())
        pieces.rows.append(rows)
        pieces.raw += raw

    def _cut_parts(self, record: Record, rows: slice) -> None:
        if record.packed >= 0:
            raise Refused("a layer lies in a compressed record too long to look into")
        fits = record.size <= self._budget
        self._budget -= record.size if fits else 0
        self.complete &= fits
        if fits and record.crc >= 0:
            _refuse_damage(self.file, record)
        for row in range(rows.start, rows.stop):
            if row in self.rows.odd:
                tensor = self.rows.odd[row]
                part = in_parts(self.file, record, tensor, big_endian=self.big_endian)
                self._values[self.order.item(row)] = decoded(part, tensor.dtype)
            else:
                raw = self.file.read(record.start + self.rows.begin.item(row), self.rows.size.item(row))
                self._keep(self.rows.kind.item(row), np.array([row]), raw)

    def _decode(self) -> None:
        for kind, pieces in self._pieces.items():
            rows = np.concatenate(pieces.rows)
            flat = np.frombuffer(pieces.raw, stored(_DTYPES[kind], self.big_endian))
            together = decoded(flat, _DTYPES[kind])
            ends = np.cumsum(self.rows.length[rows])
            starts = ends - self.rows.length[rows]
            for index, start, end in zip(self.order[rows].tolist(), starts.tolist(), ends.tolist(), strict=True):
                self._values[index] = together[start:end]


def _is_all_of(tensor: Tensor, record: Record) -> bool:
    """Whether the record is nothing but this tensor, in its own order, and long."""
    size = length_of(tensor) * SIZES[tensor.dtype]
    return record.packed < 0 and size == record.size > _PIECE and tensor.strides == contiguous(tensor.shape)


def _refuse_damage(file: Opened, record: Record) -> None:
    crc, end = 0, record.start + record.size
    for start in range(record.start, end, limits.CHUNK):
        crc = zlib.crc32(file.read(start, min(limits.CHUNK, end - start)), crc)
    if crc != record.crc:
        raise Refused(DAMAGED)
