"""One tensor out of the bytes of its storage, whatever its strides."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bninspect.files import limits
from bninspect.files.dtypes import SIZES, stored
from bninspect.files.refused import Refused

if TYPE_CHECKING:
    from bninspect.files.archive import Record
    from bninspect.files.opened import Opened
    from bninspect.files.tensors import Tensor

ADJACENT = ((1,), ())
"""Strides of a vector or a scalar whose elements follow each other."""


def length_of(tensor: Tensor) -> int:
    """The number of its elements."""
    shape = tensor.shape
    return (shape[0] if shape else 1) if len(shape) < 2 else math.prod(shape)


def in_parts(file: Opened, record: Record, tensor: Tensor, *, big_endian: bool) -> npt.NDArray[np.generic]:
    """A vector out of a record that is too long to be held: as few rows at a time as fit.

    Raises:
        Refused: it lies in too many places.
    """
    size = SIZES[tensor.dtype]
    length, stride = length_of(tensor), tensor.strides[0] if tensor.strides else 1
    step = max(1, limits.CHUNK // (max(1, stride) * size))
    if length // step > limits.READS:
        raise Refused("a tensor is scattered over more places than any honest one")
    out = np.empty(length, stored(tensor.dtype, big_endian))
    for first in range(0, length, step):
        count = min(step, length - first)
        span = ((count - 1) * stride + 1) * size
        raw = file.read(record.start + (tensor.offset + first * stride) * size, span)
        out[first : first + count] = np.frombuffer(raw, out.dtype)[:: max(1, stride)]
    return out


def _nothing(tensor: Tensor, dtype: np.dtype[np.generic]) -> npt.NDArray[np.generic]:
    try:
        return np.empty(tensor.shape, dtype)
    except ValueError as error:  # of no elements, and of more along one dimension than numpy can count
        raise Refused("a tensor has a shape that no array can have") from error


def window(raw: bytes, tensor: Tensor, *, big_endian: bool) -> npt.NDArray[np.generic]:
    """The tensor as a view of its storage's bytes.

    Raises:
        Refused: it has no elements, and a shape that no array can have.
    """
    flat = np.frombuffer(raw, stored(tensor.dtype, big_endian), len(raw) // SIZES[tensor.dtype])
    length, offset = length_of(tensor), tensor.offset
    if len(tensor.shape) > 1:
        if not length:
            return _nothing(tensor, flat.dtype)
        steps = zip(tensor.shape, tensor.strides, strict=True)
        strides = [stride * flat.itemsize if size > 1 else 0 for size, stride in steps]
        return np.lib.stride_tricks.as_strided(flat[offset:], tensor.shape, strides, writeable=False)
    stride = tensor.strides[0] if tensor.strides else 1
    if stride == 0:
        return np.repeat(flat[offset : offset + 1], length)
    return flat[offset : offset + (length - 1) * stride + 1 if length else offset : stride]
