"""Containers of any kind, without torch: what has names as a dict has them, or an order as a list has."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

_LABEL_NAMES = ("label", "labels", "target", "targets", "y")


def is_tensor(value: Any) -> bool:
    """By its class: an object may answer to any name."""
    return hasattr(type(value), "is_floating_point") and hasattr(type(value), "dim")


def has_names(value: Any) -> bool:
    """A dict or what is like one, a dataclass, a namespace, a named tuple."""
    named = isinstance(value, (Mapping, SimpleNamespace)) or hasattr(type(value), "_fields")
    return named or (dataclasses.is_dataclass(value) and not isinstance(value, type))


def parts_of(value: Any) -> dict[Any, Any] | None:
    """The parts of a container by name or number; ``None`` of what is none."""
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(type(value), "_fields") and isinstance(value, tuple):
        return dict(zip(value._fields, value, strict=True))  # type: ignore[attr-defined]
    if isinstance(value, (list, tuple)):
        return dict(enumerate(value))
    if isinstance(value, SimpleNamespace):
        return dict(vars(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return None


def labels_of(step: Any, images: int) -> Any:
    """The classes of so many images, one whole number for each, where a step of a loader has them; else ``None``."""
    parts = parts_of(step) or {}
    names = _LABEL_NAMES if has_names(step) else (1,)
    found = next((parts[name] for name in names if name in parts), None)
    return found if are_labels(found, images) else None


def are_labels(value: Any, images: int) -> bool:
    """Whether these are classes of so many images."""
    if not is_tensor(value) or value.is_floating_point() or value.is_complex():
        return False
    return bool(value.dim() == 1 and len(value) == images)
