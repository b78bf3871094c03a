"""Which models can be watched: the module inside its wrappers, or one sentence that says why there is none."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import nn

from bninspect.errors import InputError

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def unwrap(model: Any, *, values: bool = True) -> nn.Module:
    """The module inside DataParallel, DistributedDataParallel and ``torch.compile``.

    Args:
        model: what the user gave.
        values: whether numbers are needed, and not shapes alone.

    Raises:
        InputError: ``model`` is no module, or one whose layers cannot be watched: TorchScript, sharded over processes,
            or, where values are needed, without any.
    """
    while isinstance(model, nn.Module):
        inner = getattr(model, "_orig_mod", None)
        if isinstance(model, _WRAPPERS):
            inner = model.module
        if not isinstance(inner, nn.Module):
            break
        model = inner
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError("a TorchScript module takes no hooks and cannot be watched: give the nn.Module it was made of")
    if not isinstance(model, nn.Module):
        raise InputError(f"a torch.nn.Module was expected, and a {type(model).__name__} was given")
    _refuse_sharded(model)
    if values:
        _refuse_meta(model)
    return model


def _refuse_sharded(model: nn.Module) -> None:
    """Parameters that lie in parts on several processes cannot be run by one of them."""
    tensor = sys.modules.get("torch.distributed.tensor")
    fsdp = sys.modules.get("torch.distributed.fsdp")
    sharded: tuple[Any, ...] = tuple(
        kind for kind in (getattr(tensor, "DTensor", None), getattr(fsdp, "FullyShardedDataParallel", None)) if kind
    )
    if not sharded:
        return
    parts = ((name, value) for values in (model.named_modules(), model.named_parameters()) for name, value in values)
    name = next((name for name, value in parts if isinstance(value, sharded)), None)
    if name is not None:
        raise InputError(
            f"{type(model).__name__} is sharded over processes ({name or 'all of it'}), and one process cannot run it: "
            "gather its values (get_model_state_dict of torch.distributed.checkpoint.state_dict, with "
            "full_state_dict=True), load them into a model that is not sharded, and give that"
        )


def _refuse_meta(model: nn.Module) -> None:
    tensors = [*model.parameters(), *model.buffers()]
    if tensors and all(tensor.is_meta for tensor in tensors):
        raise InputError(
            f"{type(model).__name__} is on the meta device and has no values, only shapes: load its weights first "
            "(model.to_empty(device='cpu'), then model.load_state_dict(...))"
        )
