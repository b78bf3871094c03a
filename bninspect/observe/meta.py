"""Build a model without memory or arithmetic: parameters and buffers go to the meta device as they are registered."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

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


def needs_values(error: BaseException | None) -> bool:
    """Whether an error arose because a meta tensor holds no values, and not from the model or its input."""
    while error is not None:
        if isinstance(error, NotImplementedError) or "meta" in str(error).lower():
            return True
        error = error.__cause__
    return False
