"""Everything about a model and the process that a look at it must leave as it was."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch.nn.modules import module as module_hooks

HOOK_DICTS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)
HIDDEN = {"_parameters", "_buffers", "_modules", *HOOK_DICTS}


def fingerprint(model):
    """A nested structure of plain values; two are equal if and only if nothing was touched."""
    return {
        "modules": [(path, id(module), type(module), _module(module)) for path, module in model.named_modules()],
        "order": list(model.state_dict().keys()),
        "process": _process(),
    }


def _module(module):
    return {
        "training": module.training,
        "parameters": {name: _tensor(value) for name, value in module._parameters.items()},
        "buffers": {name: _tensor(value) for name, value in module._buffers.items()},
        "hooks": {name: [id(hook) for hook in getattr(module, name).values()] for name in HOOK_DICTS},
        "attributes": {name: _plain(value) for name, value in vars(module).items() if name not in HIDDEN},
        "attribute names": list(vars(module)),
    }


def _tensor(tensor):
    if tensor is None:
        return None
    if torch.nn.parameter.is_lazy(tensor):
        return id(tensor), type(tensor), tensor.requires_grad
    return (
        id(tensor),
        type(tensor),
        tensor.data_ptr(),
        None if tensor.is_inference() else tensor._version,
        tuple(tensor.shape),
        tensor.stride(),
        tensor.dtype,
        tensor.device,
        tensor.requires_grad,
        tensor.is_leaf,
        tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes(),
        _tensor(tensor.grad) if tensor.is_leaf else None,
    )


def _plain(value):
    if isinstance(value, torch.Tensor):
        return _tensor(value)
    return repr(value) if isinstance(value, (int, float, str, bool, tuple, list, dict, type(None))) else id(value)


def _process():
    return {
        "torch rng": torch.get_rng_state().numpy().tobytes(),
        "python rng": random.getstate(),
        "numpy rng": [part.tobytes() if isinstance(part, np.ndarray) else part for part in np.random.get_state()],
        "cuda rng": [state.numpy().tobytes() for state in torch.cuda.get_rng_state_all()]
        if torch.cuda.is_initialized()
        else None,
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn": (
            torch.backends.cudnn.enabled,
            torch.backends.cudnn.benchmark,
            torch.backends.cudnn.deterministic,
            torch.backends.cudnn.allow_tf32,
        ),
        "matmul": torch.get_float32_matmul_precision(),
        "registration": (torch.nn.Module.register_parameter, torch.nn.Module.register_buffer),
        "global hooks": [
            list(getattr(module_hooks, name).values())
            for name in ("_global_forward_hooks", "_global_forward_pre_hooks", "_global_backward_hooks")
        ],
        "modes": torch.overrides._get_current_function_mode_stack(),
    }
