"""A file with other values in some of its tensors, and the checksums of these; every other byte is as it was."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from bninspect.files import limits
from bninspect.files.archive import DAMAGED, Record, whole
from bninspect.files.dtypes import SIZES
from bninspect.files.refused import Refused
from bninspect.files.saved import ZipStorages

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bninspect.files.archive import Archive
    from bninspect.files.opened import Opened
    from bninspect.files.tensors import Storage, Tensor
    from bninspect.files.values import Container
    from bninspect.report import Vector

    Change = tuple[Tensor, Vector]
    Patches = dict[int, bytes]

_CRC_IN_ENTRY = 16
_CRC_IN_HEADER = 14
_DESCRIPTOR = b"PK\x07\x08"


def patched(container: Container, changes: Sequence[Change]) -> Iterator[bytes]:
    """The whole file in pieces, with these tensors changed.

    Args:
        container: the file that holds them.
        changes: tensors, and the bits of their new elements as unsigned integers of the same width and shape.

    Raises:
        Refused: a record is damaged, compressed, or not as long as the file says; before the first piece is given.
    """
    groups: dict[int | str, tuple[Storage, list[Change]]] = {}
    for tensor, values in changes:
        groups.setdefault(tensor.storage.key, (tensor.storage, []))[1].append((tensor, values))
    storages = [storage for storage, _ in groups.values()]
    records = container.records(storages)
    patches: Patches = {}
    for index, (storage, own) in enumerate(groups.values()):
        patches |= _record(container, storage, records[index], own)
    return _pieces(container.file, patches)


def _record(container: Container, storage: Storage, record: Record, changes: Sequence[Change]) -> Patches:
    if record.packed >= 0:
        raise Refused("its values are compressed, and cannot be replaced in their place")
    raw = bytearray(whole(container.file, record))
    for tensor, values in changes:
        _elements(tensor, raw, big_endian=container.big_endian)[...] = values
    patches = {record.start: bytes(raw)}
    if isinstance(container, ZipStorages) and record.crc >= 0:
        patches |= _checksums(container.archive, container.place(storage), record, zlib.crc32(raw))
    return patches


def _elements(tensor: Tensor, raw: bytearray, *, big_endian: bool) -> Any:
    """A tensor's elements within the bytes of its storage, to be written to."""
    size = SIZES[tensor.dtype]
    try:
        return np.ndarray(
            tensor.shape,
            f"{'>' if big_endian else '<'}u{size}",
            raw,
            tensor.offset * size,
            tuple(stride * size for stride in tensor.strides),
        )
    except (ValueError, TypeError) as error:
        raise Refused("a tensor reaches beyond its storage") from error


def _checksums(archive: Archive, index: int, record: Record, new: int) -> Patches:
    """The places of a record's checksum: in the directory, and before or behind its bytes."""
    old, value = struct.pack("<I", record.crc), struct.pack("<I", new)
    patches = {archive.entries.item(index) + _CRC_IN_ENTRY: value}
    header = archive.offsets.item(index) + _CRC_IN_HEADER
    if archive.file.read(header, 4) == old:
        patches[header] = value
    end = record.start + record.size
    behind = archive.file.read(end, min(8, archive.file.size - end))
    if behind == _DESCRIPTOR + old:
        patches[end + 4] = value
    if len(patches) == 1:
        raise Refused(DAMAGED)
    return patches


def _pieces(file: Opened, patches: Patches) -> Iterator[bytes]:
    position = 0
    for start in [*sorted(patches), file.size]:
        while position < start:
            count = min(limits.CHUNK, start - position)
            yield file.read(position, count)
            position += count
        if start < file.size:
            yield patches[start]
            position += len(patches[start])
