"""What differs between two reports outside their layers: totals, settings, and lists of entries such as findings."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

from bninspect.inspection.diff import distance
from bninspect.report import Difference

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bninspect.report import Tolerance

_ELSEWHERE = {
    "schema", "schema_version", "tool", "source", "layers", "notes",  # told in another place
    "sorted_by", "vectors", "values", "execution", "num_pieces", "output",  # how it was found or shown
    "scaled", "error",  # computed from what is compared
}  # fmt: skip
_WORDS = {"message", "why", "fix", "evidence", "reason"}  # texts that hold figures


def report_differences(a: Any, b: Any, tolerance: Tolerance, *, partial: bool) -> Iterator[Difference]:
    """Differences of two reports in all fields that both have, but for their layers."""
    if None not in (a.tool.mode, b.tool.mode) and a.tool.mode != b.tool.mode:
        yield Difference(what="setting", path="", field="mode", a=a.tool.mode, b=b.tool.mode)
    for name in a.__struct_fields__:
        if name in b.__struct_fields__ and name not in _ELSEWHERE:
            yield from _value("", name, getattr(a, name), getattr(b, name), tolerance, partial=partial)


def _value(path: str, name: str, old: Any, new: Any, tolerance: Tolerance, *, partial: bool) -> Iterator[Difference]:
    if old == new or (partial and (old is None or new is None)):
        return
    if _has_structs(old) or _has_structs(new):
        yield from _listed(path, name, old or (), new or (), tolerance, partial=partial)
    elif isinstance(old, msgspec.Struct) and isinstance(new, msgspec.Struct):
        for field in old.__struct_fields__:
            yield from _value(
                path, f"{name}.{field}", getattr(old, field), getattr(new, field), tolerance, partial=partial
            )
    elif isinstance(old, float) and isinstance(new, float) and (found := _plain(name, old, new, tolerance)):
        if found.beyond:
            far = float(found.distance)
            yield Difference(what="figure", path=path, field=name, a=old, b=new, distance=far, unit=found.unit)
    else:
        builtin = msgspec.to_builtins
        yield Difference(what="setting", path=path, field=name, a=builtin(old), b=builtin(new))


def _has_structs(value: Any) -> bool:
    return isinstance(value, tuple) and any(isinstance(entry, msgspec.Struct) for entry in value)


def _plain(name: str, old: float, new: float, tolerance: Tolerance) -> distance.Apart | None:
    return distance.plain(name.rpartition(".")[2], old, new, tolerance)


def _listed(
    path: str, name: str, old: tuple[Any, ...], new: tuple[Any, ...], tolerance: Tolerance, *, partial: bool
) -> Iterator[Difference]:
    """Entries are known by their code and path; what only one list has was removed or added."""
    before, after = _keyed(old), _keyed(new)
    for key, entry in before.items():
        if key not in after:
            yield from _whole("removed", path, name, entry)
    for key, entry in after.items():
        if key not in before:
            yield from _whole("added", path, name, entry)
        elif entry != before[key]:
            yield from _entry(path, f"{name}.{_label(entry)}", before[key], entry, tolerance, partial=partial)


def _entry(path: str, name: str, old: Any, new: Any, tolerance: Tolerance, *, partial: bool) -> Iterator[Difference]:
    places = getattr(new, "layers", None)
    first = {"path", "channels"} if places else set()  # repeat those of the first place
    for field in new.__struct_fields__:
        if field in _WORDS or field in first:
            continue
        label = name if field == "layers" else f"{name}.{field}"
        where = getattr(new, "path", None) or path
        yield from _value(where, label, getattr(old, field), getattr(new, field), tolerance, partial=partial)


def _whole(what: Any, path: str, name: str, entry: Any) -> Iterator[Difference]:
    """An entry that came or went; one of several layers once for each."""
    for place in getattr(entry, "layers", ()) or (entry,):
        where = getattr(place, "path", None) or path
        label = f"{name}.{_label(entry)}" if hasattr(entry, "code") else name
        text = _words(entry)
        yield Difference(
            what=what,
            path=where,
            field=label,
            a=text if what == "removed" else None,
            b=text if what == "added" else None,
        )


def _keyed(listed: tuple[Any, ...]) -> dict[tuple[Any, ...], Any]:
    times: Counter[tuple[Any, ...]] = Counter()
    keyed = {}
    for entry in listed:
        key = (getattr(entry, "code", None) or getattr(entry, "path", None) or "",)
        times[key] += 1
        keyed[*key, times[key]] = entry
    return keyed


def _label(entry: Any) -> str:
    return str(getattr(entry, "code", None) or "") or "entry"


def _words(entry: Any) -> str:
    names = ("code", "name", "severity", "kind", "num_features", "calls")
    known = [str(getattr(entry, name)) for name in names if getattr(entry, name, None) is not None]
    channels = getattr(entry, "channels", None)
    return " ".join(known) or ("the layer" if channels is None else f"{len(channels):,} channels")
