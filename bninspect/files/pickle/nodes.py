"""What a pickle's objects become when nothing is imported and nothing is called: plain descriptions of them."""

from __future__ import annotations

from typing import Any

from bninspect.files.tensors import Node


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
