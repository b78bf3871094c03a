"""The safetensors format: a JSON header that says where each tensor's bytes lie, then the bytes, without a gap."""

from __future__ import annotations

import json
import math
from array import array
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from bninspect.files import limits
from bninspect.files.dtypes import SIZES
from bninspect.files.refused import Refused
from bninspect.files.tensors import Storage, Tensor, contiguous
from bninspect.files.values import PlainStorages
from bninspect.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bninspect.files.opened import Opened

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
_MOST = 1 << 62
_FIELDS = (b"dtype", b"shape", b"data_offsets")


class _Entry(msgspec.Struct):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


_HEADER = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ENTRY = msgspec.json.Decoder(_Entry)
_METADATA = msgspec.json.Decoder(dict[str, str])


def read_safetensors(file: Opened) -> tuple[PlainStorages, dict[str, Tensor]]:
    """The file's storages, one for each tensor, and the tensors by name.

    Raises:
        Refused: its header is not what the format prescribes, in any respect.
    """
    size = header_size(file)
    start = _LENGTH + size
    raw = file.read(_LENGTH, size)
    if raw.count(b"{") > limits.ENTRIES:
        raise Refused(f"its header names more than {limits.ENTRIES:,} tensors")
    begins, ends = array("q"), array("q")
    tensors = {}
    for name, entry in _entries(raw):
        tensors[name] = _tensor(name, entry)
        begins.append(entry.data_offsets[0])
        ends.append(entry.data_offsets[1])
    _refuse_gaps(begins, ends, file.size - start)
    return PlainStorages(file, start), tensors


def _tensor(name: str, entry: _Entry) -> Tensor:
    begin, end = entry.data_offsets
    if not 0 <= begin <= end < _MOST or any(size < 0 for size in entry.shape):
        raise Refused("its header gives a tensor a shape or a place that is no count")
    count = math.prod(entry.shape)
    if count * _bits(entry.dtype) != (end - begin) * 8:
        raise Refused(f"its header says otherwise about the size of '{printable(name, 60)}' than its shape does")
    dtype = _DTYPES.get(entry.dtype, entry.dtype)
    return Tensor(Storage(dtype, begin, count), dtype, 0, entry.shape, contiguous(entry.shape))


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


def _entries(raw: bytes) -> Iterator[tuple[str, _Entry]]:
    try:
        entries = _HEADER.decode(raw)
        if "__metadata__" in entries:
            _METADATA.decode(entries.pop("__metadata__"))
        if any(len(entry) > limits.ENTRY_BYTES for entry in entries.values()):
            raise Refused("its header describes a tensor with thousands of dimensions")
        if b"\\" in raw or any(raw.count(b'"%s"' % field) != len(entries) for field in _FIELDS):
            json.loads(raw, object_pairs_hook=_unique)
        for name in list(entries):
            yield name, _ENTRY.decode(entries.pop(name))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Refused("its header is not what the safetensors format prescribes") from error


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


def _refuse_gaps(begins: array[int], ends: array[int], size: int) -> None:
    first, last = np.array(begins, np.int64), np.array(ends, np.int64)
    order = np.lexsort((last, first))
    if not np.array_equal(first[order], np.append(0, last[order])[: len(order)]):
        raise Refused("its tensors overlap or leave gaps, which the safetensors format forbids")
    if size != (last.max() if len(order) else 0):
        raise Refused("its tensors do not end where the file ends: it is cut short, or holds something else as well")
