"""A loader's steps as they come: containers of any kind, gone through and made anew as deep as they go."""

from __future__ import annotations

import copy
from collections import UserDict
from collections.abc import Iterable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from bninspect import containers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Path = tuple[Any, ...]


def steps_of(batch: Any) -> Any:
    """The steps of what was given for a batch: a tensor, a tuple or a mapping is a single one."""
    return (batch,) if is_one_step(batch) else batch


def is_one_step(batch: Any) -> bool:
    """Whether a batch is a single step, and no iterable of steps."""
    return isinstance(batch, (tuple, Mapping)) or hasattr(type(batch), "to") or not isinstance(batch, Iterable)


def parts_of(value: Any) -> dict[Any, Any] | None:
    """The parts of a container by name or number; ``None`` of what is none. What moves itself is none, but a UserDict.

    Dicts and what is like them, lists, tuples, named tuples, dataclasses and namespaces.
    """
    return None if hasattr(type(value), "to") and not isinstance(value, UserDict) else containers.parts_of(value)


def with_parts(value: Any, parts: dict[Any, Any]) -> Any:
    """A container like ``value`` with other parts."""
    if isinstance(value, (list, tuple)):
        made = parts.values()
        return type(value)(*made) if hasattr(value, "_fields") else type(value)(made)
    if isinstance(value, Mapping) and not isinstance(value, MutableMapping):
        return parts
    twin = copy.copy(value)
    for name, part in parts.items():
        if isinstance(value, Mapping):
            twin[name] = part
        else:
            object.__setattr__(twin, name, part)  # a frozen dataclass takes it in no other way
    return twin


def mapped(value: Any, change: Callable[[Any, Path], Any], path: Path = ()) -> Any:
    """The same step, with ``change`` of each thing in it that is no container, and its path."""
    parts = parts_of(value)
    if parts is None:
        return change(value, path)
    return with_parts(value, {name: mapped(part, change, (*path, name)) for name, part in parts.items()})


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """What is no container in a step, each with the names that lead to it."""
    parts = parts_of(value)
    if parts is None:
        yield path, value
    for name, part in (parts or {}).items():
        yield from leaves(part, (*path, name))


def tensors(value: Any) -> list[Tensor]:
    """The dense tensors in a step, in order."""
    return [leaf for _, leaf in leaves(value) if isinstance(leaf, Tensor) and _is_dense(leaf)]


def _is_dense(x: Tensor) -> bool:
    return x.layout == torch.strided and not (x.is_nested or x.is_quantized)


def moved(value: Any, device: torch.device) -> Any:
    """A step with its tensors, and all that can be moved as tensors are, on a device; what was given is not changed."""

    def move(leaf: Any, _: Path) -> Any:
        if isinstance(leaf, Tensor):
            return leaf.to(device, non_blocking=True)
        return copy.copy(leaf).to(device) if _has(leaf, "to") else leaf  # a graph, for one; some move in place

    return mapped(value, move)


def fresh(value: Any) -> Any:
    """A step of its own memory, for code that may write into it or take it apart."""

    def clone(leaf: Any, _: Path) -> Any:
        if isinstance(leaf, Tensor) or (_has(leaf, "clone") and _has(leaf, "to")):
            return leaf.clone()
        return copy.copy(leaf) if isinstance(leaf, np.ndarray) or _has(leaf, "to") else leaf

    return mapped(value, clone)


def _has(leaf: Any, name: str) -> bool:
    return callable(getattr(type(leaf), name, None))
