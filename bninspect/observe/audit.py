"""Calls of ``batch_norm`` that hooks on layers do not see: of a layer that is not called as a module, or of none."""

from __future__ import annotations

import sys
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bninspect.observe import guard
from bninspect.observe.forward import innermost
from bninspect.observe.layers import batchnorms, is_batchnorm
from bninspect.observe.meta import normalised
from bninspect.observe.norms import Norm, norm_of
from bninspect.report import FunctionalCall

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch.utils.hooks import RemovableHandle

_QUIET = ("torch.nn.", "torchvision.")  # timm's layers that standardise their weights make such calls


class Owners:
    """Which BatchNorm layer a call of ``batch_norm`` belongs to, though the layer was not called as a module.

    That is how exported programs run, and models that call ``layer.forward(x)``: the call is given the layer's own
    running_mean, or stands in its code.
    """

    def __init__(self, twin: nn.Module) -> None:
        self.names = {id(module): path for path, module in twin.named_modules()}
        self._means = {id(module.running_mean): module for module in batchnorms(twin).values()}

    def of(self, norm: Norm) -> tuple[nn.Module | None, nn.Module | None]:
        """The layer that owns a call, and the module whose code made it."""
        frame = innermost(_frames_up(), self.names)
        caller = frame.f_locals["self"] if frame else None
        if isinstance(norm.running_mean, Tensor) and (owner := self._means.get(id(norm.running_mean))) is not None:
            return owner, caller
        return caller if isinstance(caller, nn.Module) and is_batchnorm(caller) else None, caller


class Audit(TorchFunctionMode):
    """Hears calls of ``batch_norm`` that are made outside of the watched modules of a shadow.

    It costs time at every call of torch, so it is entered for one forward, and its hooks go when it is left; but where
    such a call had an owner, it is ``needed`` for every forward. For none it is where all code is of packages in which
    BatchNorm layers alone make such calls.

    Args:
        twin: the shadow.
        on_direct: called with a layer and what a call that belongs to it was given.
    """

    def __init__(self, twin: nn.Module, on_direct: Callable[[nn.Module, Norm], None]) -> None:
        super().__init__()
        self.twin = twin
        self.on_direct = on_direct
        self.needed = not all(guard.runs_code_of(module, _QUIET) for module in twin.modules())
        self.inside = 0
        self.found: dict[tuple[str, str], int] = {}
        self._direct = False
        self._counts = True
        self._handles: list[RemovableHandle] = []

    @cached_property
    def owners(self) -> Owners:
        """Whose calls are whose."""
        return Owners(self.twin)

    def watch(self, module: nn.Module) -> None:
        """Calls made while ``module`` runs are its own."""
        self._handles.append(module.register_forward_pre_hook(self._enter, prepend=True))
        self._handles.append(module.register_forward_hook(self._leave, always_call=True))

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)  # type: ignore[no-untyped-call]
        self._counts, self.needed = False, self._direct
        while self._handles and not self.needed:
            self._handles.pop().remove()

    def _enter(self, *_: Any) -> None:
        self.inside += 1

    def _leave(self, *_: Any) -> None:
        self.inside -= 1

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not self.inside and (norm := norm_of(func, args, kwargs)) is not None:
            self._heard(norm)
        made = normalised(*args, **kwargs) if func is nn.functional.batch_norm else None
        return func(*args, **kwargs) if made is None else made

    def _heard(self, norm: Norm) -> None:
        owner, caller = self.owners.of(norm)
        if owner is not None:
            self._direct = True
            self.on_direct(owner, norm)
        elif self._counts:
            key = ("", "") if caller is None else (self.owners.names[id(caller)], type(caller).__name__)
            self.found[key] = self.found.get(key, 0) + 1

    def report(self) -> tuple[FunctionalCall, ...]:
        """What was found, by the module that made the calls."""
        return tuple(FunctionalCall(path=path, kind=kind, calls=calls) for (path, kind), calls in self.found.items())


def _frames_up() -> Iterator[Any]:
    frame = sys._getframe(3)  # noqa: SLF001
    while frame is not None:
        yield frame
        frame = frame.f_back  # type: ignore[assignment]
