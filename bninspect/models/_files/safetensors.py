"""The safetensors format: a JSON header that says where each tensor's bytes lie, then the bytes, without a gap."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import msgspec

from bninspect.models._files import limits
from bninspect.models._files.archive import Record
from bninspect.models._files.dtypes import SIZES
from bninspect.models._files.nodes import Refused, Storage, Tensor
from bninspect.text import printable

if TYPE_CHECKING:
    from bninspect.models._files.opened import Opened

_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
}
_SMALLER_THAN_A_BYTE = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
_LENGTH = 8
_FIELDS = (b"dtype", b"shape", b"data_offsets")


class _Entry(msgspec.Struct):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


_HEADER = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ENTRY = msgspec.json.Decoder(_Entry)
_METADATA = msgspec.json.Decoder(dict[str, str])


class SafetensorsFile:
    """The tensors of one safetensors file; each is a storage of its own."""

    big_endian = False

    def __init__(self, file: Opened) -> None:
        self.file = file
        self.records: dict[str, Record] = {}
        self.tensors: dict[str, Tensor] = {}
        self._read_header()

    def position(self, storage: Storage) -> int:
        """Where the tensor's bytes begin."""
        return self.records[storage.key].start

    def record(self, storage: Storage) -> Record:
        """Where the tensor's bytes lie."""
        return self.records[storage.key]

    def _read_header(self) -> None:
        size = header_size(self.file)
        start = _LENGTH + size
        raw = self.file.read(_LENGTH, size)
        if raw.count(b"{") > limits.ENTRIES:
            raise Refused(f"its header names more than {limits.ENTRIES:,} tensors")
        entries = _entries(raw)
        ends = []
        for name, entry in entries.items():
            begin, end = entry.data_offsets
            self._add(name, entry, start)
            ends.append((begin, end))
        _refuse_gaps(ends, self.file.size - start)

    def _add(self, name: str, entry: _Entry, start: int) -> None:
        begin, end = entry.data_offsets
        if begin < 0 or end < begin or any(size < 0 for size in entry.shape):
            raise Refused("its header gives a tensor a shape or a place that is no count")
        count = math.prod(entry.shape)
        if count * _bits(entry.dtype) != (end - begin) * 8:
            raise Refused(f"its header says otherwise about the size of '{printable(name, 60)}' than its shape does")
        dtype = _DTYPES.get(entry.dtype, entry.dtype)
        shape = tuple(entry.shape)
        self.records[name] = Record(start + begin, end - begin, None)
        self.tensors[name] = Tensor(Storage(dtype, name, count), dtype, 0, shape, _contiguous(shape))


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def header_size(file: Opened) -> int:
    """The length of the header.

    Raises:
        Refused: it is longer than the format allows, or than the file.
    """
    size = int.from_bytes(file.read(0, _LENGTH), "little")
    if size > limits.HEADER_BYTES:
        raise Refused("its header is longer than the safetensors format allows")
    if size + _LENGTH > file.size:
        raise Refused("its header is cut short")
    return size


def _entries(raw: bytes) -> dict[str, _Entry]:
    try:
        entries = _HEADER.decode(raw)
        if "__metadata__" in entries:
            _METADATA.decode(entries.pop("__metadata__"))
        if any(len(entry) > limits.ENTRY_BYTES for entry in entries.values()):
            raise Refused("its header describes a tensor with thousands of dimensions")
        decoded = {name: _ENTRY.decode(entry) for name, entry in entries.items()}
        if b"\\" in raw or any(raw.count(b'"%s"' % field) != len(decoded) for field in _FIELDS):
            json.loads(raw, object_pairs_hook=_unique)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Refused("its header is not what the safetensors format prescribes") from error
    return decoded


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise Refused("its header has one name twice")
    return made


def _bits(dtype: str) -> int:
    if dtype in _DTYPES:
        return SIZES[_DTYPES[dtype]] * 8
    if dtype in _SMALLER_THAN_A_BYTE:
        return _SMALLER_THAN_A_BYTE[dtype]
    raise Refused(f"its header names a type of element that is not known: '{printable(dtype, 30)}'")


def _refuse_gaps(places: list[tuple[int, int]], size: int) -> None:
    at = 0
    for begin, end in sorted(places):
        if begin != at:
            raise Refused("its tensors overlap or leave gaps, which the safetensors format forbids")
        at = end
    if at != size:
        raise Refused("its tensors do not end where the file ends: it is cut short, or holds something else as well")
