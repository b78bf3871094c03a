"""All tensors of a stored model, for a model that is built by other means: the state dict that fits it best."""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any

from bninspect.files.dtypes import SIZES
from bninspect.files.refused import Refused
from bninspect.files.tensors import Tensor
from bninspect.files.values import read_from
from bninspect.models.stored.kinds import contents
from bninspect.models.stored.recognise import COUNTERS, counting
from bninspect.report import Struct, Vector
from bninspect.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

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
        counters: keys beside them that count averages.
        place: where in the file it stands, and what was taken off its keys, in words; empty where there was no choice.
    """

    values: dict[str, Vector]
    unexpected: tuple[str, ...]
    counters: tuple[str, ...]
    place: str


class Sets:
    """The state dicts of a file, and how well each fits a model; keys may have wrappers' prefixes.

    Raises:
        Refused: there are none.
    """

    def __init__(self, states: Mapping[str, State], keys: Collection[str]) -> None:
        wanted = frozenset(keys)
        self.states = states
        self.fits = {
            section: max(((_fit(state, prefix, wanted), prefix) for prefix in _prefixes(state[0])), key=itemgetter(0))
            for section, state in states.items()
        }
        if not states:
            raise Refused("it holds no tensors")

    def best(self, which: str | None = None) -> tuple[str, str]:
        """The section and the prefix of the set that fits best, of those that ``which`` names."""
        section = max(self._named(which), key=lambda section: self.fits[section][0])
        return section, self.fits[section][1]

    def only(self, which: str | None = None) -> tuple[str, str]:
        """The same, where there is no choice.

        Raises:
            Refused: several fit as well, or none does.
        """
        section, prefix = self.best(which)
        most = self.fits[section][0]
        alike = [name for name in self._named(which) if self.fits[name][0] == most]
        if not most or len(alike) > 1:
            fault = f"it holds {len(alike)} sets of weights" if most else "it holds no weights of this model"
            hint = f": say which by --set, one of {_listed(alike)}" if most else ""
            raise Refused(fault + hint)
        return section, prefix

    def _named(self, which: str | None) -> list[str]:
        """The sections of that name, or with it in theirs."""
        if which is None:
            return list(self.states)
        found = [section for section in self.states if section == which]
        found = found or [section for section in self.states if self.fits[section][0] and which in section]
        if not found:
            known = [section for section, (fit, _) in self.fits.items() if fit]
            raise Refused(f"it holds no set of weights '{printable(which, 60)}', but {_listed(known)}")
        return found


def _listed(sections: Collection[str]) -> str:
    shown = [f"'{printable(section, 60)}'" if section else "the outermost" for section in list(sections)[:6]]
    return ", ".join(shown) or "none"


def read_whole(
    path: str, open_file: Callable[[str], Opened], keys: Collection[str], which: str | None = None
) -> StoredState:
    """The state dict of the file whose keys fit ``keys`` best, wrappers' prefixes taken off.

    Args:
        path: the file.
        open_file: a way to open it, and others beside it.
        keys: of the model's state dict.
        which: the name of the set of weights that is meant, or a part of it.

    Raises:
        Refused: the file cannot be read, holds no such set, or a tensor in it holds no plain values.
    """
    states = contents(path, open_file, everything=True).states
    section, prefix = Sets(states, keys).best(which)
    renamed, holders = _renamed(states[section], prefix)
    known = {key: tensor for key, tensor in renamed.items() if key in frozenset(keys)}
    values = _values(known, holders)
    return StoredState(
        values=values,
        unexpected=tuple(key for key in renamed if key not in known),
        counters=tuple(counting(states[section][0])),
        place=_place(section, prefix, len(states) if which is None else 1),
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
    found, tensors = [""], [key for key in tensors if key not in COUNTERS]
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
    named = [key for key in tensors if not prefix or key not in COUNTERS]
    renamed: dict[str, object] = {key[len(prefix) :]: tensors[key] for key in named}
    each = holder if isinstance(holder, dict) else dict.fromkeys(tensors, holder)
    return renamed, {key[len(prefix) :]: each[key] for key in named}


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
