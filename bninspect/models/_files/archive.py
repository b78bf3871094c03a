"""A zip archive as torch writes it: the directory is read once, records are read by place and checked.

Only what torch writes is taken: stored (not compressed) records, names once each, no two records on the same bytes.
"""

from __future__ import annotations

import struct
from array import array
from typing import TYPE_CHECKING

import numpy as np

from bninspect.models._files import limits
from bninspect.models._files.nodes import Refused
from bninspect.text import printable

if TYPE_CHECKING:
    from bninspect.models._files.opened import Opened

_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_END64_AT = struct.Struct("<4sIQI")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_NO32 = 0xFFFFFFFF
_NO16 = 0xFFFF
_AHEAD = 1 << 16


class Record:
    """Where a run of bytes lies in the file; ``crc`` is ``None`` where none was stored."""

    __slots__ = ("crc", "size", "start")

    def __init__(self, start: int, size: int, crc: int | None) -> None:
        self.start = start
        self.size = size
        self.crc = crc


class Archive:
    """The directory of a zip file."""

    def __init__(self, file: Opened) -> None:
        self.file = file
        self.offsets = array("Q")
        self.sizes = array("Q")
        self.crcs = array("Q")
        self.ends = array("Q")
        self.plain = bytearray()
        self.names: dict[bytes, int] = {}
        self._read_directory()
        self.without_checksums = len(self.crcs) > 0 and not any(self.crcs)

    def position(self, name: bytes) -> int:
        """Where the record's header stands: what to sort by for reading in order."""
        index = self.names.get(name)
        if index is None:
            raise Refused(f"its record {printable(name.decode('utf-8', 'replace'))} is missing")
        return self.offsets[index]

    def record(self, name: bytes) -> Record:
        """Where the bytes of ``name`` lie; its local header must say the same as the directory."""
        header = self.position(name)
        index = self.names[name]
        if not self.plain[index]:
            raise Refused("a record is compressed or encrypted, which torch.save never does")
        raw = self.file.read(header, _LOCAL.size + len(name), ahead=_AHEAD)
        magic, _, _, method, *_, name_size, extra_size = _LOCAL.unpack_from(raw)
        if magic != b"PK\x03\x04" or method != 0 or name_size != len(name) or raw[_LOCAL.size :] != name:
            raise Refused("its zip directory and its records do not say the same")
        start = header + _LOCAL.size + name_size + extra_size
        if start + self.sizes[index] > self.ends[index]:
            raise Refused("two of its zip records lie on the same bytes")
        return Record(start, self.sizes[index], None if self.without_checksums else self.crcs[index])

    def read(self, name: bytes, longest: int) -> bytes:
        """The bytes of ``name``, checked."""
        record = self.record(name)
        if record.size > longest:
            raise Refused(f"its record {printable(name.decode('utf-8', 'replace'))} is larger than any honest one")
        return checked(self.file.read(record.start, record.size), record)

    def _read_directory(self) -> None:
        start, size, count = _directory(self.file)
        if count > limits.ENTRIES:
            raise Refused(f"its zip directory has more than {limits.ENTRIES:,} entries")
        raw = self.file.read(start, size)
        position = 0
        for _ in range(count):
            position = self._read_entry(raw, position)
        if position != size:
            raise Refused("its zip directory is damaged")
        self._refuse_overlaps(start)

    def _read_entry(self, raw: bytes, position: int) -> int:
        if position + _ENTRY.size > len(raw):
            raise Refused("its zip directory is damaged")
        fields = _ENTRY.unpack_from(raw, position)
        flags, method, crc, packed, size = fields[3], fields[4], fields[7], fields[8], fields[9]
        name_size, extra_size, comment_size, offset = fields[10], fields[11], fields[12], fields[16]
        name_at = position + _ENTRY.size
        end = name_at + name_size + extra_size + comment_size
        if fields[0] != b"PK\x01\x02" or end > len(raw):
            raise Refused("its zip directory is damaged")
        if _NO32 in (packed, size, offset):
            extra = raw[name_at + name_size : name_at + name_size + extra_size]
            size, packed, offset = _wide(extra, size, packed, offset)
        name = raw[name_at : name_at + name_size]
        if self.names.setdefault(name, len(self.sizes)) != len(self.sizes):
            raise Refused("its zip directory has one name twice")
        self.plain.append(method == 0 and size == packed and not flags & 1)
        self.offsets.append(offset)
        self.sizes.append(packed)
        self.crcs.append(crc)
        return int(end)

    def _refuse_overlaps(self, end: int) -> None:
        offsets, sizes = np.array(self.offsets, np.uint64), np.array(self.sizes, np.uint64)
        if np.any(offsets >= end) or np.any(sizes > end):
            raise Refused("its zip directory points beyond the file's records")
        order = np.argsort(offsets)
        ends = np.append(offsets[order], np.uint64(end))[1:]
        if np.any(ends - offsets[order] < sizes[order] + np.uint64(_LOCAL.size)):
            raise Refused("two of its zip records lie on the same bytes")
        by_index = np.empty_like(ends)
        by_index[order] = ends
        self.ends = array("Q", by_index.tobytes())
        if any(map(_has_capitals, self.names)) and len({name.lower() for name in self.names}) != len(self.names):
            raise Refused("its zip directory has one name twice")


def _has_capitals(name: bytes) -> bool:
    return name != name.lower()


def checked(raw: bytes, record: Record) -> bytes:
    """``raw``, if it is what the record's checksum was made of.

    Raises:
        Refused: a bit of it has changed since.
    """
    import zlib

    if record.crc is not None and zlib.crc32(raw) != record.crc:
        raise Refused("a record does not match its checksum: the file is damaged")
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
