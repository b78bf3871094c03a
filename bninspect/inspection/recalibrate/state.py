"""A model's state dict as a file, by the ending of its name."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import torch

from bninspect.writing import write

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn


def write_state(model: nn.Module, path: Path) -> None:
    """Write the state dict, whole or not at all: ``.safetensors``, else as torch.save does.

    Raises:
        BNInspectError: ``path`` cannot be written.
    """
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    if path.suffix.lower() == ".safetensors":
        from safetensors.torch import save

        write(path, save({key: value.clone() for key, value in state.items()}))  # none may share memory there
        return
    file = io.BytesIO()
    torch.save(state, file)
    write(path, file.getvalue())
