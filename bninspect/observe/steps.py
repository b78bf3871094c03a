"""A loader's steps as they come: containers of any kind, moved to a device as deep as they go."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, MutableMapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor


def steps_of(batch: Any) -> Any:
    """The steps of what was given for a batch: a tensor, a tuple or a mapping is a single one."""
    return (batch,) if isinstance(batch, (Tensor, tuple, Mapping)) else batch


def moved(value: Any, device: torch.device) -> Any:
    """A step with its tensors, and all that can be moved as tensors are, on a device; what was given is not changed."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if callable(getattr(type(value), "to", None)):
        return copy.copy(value).to(device)  # a graph, or the output of a processor; some move in place
    if isinstance(value, Mapping):
        return _mapping(value, {name: moved(part, device) for name, part in value.items()})
    if isinstance(value, (list, tuple)):
        parts = [moved(part, device) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if isinstance(value, SimpleNamespace) or (dataclasses.is_dataclass(value) and not isinstance(value, type)):
        return _object(value, {name: moved(part, device) for name, part in fields_of(value).items()})
    return value


def fields_of(value: Any) -> dict[str, Any]:
    """The fields of a namespace or a dataclass, by name."""
    if not dataclasses.is_dataclass(value):
        return dict(vars(value))
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def _mapping(value: Mapping[Any, Any], parts: dict[Any, Any]) -> Mapping[Any, Any]:
    if not isinstance(value, MutableMapping):
        return parts
    made = copy.copy(value)
    for name, part in parts.items():
        made[name] = part
    return made


def _object(value: Any, parts: dict[str, Any]) -> Any:
    made = copy.copy(value)
    for name, part in parts.items():
        object.__setattr__(made, name, part)  # a frozen dataclass takes it in no other way
    return made
