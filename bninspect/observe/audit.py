"""Calls of ``batch_norm`` that no watched module owns: what hooks on layers do not see."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from bninspect.observe.forward import innermost
from bninspect.report import FunctionalCall

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch.utils.hooks import RemovableHandle

_BATCH_NORM = frozenset({nn.functional.batch_norm, torch.batch_norm, torch.native_batch_norm})


class Audit(TorchFunctionMode):
    """Counts calls of ``batch_norm`` that no watched module owns; ``names`` gives the modules' paths by identity.

    It costs time at every call of torch, so it is entered for one forward, and its hooks go when it is left.
    """

    def __init__(self, names: dict[int, str]) -> None:
        super().__init__()
        self.names = names
        self.inside = 0
        self.found: dict[tuple[str, str], int] = {}
        self._handles: list[RemovableHandle] = []

    def watch(self, module: nn.Module) -> None:
        """Calls made while ``module`` runs are its own."""
        self._handles.append(module.register_forward_pre_hook(self._enter, prepend=True))
        self._handles.append(module.register_forward_hook(self._leave, always_call=True))

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)  # type: ignore[no-untyped-call]
        while self._handles:
            self._handles.pop().remove()

    def _enter(self, *_: Any) -> None:
        self.inside += 1

    def _leave(self, *_: Any) -> None:
        self.inside -= 1

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not self.inside and func in _BATCH_NORM and not _is_weight(args, kwargs):
            frame = innermost(_frames_up(), self.names)
            caller = frame.f_locals["self"] if frame else None
            key = (self.names[id(caller)], type(caller).__name__) if frame else ("", "")
            self.found[key] = self.found.get(key, 0) + 1
        return func(*args, **(kwargs or {}))

    def report(self) -> tuple[FunctionalCall, ...]:
        """What was found, by the module that made the calls."""
        return tuple(FunctionalCall(path=path, kind=kind, calls=calls) for (path, kind), calls in self.found.items())


def _is_weight(args: Sequence[Any], kwargs: dict[str, Any] | None) -> bool:
    """Whether a parameter is normalised, and no activation: convolutions that standardise their weight do so."""
    value = args[0] if args else (kwargs or {}).get("input")
    return isinstance(getattr(value, "_base", None), nn.Parameter)


def _frames_up() -> Iterator[Any]:
    frame = sys._getframe(2)  # noqa: SLF001
    while frame is not None:
        yield frame
        frame = frame.f_back  # type: ignore[assignment]
