"""A stored model with other running statistics: the same file, with their bytes replaced and no others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from bninspect.files import reading
from bninspect.files.dtypes import FLOATS, SIZES
from bninspect.files.patched import patched
from bninspect.files.refused import Refused
from bninspect.files.tensors import Tensor, reach
from bninspect.models.stored.kinds import contents
from bninspect.models.stored.whole import Sets
from bninspect.text import printable
from bninspect.writing import write

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from pathlib import Path

    import numpy.typing as npt

    from bninspect.files.opened import Opened
    from bninspect.files.values import Container
    from bninspect.models.stored.kinds import State

_KINDS = ("zip checkpoint", "legacy checkpoint", "pickled module", "TorchScript archive", "safetensors")


class _Found(NamedTuple):
    """Where the tensors of a model stand in a file."""

    container: Container
    tensors: dict[str, Tensor]


def refuse_unfit(path: str, keys: Collection[str], which: str | None, wanted: Collection[str]) -> None:
    """Whether the statistics of a model can be replaced in a file, before any work is done.

    Args:
        path: the file.
        keys: those of the model's state dict.
        which: the set of weights that is meant, where the file holds several.
        wanted: the keys of the statistics.

    Raises:
        SourceError: they cannot; the text says why.
    """
    with reading(path) as open_file:
        _find(path, open_file, keys, which, wanted)


def write_replaced(
    path: str, output: Path, keys: Collection[str], which: str | None, values: Mapping[str, npt.NDArray[Any]]
) -> None:
    """Write the file at ``path`` to ``output``, with other values in these keys of a model's state dict.

    Raises:
        SourceError: it cannot be read, or they cannot be replaced in it.
        BNInspectError: ``output`` cannot be written.
    """
    with reading(path) as open_file:
        found = _find(path, open_file, keys, which, values)
        changes = [(tensor, _bits(values[key], tensor.dtype)) for key, tensor in found.tensors.items()]
        _refuse_contradictions(changes)
        write(output, patched(found.container, changes))


def _find(
    path: str,
    open_file: Callable[[str], Opened],
    keys: Collection[str],
    which: str | None,
    wanted: Collection[str],
) -> _Found:
    held = contents(path, open_file, everything=True)
    if held.kind not in _KINDS:
        raise Refused(f"the values of a {held.kind} cannot be replaced in it: give one checkpoint or safetensors file")
    sets = Sets(held.states, keys)
    section, prefix = sets.only(which)
    tensors, container = held.states[section]
    missing = [key for key in wanted if prefix + key not in tensors]
    if missing:
        raise Refused(
            f"it holds no {printable(missing[0], 60)}"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
            + ", so that nothing can be replaced there: fill the model by code of your own (nets.py:make), and write "
            "its state dict by -o new.pt"
        )
    found = {key: tensors[prefix + key] for key in wanted}
    for key, tensor in found.items():
        if not isinstance(tensor, Tensor) or tensor.dtype not in FLOATS:
            raise Refused(f"its tensor '{printable(key, 60)}' is of a kind that is not replaced")
    own = {key: tensor for key, tensor in found.items() if isinstance(tensor, Tensor)}
    _refuse_shared(own, held.states, section, prefix)
    assert not isinstance(container, dict)
    return _Found(container, own)


def _refuse_shared(own: Mapping[str, Tensor], states: Mapping[str, State], section: str, prefix: str) -> None:
    """No other tensor of the file may lie on the same elements: it would be changed as well."""
    taken: dict[int | str, list[tuple[int, int, str]]] = {}
    for key, tensor in own.items():
        taken.setdefault(tensor.storage.key, []).append((*_span(tensor), key))
    mine = {(section, prefix + key) for key in own}
    for name, tensor in _others(states, mine):
        for first, last, key in taken.get(tensor.storage.key, ()):
            if _meet(_span(tensor), (first, last)):
                raise Refused(
                    f"{_shown(section, key)} and {name} are the same values in it, and one cannot be replaced without "
                    "the other"
                )


def _refuse_contradictions(changes: list[tuple[Tensor, npt.NDArray[Any]]]) -> None:
    """What has two names in the model may be stored once, with one value."""
    known: dict[tuple[int | str, int, int], bytes] = {}
    for tensor, bits in changes:
        if known.setdefault((tensor.storage.key, *_span(tensor)), bits.tobytes()) != bits.tobytes():
            raise Refused("two layers share their statistics in it, and they are not the same now")


def _others(states: Mapping[str, State], mine: Collection[tuple[str, str]]) -> Iterator[tuple[str, Tensor]]:
    for section, (tensors, _) in states.items():
        for key, tensor in tensors.items():
            if isinstance(tensor, Tensor) and (section, key) not in mine:
                yield _shown(section, key), tensor


def _shown(section: str, key: str) -> str:
    return printable(f"{section}.{key}" if section else key, 80)


def _span(tensor: Tensor) -> tuple[int, int]:
    """Its first and its last byte within the storage; one element between may not be its own."""
    size = SIZES.get(tensor.dtype, 1)
    return tensor.offset * size, (tensor.offset + reach(tensor) + 1) * size


def _meet(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return a[0] < b[1] and b[0] < a[1]


def _bits(values: npt.NDArray[Any], dtype: str) -> npt.NDArray[Any]:
    """The bits of values in a stored type; torch rounds to those that numpy has not."""
    import torch

    kinds = {1: torch.uint8, 2: torch.uint16, 4: torch.uint32, 8: torch.uint64}
    rounded = torch.from_numpy(values).to(getattr(torch, dtype))
    if not rounded.float().isfinite().all():
        raise Refused(f"its statistics are stored as {dtype}, for which a new one is too large")
    bits: npt.NDArray[Any] = rounded.view(kinds[SIZES[dtype]]).numpy()
    return bits
