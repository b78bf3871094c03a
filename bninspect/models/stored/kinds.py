"""Which kind of file it is, by its content and never by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from bninspect.files import limits
from bninspect.files.archive import Archive
from bninspect.files.refused import Refused
from bninspect.files.saved import LEGACY_MAGIC
from bninspect.models.stored.checkpoint import tensors_of, walk_legacy, walk_zip
from bninspect.models.stored.recognise import Found, counting, grouped, is_batchnorm
from bninspect.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from bninspect.files.opened import Opened
    from bninspect.files.tensors import Odd, Tensor
    from bninspect.files.values import Container
    from bninspect.models.stored.walk import Walk

    State = tuple[dict[str, Tensor | Odd], Container | dict[str, Container]]

_STATE_DICT = "a state dict holds no eps, momentum or class; InstanceNorm with running statistics would look the same"
_TAR_AT = 257
_MANY = 3


class Contents:
    """What a file holds: its kind, the layers found in it, and remarks."""

    def __init__(self, kind: str, layers: list[Found], notes: tuple[str, ...] = ()) -> None:
        self.kind = kind
        self.layers = layers
        self.notes = notes
        self.evidence: Literal["tensors", "graph"] = "tensors"
        self.counters: list[str] = []
        self.states: dict[str, State] = {}


def contents(path: str, open_file: Callable[[str], Opened], *, everything: bool = False) -> Contents:
    """What the file at ``path`` holds: its BatchNorm layers, and where ``everything`` is asked for its state dicts.

    Raises:
        Refused: it is of no kind that is known, or damaged.
    """
    file = open_file(path)
    head = file.read(0, min(file.size, _TAR_AT + 5))
    if head.startswith(b"PK\x03\x04"):
        return _zip(Archive(file), everything=everything)
    if head.startswith(LEGACY_MAGIC):
        return _pickled(*walk_legacy(file, everything=everything))
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= limits.HEADER_BYTES:
        return _safetensors(file, everything=everything)
    if head.lstrip()[:1] == b"{":
        return _sharded(path, file, open_file, everything=everything)
    raise Refused(_unknown(head, path))


def _unknown(head: bytes, path: str) -> str:
    if not head:
        return "it is empty"
    if head[_TAR_AT:] == b"ustar":
        return "it is a tar file; those of torch.save are older than torch 0.1.10 and no longer read"
    if head[:1] == b"\x80":
        return "it is a pickle, but not one of torch.save"
    if path.endswith(".py"):
        return "it is Python source: add what makes the model, as in nets.py:build"
    return "it is no checkpoint, safetensors, torch.export or TorchScript file"


def _zip(archive: Archive, *, everything: bool) -> Contents:
    from bninspect.models.stored.exported import is_older, read_exported, read_older

    pickles = [name for name in archive.names if name.endswith(b"/data.pkl") and name.count(b"/") == 1]
    graphs = [name for name in archive.names if name.endswith(b"/models/model.json") and name.count(b"/") == 2]
    older = is_older(archive)
    if len(pickles) + len(graphs) + older != 1:
        raise Refused("it is a zip file, but not one of torch.save or torch.export")
    if graphs or older:
        root = graphs[0][: -len(b"models/model.json")] if graphs else b""
        made = read_older(archive) if older else read_exported(archive, root, everything=everything)
        layers, tensors, container = made
        found = Contents("torch.export archive", layers)
        found.evidence, found.states = "graph", {"": (tensors, container)}
    else:
        found = _pickled(*walk_zip(archive, pickles[0][: -len(b"data.pkl")], everything=everything))
    if archive.without_checksums:
        found.notes += ("the file was written without checksums: damage would not be noticed",)
    return found


def _pickled(kind: str, walk: Walk) -> Contents:
    notes = [*_notes(walk.modules == 0 and walk.found, walk.unlike)]
    if walk.instance_norms:
        notes.append(f"{walk.instance_norms} InstanceNorm layers with running statistics are not listed")
    if walk.untracked:
        shown = ", ".join(map(printable, walk.untracked[:_MANY])) + (", ..." if len(walk.untracked) > _MANY else "")
        notes.append(
            f"{len(walk.untracked)} layers are saved as BatchNorm and InstanceNorm are, but without running "
            f"statistics, and are not listed: {shown}"
        )
    if walk.too_deep:
        notes.append(f"containers nested deeper than {limits.DEPTH} were not looked into")
    found = Contents(kind, walk.found, tuple(notes))
    found.counters = walk.counters
    found.states = {section: (state, walk.container) for section, state in (walk.states or {}).items()}
    return found


def _notes(plain: object, unlike: int) -> tuple[str, ...]:
    """What a state dict cannot tell, if it is ``plain``, and how many layers are unlike BatchNorm."""
    which = f"{unlike} layers are not listed: their" if unlike > 1 else "1 layer is not listed: its"
    text = f"{which} running_mean and running_var are not two vectors of floats of one length"
    return ((_STATE_DICT,) if plain else ()) + ((text,) if unlike else ())


def _safetensors(file: Opened, *, everything: bool) -> Contents:
    from bninspect.files.safetensors import read_safetensors

    held, tensors = read_safetensors(file)
    groups = grouped(tensors.items())
    layers = [Found("", prefix, group, held) for prefix, group in groups.items() if is_batchnorm(group)]
    found = Contents("safetensors", layers, _notes(layers, len(groups) - len(layers)))
    found.counters = counting(tensors)
    found.states = {"": (dict(tensors), held)} if everything else {}
    return found


def _sharded(path: str, file: Opened, open_file: Callable[[str], Opened], *, everything: bool) -> Contents:
    from bninspect.models.stored.sharded import layers_of, read_shards, shards_of

    def open_shard(name: str) -> tuple[Container, dict[str, Tensor | Odd]]:
        try:
            return _shard(open_file(name))
        except Refused as refusal:
            raise Refused(f"of its shard '{printable(name)}': {refusal}") from None

    tensors, containers = read_shards(path, shards_of(file, everything=everything), open_shard)
    groups = grouped(tensors.items())
    layers = layers_of(groups, containers)
    found = Contents("sharded checkpoint", layers, _notes(layers, len(groups) - len(layers)))
    found.counters = counting(tensors)
    found.states = {"": (tensors, containers)}
    return found


def _shard(file: Opened) -> tuple[Container, dict[str, Tensor | Odd]]:
    from bninspect.files.safetensors import read_safetensors

    if file.read(0, min(4, file.size)) == b"PK\x03\x04":
        return tensors_of(Archive(file))
    held, tensors = read_safetensors(file)
    return held, dict(tensors)
