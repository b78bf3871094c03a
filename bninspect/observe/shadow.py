"""The copy that runs in the model's place: the user's module is never run, moved or hooked.

:func:`shadow` copies its structure, with parameters that share the user's memory and with buffers of their own, so
that modes, hooks, counters, lazy initialisation and batch statistics change in the shadow alone.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from bninspect.errors import InputError
from bninspect.observe.forward import brief

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bninspect.report import Mode

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def unwrap(model: Any) -> nn.Module:
    """The module inside DataParallel, DistributedDataParallel and ``torch.compile``.

    Raises:
        InputError: ``model`` is no module, or one whose layers cannot be watched.
    """
    while isinstance(model, nn.Module):
        inner = getattr(model, "_orig_mod", None)
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = model.module
        if not isinstance(inner, nn.Module):
            break
        model = inner
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError("a TorchScript module takes no hooks and cannot be watched: give the nn.Module it was made of")
    if not isinstance(model, nn.Module):
        raise InputError(f"a torch.nn.Module was expected, and a {type(model).__name__} was given")
    return model


def shadow(model: nn.Module, *, device: torch.device | None = None) -> nn.Module:
    """A copy of ``model`` to run: it has the structure, and shares the memory of the parameters.

    Args:
        model: left exactly as it is.
        device: where the shadow lives; ``meta`` gives tensors without memory. Default: where the model is.

    Raises:
        InputError: the model holds something that cannot be copied.
    """
    ours = set(map(id, model.modules()))
    memo: dict[int, Any] = {}
    for module in model.modules():
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False), *_loose_tensors(module)):
            memo[id(tensor)] = _alias(tensor, device)
        for name in _HOOKS:
            for hook in getattr(module, name).values():
                if id(getattr(hook, "__self__", None)) not in ours:
                    memo[id(hook)] = hook
    keep_alive = list(memo.values())
    try:
        twin = copy.deepcopy(model, memo)
    except Exception as error:
        raise InputError(f"the model cannot be copied, and so not be run safely: {brief(error)}") from error
    del keep_alive
    return twin.to(device) if device is not None and device.type != "meta" else twin


def _loose_tensors(module: nn.Module) -> Iterator[Tensor]:
    """Tensors kept as plain attributes, such as the weight that ``weight_norm`` computes."""
    return (value for value in vars(module).values() if isinstance(value, Tensor))


def _alias(tensor: Tensor, device: torch.device | None) -> Tensor:
    """A tensor for the shadow: of the same memory for a parameter, a clone for a buffer, of no memory on meta."""
    if is_lazy(tensor):
        kind: Any = type(tensor)
        twin: Tensor = kind(requires_grad=tensor.requires_grad, device=device or tensor.device, dtype=tensor.dtype)
        return twin
    if device is not None and device.type == "meta":
        twin = torch.empty_like(tensor, device="meta", requires_grad=False)
    elif isinstance(tensor, nn.Parameter):
        twin = tensor.detach()
    else:
        return tensor.detach().clone()
    return nn.Parameter(twin, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else twin


def set_mode(twin: nn.Module, mode: Mode) -> None:
    """Put a shadow into a mode; a class that overrides ``train`` to freeze its layers has its say."""
    twin.train(mode == "train")
