"""Stored models, read without running anything in them: neither torch nor a class that a file names is imported.

The kind of a file is found by its content. Pickles go through a machine of our own that only takes notes; of the
values, those of BatchNorm layers alone are read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from bninspect.files import reading
from bninspect.report import Struct

if TYPE_CHECKING:
    from collections.abc import Collection

    from bninspect.layers import BatchNormLayer
    from bninspect.models.stored.whole import StoredState, Values

__all__ = ["StoredFile", "read", "read_all", "read_state"]


class StoredFile(Struct, frozen=True, kw_only=True):
    """The BatchNorm layers of a file, with their stored values.

    Attributes:
        kind: what the file is, such as ``"zip checkpoint"`` or ``"safetensors"``.
        evidence: ``"graph"`` where the file also says how the layers are used, else ``"tensors"``.
        notes: what could not be told, or is worth knowing.
        counters: keys that count averages of the weights.
    """

    layers: tuple[BatchNormLayer, ...]
    kind: str
    evidence: Literal["tensors", "graph"] = "tensors"
    notes: tuple[str, ...] = ()
    counters: tuple[str, ...] = ()


def read(path: str) -> StoredFile:
    """The BatchNorm layers of the file at ``path``; nothing in it is executed or imported.

    Args:
        path: a file of torch.save (zip or legacy; a state dict, a training checkpoint or a whole module), safetensors
            (one file, or the JSON index of several), torch.export or TorchScript.

    Returns:
        The layers in the order stored, vectors as numpy arrays of their stored type; bfloat16 and float8 as float32.

    Raises:
        SourceError: the file cannot be read, is none of these kinds, or is damaged; the text says which.
    """
    from bninspect.models.stored.kinds import contents
    from bninspect.models.stored.recognise import Layers

    with reading(path) as open_file:
        found = contents(path, open_file)
        layers = Layers(found.layers)
        values = layers.read()
    notes = (*layers.notes, *found.notes)
    return StoredFile(
        layers=values, kind=found.kind, evidence=found.evidence, notes=notes, counters=tuple(found.counters)
    )


def read_state(path: str, keys: Collection[str], which: str | None = None) -> StoredState:
    """All values of the file's state dict that fits ``keys``, a model's own, best; nothing is executed or imported.

    Args:
        path: a file of any kind that :func:`read` takes.
        keys: of the model's state dict.
        which: the name of the set of weights that is meant, where the file holds several, or a part of it.

    Raises:
        SourceError: as for :func:`read`; also where there is no such set.
    """
    from bninspect.models.stored.whole import read_whole

    with reading(path) as open_file:
        return read_whole(path, open_file, keys, which)


def read_all(path: str) -> dict[str, Values]:
    """All tensors of the file, by the names that it gives them; nothing is executed or imported.

    Args:
        path: a file of any kind that :func:`read` takes.

    Returns:
        The outermost tensors by their keys, and those of each dict or module within by the name of that.

    Raises:
        SourceError: as for :func:`read`; also where there are none.
    """
    from bninspect.models.stored.whole import read_everything

    with reading(path) as open_file:
        return read_everything(path, open_file)
