"""All tensors of a stored model, for a model that is built by other means: the state dict that fits it best."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bninspect.files.dtypes import SIZES
from bninspect.files.refused import Refused
from bninspect.files.tensors import Tensor
from bninspect.files.values import read_from
from bninspect.models.stored.kinds import contents
from bninspect.report import Struct, Vector
from bninspect.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from bninspect.files.opened import Opened
    from bninspect.models.stored.kinds import State

Values = Vector | dict[str, Vector]
_PREFIXES = ("module.", "_orig_mod.", "model.", "")
_ALL = 1 << 40  # elements: what is stored bounds them, whatever is shown


class StoredState(Struct, frozen=True, kw_only=True):
    """A state dict as numpy arrays.

    Attributes:
        values: by the model's own keys; bfloat16 and float8 as float32.
        unexpected: keys that the model does not have.
        place: where in the file it stands, and what was taken off its keys, in words; empty where there was no choice.
    """

    values: dict[str, Vector]
    unexpected: tuple[str, ...]
    place: str


def read_whole(path: str, open_file: Callable[[str], Opened], keys: Collection[str]) -> StoredState:
    """The state dict of the file whose keys fit ``keys`` best, wrappers' prefixes taken off.

    Raises:
        Refused: the file cannot be read, or a tensor in it holds no plain values.
    """
    states = contents(path, open_file, everything=True).states
    choices = [(section, prefix) for section in states for prefix in _prefixes(states[section][0])]
    if not choices:
        raise Refused("it holds no tensors")
    wanted = frozenset(keys)
    section, prefix = max(choices, key=lambda choice: _fit(states[choice[0]], choice[1], wanted))
    renamed, holders = _renamed(states[section], prefix)
    known = {key: tensor for key, tensor in renamed.items() if key in wanted}
    values = _values(known, holders)
    return StoredState(
        values=values,
        unexpected=tuple(key for key in renamed if key not in wanted),
        place=_place(section, prefix, len(states)),
    )


def read_everything(path: str, open_file: Callable[[str], Opened]) -> dict[str, Values]:
    """All tensors of the file: the outermost by their keys, those of each part of it by the part's name.

    Raises:
        Refused: the file cannot be read, a tensor in it holds no plain values, or there are none.
    """
    found: dict[str, Values] = {}
    for section, state in contents(path, open_file, everything=True).states.items():
        values = _values(*_renamed(state, ""))
        found.update({section: values} if section and values else values)
    if not found:
        raise Refused("it holds no tensors")
    return found


def _prefixes(tensors: Collection[str]) -> list[str]:
    """The wrappers' prefixes, one after another, that all keys begin with; the empty one first."""
    found = [""]
    while longer := [
        found[-1] + one for one in _PREFIXES if one and all(k.startswith(found[-1] + one) for k in tensors)
    ]:
        found.append(longer[0])
        if len(found) > 8 or not tensors:
            break
    return found


def _fit(state: State, prefix: str, wanted: frozenset[str]) -> int:
    return sum(key[len(prefix) :] in wanted for key in state[0])


def _renamed(state: State, prefix: str) -> tuple[dict[str, object], dict[str, object]]:
    tensors, holder = state
    renamed: dict[str, object] = {key[len(prefix) :]: tensor for key, tensor in tensors.items()}
    each = holder if isinstance(holder, dict) else dict.fromkeys(tensors, holder)
    return renamed, {key[len(prefix) :]: one for key, one in each.items()}


def _values(tensors: dict[str, object], holders: dict[str, object]) -> dict[str, Vector]:
    for key, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or tensor.dtype not in SIZES:
            what = getattr(tensor, "what", "of a type that is not read")
            raise Refused(f"its tensor '{printable(key, 60)}' is {what}")
    known: list[Any] = list(tensors.values())
    found, _ = read_from([holders[key] for key in tensors], known.copy(), _ALL)  # type: ignore[misc]
    values = {}
    for key, tensor, value in zip(tensors, known, found, strict=True):
        shaped = value if tensor.shape else value.reshape(())
        values[key] = shaped.astype(bool) if tensor.dtype == "bool" else shaped
    return values


def _place(section: str, prefix: str, sections: int) -> str:
    words = [f"under '{printable(section)}'"] if section else []
    words += ["the best fit of several"] if sections > 1 else []
    words += [f"without the prefix '{printable(prefix)}'"] if prefix else []
    return ", ".join(words)
