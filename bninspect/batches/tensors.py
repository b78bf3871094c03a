"""A batch in a file: ``.pt``, ``.npy``, ``.npz`` or ``.safetensors``, known by its content; nothing in it is run."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from bninspect.batches import Batch, BatchOptions
from bninspect.batches._elements import pick
from bninspect.errors import SourceError
from bninspect.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable

SCHEME = "file"


def accepts(text: str) -> bool:
    """Whatever is spelled like a file."""
    return Path(text).suffix in {".pt", ".pth", ".npy", ".npz", ".safetensors", ".bin"} or Path(text).is_file()


def load(value: str, options: BatchOptions) -> Batch:
    """The tensor in a file, or the element of its dict, list or tuple that ``--batch-key`` names.

    Raises:
        SourceError: the file is missing, unreadable, of another format, or holds no tensor.
    """
    shown = printable(value)
    with _open(Path(value), shown) as file:
        kind, read = _format(file, shown)
        file.seek(0)
        try:
            content = read(file)
        except SourceError:
            raise
        except Exception as error:
            raise SourceError(_refusal(shown, kind, error)) from error
    element, tensor = pick(content, options.key, shown)
    return Batch(name=value, kind=kind, data=tensor, element=element, num_images=len(tensor) if tensor.dim() else None)


def _open(path: Path, shown: str) -> IO[bytes]:
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise SourceError(f"{shown} is no regular file: give a file that holds a batch")
        return path.open("rb")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SourceError(f"the batch {shown} cannot be read: {reason}") from error


def _format(file: IO[bytes], shown: str) -> tuple[str, Callable[[IO[bytes]], Any]]:
    head = file.read(16)
    if not head:
        raise SourceError(f"the batch {shown} is an empty file")
    if head.startswith(b"\x93NUMPY"):
        return "npy", _numpy
    if head.startswith(b"PK"):
        return ("npz", _numpy) if _is_npz(file) else ("pt", _torch)
    if head[8:9] == b"{":
        return "safetensors", _safetensors
    if head[:1] == b"\x80":
        return "pt", _torch
    raise SourceError(f"{shown} is no batch that bninspect reads: give .pt, .npy, .npz or .safetensors")


def _is_npz(file: IO[bytes]) -> bool:
    try:
        with zipfile.ZipFile(file) as archive:
            return all(name.endswith(".npy") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def _torch(file: IO[bytes]) -> Any:
    import warnings

    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(file, map_location="cpu", weights_only=True, mmap=False)


def _numpy(file: IO[bytes]) -> Any:
    import numpy as np
    import torch

    def tensor(array: Any) -> Any:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")))

    content = np.load(file, allow_pickle=False)
    if isinstance(content, np.ndarray):
        return tensor(content)
    return {name: tensor(content[name]) for name in content.files}


def _safetensors(file: IO[bytes]) -> Any:
    from safetensors.torch import load

    return load(file.read())


def _refusal(shown: str, kind: str, error: Exception) -> str:
    """Our own words: torch's would suggest to run the file's code."""
    import pickle

    if kind == "pt" and isinstance(error, pickle.UnpicklingError):
        return (
            f"the batch {shown} holds more than tensors, and bninspect runs nothing that is in a file: "
            "save the tensor alone, torch.save(batch, path)"
        )
    if kind.startswith("np") and "pickle" in str(error):
        return f"the batch {shown} holds Python objects, which are not loaded: save a numeric array"
    return f"the batch {shown} cannot be read as {kind}: it is truncated or damaged ({type(error).__name__})"
