"""Whether a function or an object leads to a module: by its closure, its arguments, its owner, its fields."""

from __future__ import annotations

import argparse
import sys
import types
from collections import UserDict, UserList, deque
from dataclasses import is_dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

_MOST = 20_000  # objects that are looked at for one answer: beyond them lie data sets and logs
_DEEPEST = 3  # objects within objects
_RECORDS = (types.SimpleNamespace, argparse.Namespace, UserDict, UserList)
_LIBRARIES = sys.stdlib_module_names | {"bninspect", "numpy", "torch", "torchvision"}


def leads(start: Any, known: Collection[int]) -> bool:
    """Whether a way goes from ``start`` to a module, or to a tensor whose ``id`` is ``known``; the nearest first."""
    seen: dict[int, Any] = {}
    queue = deque([(start, 0)])
    while queue and len(seen) < _MOST:
        value, depth = queue.popleft()
        if isinstance(value, nn.Module) or id(value) in known:
            return True
        if id(value) not in seen:
            seen[id(value)] = value
            inside = depth + (is_record(value) or is_users(value))
            queue.extend((part, inside) for part in _parts(value, depth))
    return False


def is_record(value: Any) -> bool:
    """Whether an object is little more than its fields: a dataclass, a namespace, a dict that is a class."""
    kind = type(value)
    plain = isinstance(value, _RECORDS) or (is_dataclass(kind) and not hasattr(kind, "__slots__"))
    return plain and not hasattr(kind, "__del__")


def is_users(value: Any) -> bool:
    """Whether an object is of a class that no library here defines, and is made of its attributes alone."""
    kind = type(value)
    root = getattr(kind, "__module__", "").partition(".")[0]
    if root in _LIBRARIES or isinstance(value, type | nn.Module) or hasattr(kind, "__del__"):
        return False
    return kind.__dictoffset__ != 0 and kind.__basicsize__ == _Plain.__basicsize__


class _Plain:
    """As large as an object is that has attributes, and nothing else."""


def _parts(value: Any, depth: int) -> Iterable[Any]:
    match value:
        case types.FunctionType():
            cells = [cell.cell_contents for cell in value.__closure__ or () if _filled(cell)]
            return [*cells, value.__defaults__, value.__kwdefaults__, *vars(value).values()]
        case types.MethodType():
            return value.__self__, value.__func__
        case partial():
            return value.func, *value.args, *value.keywords.values(), *vars(value).values()
        case dict():
            return list(value.values())
        case list() | tuple() | set() | frozenset() | deque():
            return value
    return list(vars(value).values()) if depth < _DEEPEST and (is_record(value) or is_users(value)) else ()


def _filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018  # it raises where there is none
    except ValueError:
        return False
    return True
