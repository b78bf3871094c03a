"""A zip archive as torch writes it: the directory is read once, records are read by place and checked.

Names are unique, no two records lie on the same bytes, and what a record's own header says must be what the directory
says. The directory is held in columns: a checkpoint may have a million records, most of them named by a number.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bninspect.files import limits
from bninspect.files.refused import Refused
from bninspect.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bninspect.files.opened import Opened

    Numbers = npt.NDArray[np.int64]

_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_END64_AT = struct.Struct("<4sIQI")
_ENTRY = np.dtype([
    ("magic", "<u4"), ("versions", "<u4"), ("flags", "<u2"), ("method", "<u2"), ("time", "<u4"), ("crc", "<u4"),
    ("packed", "<u4"), ("size", "<u4"), ("name", "<u2"), ("extra", "<u2"), ("comment", "<u2"), ("disk", "<u2"),
    ("internal", "<u2"), ("external", "<u4"), ("offset", "<u4"),
])  # fmt: skip
_LENGTHS = struct.Struct("<3H").unpack_from
_LENGTHS_AT = 28
_LOCAL = np.dtype([
    ("magic", "<u4"), ("version", "<u2"), ("flags", "<u2"), ("method", "<u2"), ("time", "<u4"), ("crc", "<u4"),
    ("packed", "<u4"), ("size", "<u4"), ("name", "<u2"), ("extra", "<u2"),
])  # fmt: skip
_LOCAL_MAGIC = 0x04034B50
_ENTRY_MAGIC = 0x02014B50
_NO32 = 0xFFFFFFFF
_NO16 = 0xFFFF
_MOST = 1 << 62
_DIGITS = 9
_WINDOW = 1 << 18
_STORED = 0
_DEFLATED = 8
DAMAGED = "a record does not match its checksum: the file is damaged"
_DISAGREEMENT = "its zip directory and its records do not say the same"


class Record(NamedTuple):
    """Where a run of bytes lies in the file; ``crc`` is -1 where none was stored.

    ``packed`` is -1, or of a deflated record its length in the file; ``size`` is what it inflates to.
    """

    start: int
    size: int
    crc: int
    packed: int


class Records:
    """The same of many records: a vector for each of :class:`Record`'s fields."""

    def __init__(self, start: Numbers, size: Numbers, crc: Numbers, packed: Numbers) -> None:
        self.start = start
        self.size = size
        self.crc = crc
        self.packed = packed

    def __getitem__(self, index: int) -> Record:
        return Record(self.start.item(index), self.size.item(index), self.crc.item(index), self.packed.item(index))


class Archive:
    """The directory of a zip file; ``names`` are those of all records but the numbered ones below ``folder``.

    ``offsets`` and ``entries`` say where each record and its entry in the directory begin in the file.
    """

    def __init__(self, file: Opened) -> None:
        self.file = file
        start, size, count = _directory(file)
        if count > limits.ENTRIES or size > limits.DIRECTORY_BYTES:
            raise Refused(f"its zip directory has more than {limits.ENTRIES:,} entries, or absurdly long ones")
        raw = file.read(start, size)
        at = _positions(raw, count)
        self.entries = start + at
        source = np.frombuffer(raw, np.uint8)
        entries = fields(source, at, _ENTRY)
        if np.any(entries["magic"] != _ENTRY_MAGIC):
            raise Refused("its zip directory is damaged")
        self._sizes, self._packed, self.offsets = _places(raw, at, entries)
        self._ends = _ends(self.offsets, self._packed, start)
        self._crcs = entries["crc"].copy()
        self._lengths = entries["name"].copy()
        self._methods = np.where(entries["flags"] & 1, _NO16, entries["method"]).astype(np.uint16)
        self.without_checksums = count > 0 and not self._crcs.any()
        self._name(raw, at)

    def index(self, name: bytes) -> int:
        """The record's place in the directory."""
        found = self.names.get(name, -1)
        digits = name[len(self.folder) :]
        if found < 0 and name.startswith(self.folder) and _is_number(digits):
            found = self.numbered(np.array([int(digits)])).item()
        if found < 0:
            raise Refused(f"its record {printable(name.decode('utf-8', 'replace'))} is missing")
        return found

    def numbered(self, numbers: Numbers) -> Numbers:
        """The places in the directory of the records of these numbers in ``folder``; -1 where there is none."""
        known = numbers < len(self._by_number)
        found = np.full(len(numbers), -1, np.int64)
        found[known] = self._by_number[numbers[known]]
        return found

    def records(self, indices: Numbers) -> Records:
        """Where the bytes of these records lie; their local headers must say the same as the directory."""
        methods, packed, sizes = self._methods[indices], self._packed[indices], self._sizes[indices]
        deflated = methods == _DEFLATED
        if not np.all(deflated | (methods == _STORED)):
            raise Refused("a record is encrypted, or compressed in a way that no checkpoint is")
        starts = np.empty(len(indices), np.int64)
        offsets = self.offsets[indices]
        order = np.argsort(offsets)
        for window in windows(offsets[order]):
            chosen = order[window]
            starts[chosen] = offsets[chosen] + self._headers(indices[chosen])
        if np.any(~deflated & (sizes != packed)):
            raise Refused(_DISAGREEMENT)
        if np.any(starts + packed > self._ends[indices]):
            raise Refused("two of its zip records lie on the same bytes")
        crcs = np.full(len(indices), -1) if self.without_checksums else self._crcs[indices].astype(np.int64)
        return Records(starts, sizes, crcs, np.where(deflated, packed, -1))

    def read(self, name: bytes, longest: int) -> bytes:
        """The bytes of ``name``, checked."""
        record = self.records(np.array([self.index(name)]))[0]
        if record.size > longest:
            raise Refused(f"its record {printable(name.decode('utf-8', 'replace'))} is larger than any honest one")
        return whole(self.file, record)

    def _headers(self, indices: Numbers) -> Numbers:
        """The lengths of the headers of neighbours, which are read at once."""
        offsets, lengths = self.offsets[indices], self._lengths[indices].astype(np.int64)
        begin = offsets.item(0)
        raw = self.file.read(begin, int((offsets + lengths).max()) + _LOCAL.itemsize - begin)
        source, at = np.frombuffer(raw, np.uint8), offsets - begin
        heads = fields(source, at, _LOCAL)
        numbers = _numbers(source, at + _LOCAL.itemsize, lengths, self.folder, len(self._by_number))
        same = (heads["magic"] == _LOCAL_MAGIC) & (heads["method"] == self._methods[indices])
        same &= (heads["name"] == lengths) & (numbers == self._numbers[indices])
        for place in np.flatnonzero(numbers < 0).tolist():
            name_at = at.item(place) + _LOCAL.itemsize
            same[place] &= self.names.get(raw[name_at : name_at + lengths.item(place)]) == indices.item(place)
        if not same.all():
            raise Refused(_DISAGREEMENT)
        return _LOCAL.itemsize + lengths + heads["extra"].astype(np.int64)

    def _name(self, raw: bytes, at: Numbers) -> None:
        """Tell numbered records from the others, and refuse names that are there twice, in capitals or not."""
        lengths, at = self._lengths.astype(np.int64), at + _ENTRY.itemsize
        first = raw[_ENTRY.itemsize : _ENTRY.itemsize + lengths.item(0)] if len(at) else b""
        self.folder = first.partition(b"/")[0] + b"/data/"
        most = 8 * len(at) + limits.CHUNK
        self._numbers = _numbers(np.frombuffer(raw, np.uint8), at, lengths, self.folder, most).astype(np.int32)
        known = np.flatnonzero(self._numbers >= 0)
        self._by_number = np.full(self._numbers.max(initial=-1) + 1, -1, np.int32)
        self._by_number[self._numbers[known]] = known
        self.names = {
            raw[at.item(index) : at.item(index) + lengths.item(index)]: index
            for index in np.flatnonzero(self._numbers < 0).tolist()
        }
        folded = {name.lower() for name in self.names}
        clash = any(map(self._is_numbered_alike, folded))
        if clash or len(folded) + np.count_nonzero(self._by_number >= 0) != len(at):
            raise Refused("its zip directory has one name twice")

    def _is_numbered_alike(self, name: bytes) -> bool:
        folder, digits = self.folder.lower(), name[len(self.folder) :]
        return name.startswith(folder) and _is_number(digits) and self.numbered(np.array([int(digits)])).item() >= 0


def _is_number(digits: bytes) -> bool:
    """Whether it is a number as torch names records: no sign, no leading zero, no more than nine digits."""
    return digits.isdigit() and len(digits) <= _DIGITS and (digits[:1] != b"0" or len(digits) == 1)


def _positions(raw: bytes, count: int) -> Numbers:
    """Where each entry of the directory begins."""
    found = np.empty(count, np.int64)
    position = 0
    try:
        for index in range(count):
            found[index] = position
            name, extra, comment = _LENGTHS(raw, position + _LENGTHS_AT)
            position += _ENTRY.itemsize + name + extra + comment
    except struct.error as error:
        raise Refused("its zip directory is damaged") from error
    if position != len(raw):
        raise Refused("its zip directory is damaged")
    return found


def fields(source: npt.NDArray[np.uint8], at: Numbers, kind: np.dtype[Any]) -> npt.NDArray[Any]:
    """The structures that begin at each of these places.

    Raises:
        Refused: one of them reaches beyond the end.
    """
    if not len(at):
        return np.empty(0, kind)
    if at.max() + kind.itemsize > len(source):
        raise Refused("its zip directory is damaged")
    rows = np.lib.stride_tricks.sliding_window_view(source, kind.itemsize)[at]
    return rows.view(kind)[:, 0]


def windows(offsets: Numbers, alone: npt.NDArray[np.bool_] | None = None) -> Iterator[slice]:
    """Runs of places, in order, that are read at once: near to each other, not too many bytes, none ``alone`` in it."""
    gaps = np.diff(offsets) > _WINDOW
    if alone is not None:
        gaps |= alone[1:] | alone[:-1]
    first, apart = 0, np.append(np.flatnonzero(gaps) + 1, len(offsets))
    while first < len(offsets):
        last = int(np.searchsorted(offsets, offsets[first] + _WINDOW, "right"))
        last = min(last, int(apart[np.searchsorted(apart, first, "right")]))
        yield slice(first, last)
        first = last


def _places(raw: bytes, at: Numbers, entries: npt.NDArray[Any]) -> tuple[Numbers, ...]:
    """Sizes, packed sizes and offsets; those that do not fit into 32 bits are in the entry's extra field."""
    columns = tuple(entries[field].astype(np.int64) for field in ("size", "packed", "offset"))
    long = np.flatnonzero(np.any([column == _NO32 for column in columns], axis=0))
    for index in long.tolist():
        begin = int(at[index]) + _ENTRY.itemsize + int(entries["name"][index])
        extra = raw[begin : begin + int(entries["extra"][index])]
        for column, value in zip(columns, _wide(extra, *(int(column[index]) for column in columns)), strict=True):
            column[index] = min(value, _MOST)
    return columns


def _ends(offsets: Numbers, sizes: Numbers, end: int) -> Numbers:
    """Where the record after each begins, or the directory; none may reach beyond that."""
    if np.any(offsets >= end) or np.any(sizes > end):
        raise Refused("its zip directory points beyond the file's records")
    order = np.argsort(offsets)
    following = np.append(offsets[order], end)[1:]
    if np.any(following - offsets[order] < sizes[order] + _LOCAL.itemsize):
        raise Refused("two of its zip records lie on the same bytes")
    ends = np.empty_like(following)
    ends[order] = following
    return ends


def _numbers(source: npt.NDArray[np.uint8], at: Numbers, lengths: Numbers, folder: bytes, most: int) -> Numbers:
    """The number that each name is below ``folder``; -1 where it is none, or ``most`` or larger."""
    found = np.full(len(at), -1, np.int64)
    for digits in range(1, _DIGITS + 1):
        rows = np.flatnonzero(lengths == len(folder) + digits)
        for place, byte in enumerate(folder):
            rows = rows[source[at[rows] + place] == byte]
        value = np.zeros(len(rows), np.int64)
        fits = np.ones(len(rows), np.bool_)
        for place in range(digits):
            digit = source[at[rows] + len(folder) + place].astype(np.int64) - ord("0")
            fits &= (digit >= int(place == 0 and digits > 1)) & (digit <= 9)
            value = value * 10 + digit
        fits &= value < most
        found[rows[fits]] = value[fits]
    return found


def whole(file: Opened, record: Record, ahead: int = 0) -> bytes:
    """The bytes of a record, if they are what its checksum was made of.

    Raises:
        Refused: a bit of it has changed since, or it inflates to more than it says.
    """
    raw = file.read(record.start, record.size, ahead) if record.packed < 0 else _inflated(file, record)
    refuse_damage(raw, record)
    return raw


def refuse_damage(raw: bytes | memoryview, record: Record) -> None:
    """Hold a record's bytes against its checksum, if it has one.

    Raises:
        Refused: a bit of it has changed since.
    """
    import zlib

    if record.crc >= 0 and zlib.crc32(raw) != record.crc:
        raise Refused(DAMAGED)


def _inflated(file: Opened, record: Record) -> bytes:
    """A record that was compressed after torch wrote it: inflated no further than its size, if that is believable."""
    import zlib

    file.inflated += record.size
    if record.size > max(limits.INFLATED_FREELY, limits.INFLATED_RATIO * record.packed):
        raise Refused("a compressed record claims to be far longer than it is in the file")
    if file.inflated > max(limits.INFLATED_BYTES, 4 * file.size):
        raise Refused("its compressed records are far longer than the file")
    machine = zlib.decompressobj(wbits=-15)
    try:
        raw = machine.decompress(file.read(record.start, record.packed), record.size + 1)
    except zlib.error as error:
        raise Refused("a compressed record is damaged") from error
    if len(raw) != record.size or not machine.eof:
        raise Refused("a compressed record is not as long as the file says")
    return raw


def _directory(file: Opened) -> tuple[int, int, int]:
    """Start, size and number of entries of the central directory."""
    span = min(file.size, _END.size + _NO16)
    tail = file.read(file.size - span, span)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + _END.size > len(tail):
        raise Refused("its zip directory is missing: the file is cut short or damaged")
    _, disk, first, here, count, size, start, comment = _END.unpack_from(tail, at)
    end = file.size - span + at
    if disk or first or here != count or end + _END.size + comment != file.size:
        raise Refused("its zip directory is damaged")
    if _NO16 in (here, count) or _NO32 in (size, start):
        start, size, count, end = _directory64(file, end)
    if start + size > end or start + size < end - _END64.size - _END64_AT.size:
        raise Refused("its zip directory is not where the file says")
    return start, size, count


def _directory64(file: Opened, end: int) -> tuple[int, int, int, int]:
    if end < _END64.size + _END64_AT.size:
        raise Refused("its zip directory is damaged")
    magic, _, at, _ = _END64_AT.unpack(file.read(end - _END64_AT.size, _END64_AT.size))
    if magic != b"PK\x06\x07":
        raise Refused("its zip directory is damaged")
    magic, _, _, _, disk, first, here, count, size, start = _END64.unpack(file.read(at, _END64.size))
    if magic != b"PK\x06\x06" or disk or first or here != count or size > file.size:
        raise Refused("its zip directory is damaged")
    return start, size, count, at


def _wide(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    """The fields that did not fit into 32 bits, from the zip64 part of the extra field."""
    position = 0
    while position + 4 <= len(extra):
        tag, length = struct.unpack_from("<2H", extra, position)
        if tag == 1:
            wide = iter(struct.unpack_from(f"<{length // 8}Q", extra[: position + 4 + length], position + 4))
            return (
                next(wide, 0) if size == _NO32 else size,
                next(wide, 0) if packed == _NO32 else packed,
                next(wide, 0) if offset == _NO32 else offset,
            )
        position += 4 + length
    return size, packed, offset
