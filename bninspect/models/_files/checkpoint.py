"""Files that torch.save writes: a zip archive or a legacy stream around one pickle; TorchScript archives alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bninspect.models._files import limits
from bninspect.models._files.archive import Archive, Record
from bninspect.models._files.dtypes import SIZES
from bninspect.models._files.machine import Machine, Short
from bninspect.models._files.nodes import Odd, Refused, Tensor
from bninspect.models._files.walk import Walk, pairs_of

if TYPE_CHECKING:
    from bninspect.models._files.nodes import Storage
    from bninspect.models._files.opened import Opened

LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_LEGACY_PROTOCOL = 1001
_FIRST_LOOK = 1 << 20


class ZipStorages:
    """Storages that are records of a zip archive: ``data/0``, ``data/1`` and so on."""

    def __init__(self, archive: Archive, root: bytes) -> None:
        self.archive = archive
        self.root = root
        self.file = archive.file
        order = b"little"
        if root + b"byteorder" in archive.names:
            order = archive.read(root + b"byteorder", limits.CHUNK)
        if order not in (b"little", b"big"):
            raise Refused("its byte order is neither little nor big")
        self.big_endian = order == b"big"

    def position(self, storage: Storage) -> int:
        """Where the storage's record begins."""
        return self.archive.position(self._name(storage))

    def record(self, storage: Storage) -> Record:
        """Where the storage's bytes lie."""
        return self.archive.record(self._name(storage))

    def _name(self, storage: Storage) -> bytes:
        return self.root + b"data/" + storage.key.encode("utf-8", "surrogatepass")


class LegacyStorages:
    """Storages that follow the pickles of a legacy stream, each behind its number of elements."""

    big_endian = False  # torch writes legacy streams in this order on every machine

    def __init__(self, file: Opened, records: dict[str, Record]) -> None:
        self.file = file
        self.records = records

    def position(self, storage: Storage) -> int:
        """Where the storage's bytes begin."""
        return self.record(storage).start

    def record(self, storage: Storage) -> Record:
        """Where the storage's bytes lie."""
        if storage.key not in self.records:
            raise Refused("its list of storages leaves out one that a tensor needs")
        return self.records[storage.key]


def read_zip(archive: Archive, root: bytes, *, everything: bool = False) -> tuple[str, Walk]:
    """The layers of a zip archive that has a ``data.pkl``."""
    walk = Walk(ZipStorages(archive, root), everything=everything)
    walk.run(_top(archive, root))
    if root + b"constants.pkl" in archive.names:
        return "TorchScript archive", walk
    return "pickled module" if walk.modules else "zip checkpoint", walk


def tensors_of(archive: Archive) -> tuple[ZipStorages, dict[str, Tensor | Odd]]:
    """The tensors of a zip archive that holds a plain state dict: a shard."""
    pickles = [name for name in archive.names if name.endswith(b"/data.pkl") and name.count(b"/") == 1]
    if len(pickles) != 1:
        raise Refused("it is a zip file, but not one of torch.save")
    root = pickles[0][: -len(b"data.pkl")]
    return ZipStorages(archive, root), {
        key: value for key, value in pairs_of(_top(archive, root)) if isinstance(value, Tensor | Odd)
    }


def _top(archive: Archive, root: bytes) -> object:
    try:
        return Machine(archive.read(root + b"data.pkl", limits.PICKLE_BYTES)).run()
    except Short as error:
        raise Refused("its pickle is cut short") from error


def read_legacy(file: Opened, *, everything: bool = False) -> tuple[str, Walk]:
    """The layers of a legacy stream: three short pickles, the object, the list of storages, then their bytes."""
    size = min(file.size, _FIRST_LOOK)
    while True:
        try:
            top, storages, keys, end = _pickles(file.read(0, size))
            break
        except Short as error:
            if size >= min(file.size, limits.PICKLE_BYTES):
                raise Refused("its pickle is cut short") from error
            size = min(file.size, size * 8, limits.PICKLE_BYTES)
    walk = Walk(LegacyStorages(file, _legacy_records(file, end, keys, storages)), everything=everything)
    walk.run(top)
    return "pickled module" if walk.modules else "legacy checkpoint", walk


def _pickles(data: bytes) -> tuple[object, dict[str, Storage], list[Any], int]:
    protocol = Machine(data, len(LEGACY_MAGIC))
    if protocol.run() != _LEGACY_PROTOCOL:
        raise Refused("its legacy stream has a version that no torch wrote")
    about = Machine(data, protocol.pos)
    about.run()
    main = Machine(data, about.pos)
    top = main.run()
    last = Machine(data, main.pos)
    keys = last.run()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise Refused("its list of storages is no list of names")
    return top, main.storages, keys, last.pos


def _legacy_records(file: Opened, start: int, keys: list[str], storages: dict[str, Storage]) -> dict[str, Record]:
    if len(keys) != len(storages) or set(keys) != set(storages):
        raise Refused("its list of storages is not the one that its tensors name")
    records = {}
    for key in keys:
        storage = storages[key]
        count = int.from_bytes(file.read(start, 8), "little")
        size = count * (1 if storage.dtype == "untyped" else SIZES.get(storage.dtype, 0))
        if count != storage.count or (not size and count):
            raise Refused("a storage is not as long as the file says elsewhere")
        records[key] = Record(start + 8, size, None)
        start += 8 + size
    if start > file.size:
        raise Refused("it is cut short: its storages reach beyond its end")
    return records
