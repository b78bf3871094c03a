"""A model without memory or arithmetic: it is built on the meta device, and its batch_norms are shapes alone."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def on_meta() -> Iterator[None]:
    """Within this context, modules that are built keep no tensor data.

    Only registration is patched, not ``torch.empty`` and its like: code that computes with numbers while it builds (the
    RegNets' block widths) keeps working.
    """
    register_parameter, register_buffer = nn.Module.register_parameter, nn.Module.register_buffer

    def parameter_on_meta(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if type(param) is nn.Parameter:
            param = nn.Parameter(param.detach().to("meta"), requires_grad=param.requires_grad)
        register_parameter(self, name, param)

    def buffer_on_meta(self: nn.Module, name: str, tensor: Tensor | None, persistent: bool = True) -> None:  # noqa: FBT001, FBT002
        register_buffer(self, name, tensor if tensor is None else tensor.to("meta"), persistent)

    module: Any = nn.Module
    module.register_parameter, module.register_buffer = parameter_on_meta, buffer_on_meta
    try:
        yield
    finally:
        module.register_parameter, module.register_buffer = register_parameter, register_buffer


def normalised(x: Any, mean: Any, var: Any, **options: Any) -> Tensor | None:
    """What ``batch_norm`` makes of these arguments on meta in eval mode; ``None`` where that is for torch to say.

    Torch writes the formula out in Python there, which takes thirty times as long as its shape does.
    """
    if options.get("training") or torch.is_grad_enabled() or type(x) is not Tensor or not x.is_meta:
        return None
    affine = [options[name] for name in ("weight", "bias") if options.get(name) is not None]
    fits = all(
        isinstance(value, Tensor) and value.is_meta and value.shape == x.shape[1:2] for value in (mean, var, *affine)
    )
    return torch.empty_like(x) if fits and x.numel() and x.is_floating_point() else None


def needs_values(error: BaseException | None) -> bool:
    """Whether an error arose because a meta tensor holds no values, and not from the model or its input."""
    while error is not None:
        if isinstance(error, NotImplementedError) or "meta" in str(error).lower():
            return True
        error = error.__cause__
    return False
