"""What a file says of its tensors: where each lies and how it is cut from a storage, whatever the format."""

from __future__ import annotations

import math

import msgspec

_NEIGHBOURS = (1,)


class Node(msgspec.Struct, gc=False, eq=False):
    """A description that holds no other but a storage, so never a cycle: there may be a million."""


class Storage(Node):
    """A run of elements of one type, by the key of its record; ``count`` is as the pickle declares it.

    A key that torch made is a number, and kept as one: there may be half a million of them.
    """

    dtype: str
    key: int | str
    count: int


class Part(Node):
    """Neighbours within a storage, as old legacy streams name them: ``count`` elements from ``offset`` on."""

    storage: Storage
    offset: int
    count: int


class Tensor(Node):
    """A strided window on a storage: all that is needed to read it, and no value of it."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Odd(Node):
    """A tensor of a kind that holds no plain values: sparse, quantized, without storage."""

    what: str


def reach(tensor: Tensor) -> int:
    """How far the last element of a tensor lies behind its first."""
    return sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a tensor whose elements follow each other."""
    if len(shape) < 2:
        return _NEIGHBOURS[: len(shape)]
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
