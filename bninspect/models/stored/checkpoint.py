"""The layers of what torch.save writes: its object is walked through, and says itself whether it is a module."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bninspect.files.refused import Refused
from bninspect.files.saved import ZipStorages, read_legacy, read_zip
from bninspect.files.tensors import Odd, Tensor
from bninspect.models.stored.walk import Walk, pairs_of

if TYPE_CHECKING:
    from bninspect.files.archive import Archive
    from bninspect.files.opened import Opened


def walk_zip(archive: Archive, root: bytes, *, everything: bool = False) -> tuple[str, Walk]:
    """The layers of a zip archive that has a ``data.pkl``."""
    walk = Walk(*read_zip(archive, root), everything=everything)
    if root + b"constants.pkl" in archive.names:
        return "TorchScript archive", walk
    return "pickled module" if walk.modules else "zip checkpoint", walk


def walk_legacy(file: Opened, *, everything: bool = False) -> tuple[str, Walk]:
    """The layers of a legacy stream."""
    walk = Walk(*read_legacy(file), everything=everything)
    return "pickled module" if walk.modules else "legacy checkpoint", walk


def tensors_of(archive: Archive) -> tuple[ZipStorages, dict[str, Tensor | Odd]]:
    """The tensors of a zip archive that holds a plain state dict: a shard."""
    pickles = [name for name in archive.names if name.endswith(b"/data.pkl") and name.count(b"/") == 1]
    if len(pickles) != 1:
        raise Refused("it is a zip file, but not one of torch.save")
    container, top = read_zip(archive, pickles[0][: -len(b"data.pkl")])
    return container, {key: value for key, value in pairs_of(top) if isinstance(value, Tensor | Odd)}
