"""Element types by torch's names: how long they are, how they lie in the file, and as what numpy can hold them.

numpy has no bfloat16 and no float8: both become float32, which holds each of their values exactly.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from bninspect.report import Vector

_NUMPY = {
    "float64": "f8",
    "float32": "f4",
    "float16": "f2",
    "bfloat16": "u2",
    "float8_e4m3fn": "u1",
    "float8_e5m2": "u1",
    "float8_e4m3fnuz": "u1",
    "float8_e5m2fnuz": "u1",
    "float8_e8m0fnu": "u1",
    "int64": "i8",
    "int32": "i4",
    "int16": "i2",
    "int8": "i1",
    "uint64": "u8",
    "uint32": "u4",
    "uint16": "u2",
    "uint8": "u1",
    "bool": "u1",
    "complex64": "c8",
    "complex128": "c16",
}
SIZES = {name: np.dtype(code).itemsize for name, code in _NUMPY.items()}
FLOATS = frozenset(name for name in _NUMPY if name.startswith(("float", "bfloat")))
COUNTS = frozenset(name for name in _NUMPY if name.startswith(("int", "uint")))
_EIGHTS = {  # mantissa bits and exponent bias
    "float8_e4m3fn": (3, 7),
    "float8_e5m2": (2, 15),
    "float8_e4m3fnuz": (3, 8),
    "float8_e5m2fnuz": (2, 16),
    "float8_e8m0fnu": (0, 127),
}
_NANS = {  # the codes that are no number, and the bits that torch gives them as float32
    "float8_e4m3fn": {127: 0x7FF00000, 255: 0xFFF00000},
    "float8_e5m2": {
        125: 0x7FE00000, 126: 0x7FC00000, 127: 0x7FE00000, 253: 0xFFE00000, 254: 0xFFC00000, 255: 0xFFE00000,
    },
    "float8_e4m3fnuz": {128: 0x7F800001},
    "float8_e5m2fnuz": {128: 0x7F800001},
    "float8_e8m0fnu": {255: 0x7F800001},
}  # fmt: skip


def width(dtype: str) -> int:
    """Bytes of one element of a storage; 0 where its type is not known."""
    return 1 if dtype == "untyped" else SIZES.get(dtype, 0)


@cache
def stored(name: str, big_endian: bool) -> np.dtype[np.generic]:  # noqa: FBT001 - cached by position
    """How elements of type ``name`` lie in the file."""
    return np.dtype((">" if big_endian else "<") + _NUMPY[name])


def decoded(raw: npt.NDArray[np.generic], name: str, *, copy: bool = True) -> Vector:
    """The elements in this machine's byte order, as the numpy type that holds them exactly; by default a copy."""
    if name == "bfloat16":
        widened: Vector = (raw.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return widened
    if name.startswith("float8"):
        looked_up: Vector = _eights(name)[raw.astype(np.intp)]
        return looked_up
    return raw.astype(raw.dtype.newbyteorder("="), copy=copy)


@cache
def _eights(name: str) -> npt.NDArray[np.float32]:
    """The value of each of the 256 codes of an eight-bit type (Open Compute Project's OFP8, MX and variants)."""
    codes = np.arange(256)
    mantissa_bits, bias = _EIGHTS[name]
    if mantissa_bits:
        mantissa = codes & ((1 << mantissa_bits) - 1)
        exponent = (codes & 0x7F) >> mantissa_bits
        digits = np.where(exponent > 0, mantissa + (1 << mantissa_bits), mantissa).astype(np.float64)
        values = np.ldexp(digits, np.maximum(exponent, 1) - bias - mantissa_bits)
        values[codes >= 128] *= -1.0
    else:  # a scale: no sign, no mantissa, no zero
        values = np.ldexp(1.0, codes - bias)
    if name == "float8_e5m2":
        values[[124, 252]] = np.inf, -np.inf
    table = np.where(np.isin(codes, list(_NANS[name])), 0.0, values).astype(np.float32)
    for code, bits in _NANS[name].items():
        table.view(np.uint32)[code] = bits
    return table
