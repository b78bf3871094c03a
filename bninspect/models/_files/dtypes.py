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
_EIGHTS = {  # mantissa bits, exponent bias, and which codes are not finite
    "float8_e4m3fn": (3, 7),
    "float8_e5m2": (2, 15),
    "float8_e4m3fnuz": (3, 8),
    "float8_e5m2fnuz": (2, 16),
}


@cache
def stored(name: str, big_endian: bool) -> np.dtype[np.generic]:  # noqa: FBT001 - cached by position
    """How elements of type ``name`` lie in the file."""
    return np.dtype((">" if big_endian else "<") + _NUMPY[name])


def decoded(raw: npt.NDArray[np.generic], name: str) -> Vector:
    """The elements in this machine's byte order, as the numpy type that holds them exactly; always a copy."""
    if name == "bfloat16":
        widened: Vector = (raw.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return widened
    if name.startswith("float8"):
        looked_up: Vector = _eights(name)[raw.astype(np.intp)]
        return looked_up
    return np.array(raw, raw.dtype.newbyteorder("="))


@cache
def _eights(name: str) -> npt.NDArray[np.float32]:
    """The value of each of the 256 codes of an eight-bit type (Open Compute Project's OFP8, MX and variants)."""
    codes = np.arange(256)
    if name == "float8_e8m0fnu":
        values = np.ldexp(1.0, codes - 127)
        values[255] = np.nan
        return np.asarray(values, np.float32)
    mantissa_bits, bias = _EIGHTS[name]
    mantissa = codes & ((1 << mantissa_bits) - 1)
    exponent = (codes & 0x7F) >> mantissa_bits
    normal = (mantissa + (1 << mantissa_bits)) * (exponent > 0) + mantissa * (exponent == 0)
    values = np.ldexp(normal.astype(np.float64), np.maximum(exponent, 1) - bias - mantissa_bits)
    values[codes >= 128] *= -1.0
    if name.endswith("uz"):
        values[128] = np.nan
    elif name == "float8_e4m3fn":
        values[[127, 255]] = np.nan
    else:
        values[124], values[252] = np.inf, -np.inf
        values[[125, 126, 127, 253, 254, 255]] = np.nan
    return np.asarray(values, np.float32)
