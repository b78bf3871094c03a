"""Files that torch.save writes: a zip archive or a legacy stream around one pickle; TorchScript archives alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bninspect.files import limits
from bninspect.files.archive import fields, windows
from bninspect.files.dtypes import width
from bninspect.files.pickle.machine import Machine
from bninspect.files.pickle.rebuild import storage_key
from bninspect.files.pickle.steps import Short, run
from bninspect.files.refused import Refused
from bninspect.files.values import PlainStorages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bninspect.files.archive import Archive, Numbers, Records
    from bninspect.files.opened import Opened
    from bninspect.files.tensors import Storage

LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_LEGACY_PROTOCOL = 1001
_LOOKS = (1 << 20, 1 << 22, limits.PICKLE_BYTES)
_LENGTH = np.dtype("<u8")


class ZipStorages:
    """Storages that are records of a zip archive: ``data/0``, ``data/1`` and so on."""

    def __init__(self, archive: Archive, root: bytes) -> None:
        self.archive = archive
        self.file = archive.file
        self._folder = root + b"data/"
        order = b"little"
        if root + b"byteorder" in archive.names:
            order = archive.read(root + b"byteorder", limits.CHUNK)
        if order not in (b"little", b"big"):
            raise Refused("its byte order is neither little nor big")
        self.big_endian = order == b"big"

    def positions(self, storages: Sequence[Storage]) -> Numbers:
        """Where the storages' records begin."""
        return self.archive.offsets[self._indices(storages)]

    def records(self, storages: Sequence[Storage]) -> Records:
        """Where the storages' bytes lie."""
        return self.archive.records(self._indices(storages))

    def place(self, storage: Storage) -> int:
        """Where a storage's record stands in the archive's directory."""
        return self._indices([storage]).item(0)

    def _indices(self, storages: Sequence[Storage]) -> Numbers:
        keys = [storage.key for storage in storages]
        if self._folder != self.archive.folder or not all(type(key) is int for key in keys):
            return np.array([self.archive.index(self._name(key)) for key in keys], np.int64)
        found = self.archive.numbered(np.array(keys, np.int64))
        for place in np.flatnonzero(found < 0).tolist():
            found[place] = self.archive.index(self._name(keys[place]))
        return found

    def _name(self, key: int | str) -> bytes:
        return self._folder + str(key).encode("utf-8", "surrogatepass")


def read_zip(archive: Archive, root: bytes) -> tuple[ZipStorages, Any]:
    """The storages of a zip archive that has a ``data.pkl``, and the object that it describes."""
    container = ZipStorages(archive, root)
    try:
        return container, run(Machine(archive.read(root + b"data.pkl", limits.PICKLE_BYTES)))
    except Short as error:
        raise Refused("its pickle is cut short") from error


def read_legacy(file: Opened) -> tuple[PlainStorages, Any]:
    """The same of a legacy stream: three short pickles, the object, the list of storages, then their bytes."""
    top, storages, keys, end = _all_pickles(file)
    _place(file, end, keys, storages)
    return PlainStorages(file), top


def _all_pickles(file: Opened) -> tuple[Any, dict[int | str, Storage], list[str], int]:
    """The pickles of a stream, of which only its bytes say how long they are: with ever more of these."""
    for look in _LOOKS:
        try:
            return _pickles(file.read(0, min(file.size, look)))
        except Short:
            if look >= file.size:
                break
    raise Refused("its pickle is cut short")


def _pickles(data: bytes) -> tuple[Any, dict[int | str, Storage], list[str], int]:
    protocol = Machine(data, len(LEGACY_MAGIC))
    if run(protocol) != _LEGACY_PROTOCOL:
        raise Refused("its legacy stream has a version that no torch wrote")
    about = Machine(data, protocol.pos, protocol)
    run(about)
    main = Machine(data, about.pos, about)
    top = run(main)
    last = Machine(data, main.pos, main)
    keys = run(last)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise Refused("its list of storages is no list of names")
    return top, main.storages, keys, last.pos


def _place(file: Opened, start: int, keys: list[str], storages: dict[int | str, Storage]) -> None:
    """Give each storage its place for a key; the lengths that stand before them must be those that the pickle says."""
    ordered = list(map(storage_key, keys))
    if len(keys) != len(storages) or set(ordered) != set(storages):
        raise Refused("its list of storages is not the one that its tensors name")
    known = [storages[key] for key in ordered]
    counts = [storage.count for storage in known]
    if any(count and not width(storage.dtype) for count, storage in zip(counts, known, strict=True)):
        raise Refused("a storage is of a type that is not known")
    sizes = [_LENGTH.itemsize + storage.count * width(storage.dtype) for storage in known]
    if start + sum(sizes) > file.size:
        raise Refused("it is cut short: its storages reach beyond its end")
    starts = start + np.append(0, np.cumsum(sizes))[:-1].astype(np.int64)
    for window in windows(starts):
        begin = starts.item(window.start)
        raw = file.read(begin, starts.item(window.stop - 1) + _LENGTH.itemsize - begin)
        if fields(np.frombuffer(raw, np.uint8), starts[window] - begin, _LENGTH).tolist() != counts[window]:
            raise Refused("a storage is not as long as the file says elsewhere")
    for storage, place in zip(known, (starts + _LENGTH.itemsize).tolist(), strict=True):
        storage.key = place
