"""What is global while a model runs: random numbers, grad mode, devices, versions; put back as it was."""

from __future__ import annotations

import platform
import random
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch

from bninspect.errors import InputError
from bninspect.report import Mode, Tool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn


@contextmanager
def undisturbed(device: torch.device, seed: int = 0) -> Iterator[None]:
    """No gradients, seeded random numbers, and afterwards every generator as it was found."""
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    cuda = torch.cuda.get_rng_state_all() if device.type == "cuda" or torch.cuda.is_initialized() else []
    try:
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)
        if cuda:
            torch.cuda.manual_seed_all(seed)
        with torch.no_grad():
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.default_generator.set_state(states[2])
        if cuda:
            torch.cuda.set_rng_state_all(cuda)


def home(model: nn.Module) -> torch.device:
    """The device a model lives on: that of its first parameter or buffer with values, else the CPU."""
    tensors = (tensor for tensors in (model.parameters(), model.buffers()) for tensor in tensors)
    return next((tensor.device for tensor in tensors if not tensor.is_meta), torch.device("cpu"))


def own_dtype(model: nn.Module) -> torch.dtype:
    """The floating type of a model: that of its first parameter or buffer that has one, else torch's default."""
    tensors = (tensor for tensors in (model.parameters(), model.buffers()) for tensor in tensors)
    return next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), torch.get_default_dtype())


def resolve_device(name: str | torch.device | None, model: nn.Module) -> torch.device:
    """The device that was asked for, or the model's own.

    Raises:
        InputError: there is no such device.
    """
    if name is None:
        return home(model)
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"{name!r} is no device: give cpu, cuda or cuda:K") from error
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise InputError(f"{name} was asked for, and torch finds {count} CUDA devices: give --device cpu")
    return device


def tool_of(device: torch.device, dtype: torch.dtype | None, mode: Mode | None) -> Tool:
    """Versions and settings for a report's header."""
    from bninspect import __version__

    others = {name: getattr(sys.modules.get(name), "__version__", None) for name in ("torchvision", "timm")}
    return Tool(
        bninspect=__version__,
        python=platform.python_version(),
        torch=str(torch.__version__),
        **others,
        device=str(device),
        dtype=str(dtype).removeprefix("torch.") if dtype else None,
        tf32=bool(torch.backends.cudnn.allow_tf32) if device.type == "cuda" else None,
        mode=mode,
    )
