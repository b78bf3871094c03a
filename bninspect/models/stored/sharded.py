"""A model in several files, with an index of where each tensor is: only shards with BatchNorm tensors are opened."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from bninspect.files import limits
from bninspect.files.refused import Refused
from bninspect.models.stored.recognise import Found, is_batchnorm
from bninspect.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from bninspect.files.opened import Opened
    from bninspect.files.tensors import Odd, Tensor
    from bninspect.files.values import Container

    Shard = tuple[Container, dict[str, Tensor | Odd]]
    Shards = tuple[dict[str, Tensor | Odd], dict[str, Container]]


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def shards_of(file: Opened, *, everything: bool = False) -> dict[str, str]:
    """Which file each tensor of the index is in: those of BatchNorm layers, or every one.

    Raises:
        Refused: it is no shard index, or names files outside of its folder.
    """
    if file.size > limits.JSON_BYTES:
        raise Refused("its JSON is larger than any honest index")
    data = file.read(0, file.size)
    if data.startswith(b'{"event":"header"'):
        raise Refused("it is the record of a training run: `bninspect watch` shows it")
    try:
        index = msgspec.json.decode(data, type=_Index)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Refused("it is JSON, but no index of a sharded model") from error
    names = set(index.weight_map.values())
    if len(names) > limits.SHARDS:
        raise Refused(f"its index names more than {limits.SHARDS:,} files")
    for name in names:
        if name in ("", ".", "..") or any(character in name for character in "/\\:\0"):
            raise Refused(f"its index names a file outside of its folder: '{printable(name, 60)}'")
    if everything:
        return index.weight_map
    fields = ("running_mean", "running_var")
    prefixes = {key.rpartition(".")[0] for key in index.weight_map if key.rpartition(".")[2] in fields}
    return {key: name for key, name in index.weight_map.items() if key.rpartition(".")[0] in prefixes}


def read_shards(path: str, places: dict[str, str], open_shard: Callable[[str], Shard]) -> Shards:
    """The tensors that ``places`` names, and what holds each, from the shards beside the index at ``path``."""
    folder = Path(path).parent
    shards = {name: open_shard(str(folder / name)) for name in sorted(set(places.values()))}
    tensors: dict[str, Tensor | Odd] = {}
    containers: dict[str, Container] = {}
    for key, name in places.items():
        container, held = shards[name]
        if key not in held:
            raise Refused(f"its index names a tensor that '{printable(name, 60)}' does not hold")
        tensors[key], containers[key] = held[key], container
    return tensors, containers


def layers_of(groups: dict[str, dict[str, Tensor | Odd]], containers: dict[str, Container]) -> list[Found]:
    """The BatchNorm layers among them; one layer's tensors may be in several shards."""
    return [
        Found("", prefix, group, {field: containers[f"{prefix}.{field}".lstrip(".")] for field in group})
        for prefix, group in groups.items()
        if is_batchnorm(group)
    ]
