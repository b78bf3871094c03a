"""The steps of an optimizer, counted by its own hook, which is taken away again."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer

from bninspect.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.utils.hooks import RemovableHandle


def after_each_step(optimizer: Any, act: Callable[[], None]) -> RemovableHandle:
    """Call ``act`` after each step of an optimizer, or of the one within a trainer's wrapper of it.

    Raises:
        InputError: it is no optimizer.
    """
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    if not isinstance(optimizer, Optimizer):
        raise InputError(
            f"a torch.optim.Optimizer was expected, and a {type(optimizer).__name__} was given; without one, leave it "
            "out, and call watch.step() after each step"
        )

    def hook(optimizer: Optimizer, args: Any, kwargs: Any) -> None:  # noqa: ARG001  # torch gives them
        if "torch._dynamo" in sys.modules:  # not loaded for this alone
            torch.compiler.disable(act)()
        else:
            act()

    hook._torchdynamo_disable = True  # type: ignore[attr-defined]  # noqa: SLF001  # a compiled step() calls it as it is
    return optimizer.register_step_post_hook(hook)
