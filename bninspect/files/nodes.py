"""What a pickle's objects become when nothing is imported and nothing is called: plain descriptions of them."""

from __future__ import annotations

from typing import Any

import msgspec


class Refused(Exception):  # noqa: N818 - it is an answer, worded for the user at one place
    """The file is not read any further; the text is the reason, without the file's name."""


class Node(msgspec.Struct, gc=False, eq=False):
    """A description that holds no other but a storage, so never a cycle: there may be a million."""


class Global(Node):
    """A class or function that the pickle names: ``module.name``, never looked up."""

    module: str
    name: str

    @property
    def path(self) -> str:
        """The dotted name, with the spelling of Python 2 in today's."""
        module = "builtins" if self.module == "__builtin__" else self.module
        return f"{module}.{self.name}"


class Items:
    """A dict: keys and values alternately, in the order stored; nothing of a stranger's is ever hashed."""

    __slots__ = ("flat",)

    def __init__(self) -> None:
        self.flat: list[Any] = []


class Call:
    """An object that loading would make by ``func(*args)``, with what would be put into it afterwards."""

    __slots__ = ("args", "flat", "func", "items", "state")

    def __init__(self, func: Global | None, args: Any) -> None:
        self.func = func
        self.args = args
        self.flat: list[Any] | None = None
        self.items: list[Any] | None = None
        self.state: Any = None


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
