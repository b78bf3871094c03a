"""A batch in a file: ``.pt``, ``.npy``, ``.npz`` or ``.safetensors``, known by its content; nothing in it is run.

Files go through the reader that models go through; only the element that is the input is read.
"""

from __future__ import annotations

import os
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from bninspect.batches import Batch, BatchOptions
from bninspect.batches._elements import choose
from bninspect.containers import is_tensor
from bninspect.errors import SourceError
from bninspect.text import printable

if TYPE_CHECKING:
    from torch import Tensor

    from bninspect.files.archive import Archive
    from bninspect.files.arrays import Held
    from bninspect.files.opened import Opened

SCHEME = "file"
_HEAD = 16


def accepts(text: str) -> bool:
    """Whatever is spelled like a file, or is there: the reader says why it is none."""
    return PurePath(text).suffix in {".pt", ".pth", ".npy", ".npz", ".safetensors", ".bin"} or os.path.lexists(text)


def load(value: str, options: BatchOptions) -> Batch:
    """The tensor in a file, or the element of its dict, list, tuple or TensorDataset that is the input.

    Raises:
        SourceError: the file is missing, unreadable, of another format, or holds no tensor.
    """
    from bninspect.files import reading

    with reading(value) as open_file:
        kind, content = _content(open_file(value))
        if options.as_given:
            return Batch(name=value, kind=kind, data=[_all(content, printable(value))], element=options.key)
        content = _understood(content, printable(value))
        if options.key is not None and "," in options.key:
            names = [name.strip() for name in options.key.split(",")]
            several = tuple(_tensor(choose(content, name, printable(value))[1]) for name in names)
            return Batch(name=value, kind=kind, data=[several], element=options.key, num_images=len(several[0]))
        element, held = choose(content, options.key, printable(value))
        tensor = _tensor(held)
    return Batch(name=value, kind=kind, data=tensor, element=element, num_images=len(tensor) if tensor.dim() else None)


def _content(file: Opened) -> tuple[str, Any]:
    """The kind of the file, and what it holds, its tensors yet to be read."""
    from bninspect.files.archive import Archive
    from bninspect.files.arrays import NPY_MAGIC, read_npy
    from bninspect.files.pickle.objects import held, objects_of
    from bninspect.files.refused import Refused
    from bninspect.files.safetensors import read_safetensors
    from bninspect.files.saved import LEGACY_MAGIC, read_legacy

    head = file.read(0, min(file.size, _HEAD))
    if not head:
        raise Refused("it is empty")
    if head.startswith(NPY_MAGIC):
        return "npy", read_npy(file)
    if head.startswith(b"PK"):
        return _zipped(Archive(file))
    if head.startswith(LEGACY_MAGIC):
        container, top = read_legacy(file)
        return "pt", objects_of(top, container)
    if head[8:9] == b"{":
        storages, tensors = read_safetensors(file)
        return "safetensors", {name: held(tensor, storages) for name, tensor in tensors.items()}
    if head[:1] == b"\x80":
        raise Refused("it is a pickle, but not one of torch.save: save the batch by torch.save(batch, path)")
    raise Refused("it is no batch that bninspect reads: give .pt, .npy, .npz or .safetensors")


def _zipped(archive: Archive) -> tuple[str, Any]:
    from bninspect.files.arrays import read_npz
    from bninspect.files.pickle.objects import objects_of
    from bninspect.files.refused import Refused
    from bninspect.files.saved import read_zip

    if archive.names and all(name.endswith(b".npy") for name in archive.names):
        return "npz", read_npz(archive)
    pickles = [name for name in archive.names if name.endswith(b"/data.pkl") and name.count(b"/") == 1]
    if len(pickles) != 1:
        raise Refused("it is a zip file, but holds neither a tensor of torch.save nor numpy's arrays")
    container, top = read_zip(archive, pickles[0][: -len(b"data.pkl")])
    return "pt", objects_of(top, container)


def _understood(content: Any, shown: str) -> Any:
    from bninspect.files.pickle.objects import Foreign

    if isinstance(content, Foreign):
        raise SourceError(
            f"the batch {shown} holds an object of {printable(content.name, 60)}, and bninspect runs nothing that is "
            "in a file: save the tensor alone, torch.save(batch, path)"
        )
    return content


def _all(content: Any, shown: str) -> Any:
    """All that a file holds, with its tensors read."""
    content = _understood(content, shown)
    if is_tensor(content):
        return _tensor(content)
    if isinstance(content, dict):
        return {name: _all(part, shown) for name, part in content.items()}
    return type(content)(_all(part, shown) for part in content) if isinstance(content, (list, tuple)) else content


def _tensor(held: Held) -> Tensor:
    """The values as torch has them: numpy has no bfloat16 and no float8, which come as float32."""
    import torch

    dtype: torch.dtype = getattr(torch, held.dtype, torch.float32)
    return torch.from_numpy(held.values()).to(dtype)
