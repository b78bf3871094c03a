"""What differs between two layers of one name: settings exactly, figures by their distance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

from bninspect.inspection.diff import distance
from bninspect.report import Channels, Difference, StatsLayer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bninspect.report import Tolerance

_ELSEWHERE = {"path", "name", "position", "call_index", "channels", "dtype"}  # matched by, or told in another place
_EXACT_FIGURES = {"count", "num_images", "calls", "num_batches_tracked", "dead", "nonfinite", "nonfinite_state"}
_STATE = ("running_mean", "running_var")


def layer_differences(a: Any, b: Any, tolerance: Tolerance, *, partial: bool) -> Iterator[Difference]:
    """Every difference between two layers, the first the earlier one.

    Args:
        a: a layer of a report.
        b: one of the same or of another kind of report; the fields that both have are compared.
        tolerance: for figures.
        partial: one of them knows less than the other (a file of tensors, another report), so that what only one of
            them knows is no difference.
    """
    names = [name for name in a.__struct_fields__ if name in b.__struct_fields__ and name not in _ELSEWHERE]
    vectors = _both(a, b)
    scale = distance.scale_of(a) if isinstance(a, StatsLayer) else None
    derived = distance.COMPUTED if scale is None else distance.DERIVED
    for name in names:
        old, new = getattr(a, name), getattr(b, name)
        if name in derived or old == new or (partial and (old is None or new is None)):
            continue
        if partial and name == "kind" and "BatchNorm" in (old, new):
            continue  # what a file calls a layer whose class it does not hold
        if isinstance(old, float) and isinstance(new, float):
            figure = _apart(name, old, new, scale, tolerance)
            if figure is not None:
                if not vectors and figure.beyond:
                    yield _figure(b.path, name, old, new, figure)
                continue
        yield _exactly(b.path, name, old, new)
    if vectors and scale is not None:
        yield from _vectors(a, b, scale, tolerance)


def _apart(
    name: str, old: float, new: float, scale: distance.Scale | None, tolerance: Tolerance
) -> distance.Apart | None:
    if scale is None:
        return distance.plain(name, old, new, tolerance)
    return distance.apart(name, np.asarray(old), np.asarray(new), scale, tolerance)


def statistics_only(a: Any, b: Any, found: list[Difference]) -> bool:
    """Whether weight and bias are equal to the bit, while running statistics are among the differences ``found``."""
    if not _both(a, b) or a.channels.weight is None or b.channels.weight is None:
        return False
    same = all(_equal(getattr(a.channels, name), getattr(b.channels, name)) for name in distance.WEIGHTS)
    return same and any(difference.field in _STATE for difference in found)


def kept_updating(a: Any, b: Any) -> bool:
    """Whether a layer counted more batches than before; not from zero, which is what a file without counts gives."""
    return None not in (a.num_batches_tracked, b.num_batches_tracked) and (
        0 < a.num_batches_tracked < b.num_batches_tracked
    )


def _both(a: Any, b: Any) -> bool:
    """Whether both are layers of stats with the vectors of their channels."""
    return all(isinstance(layer, StatsLayer) and layer.channels is not None for layer in (a, b))


def _exactly(path: str, name: str, old: Any, new: Any) -> Difference:
    what: Literal["figure", "setting"] = "figure" if name in _EXACT_FIGURES else "setting"
    return Difference(what=what, path=path, field=name, a=_json(old), b=_json(new))


def _figure(path: str, name: str, old: float, new: float, found: distance.Apart) -> Difference:
    return Difference(
        what="figure", path=path, field=name, a=old, b=new, distance=float(found.distance), unit=found.unit
    )


def _vectors(a: Any, b: Any, scale: distance.Scale, tolerance: Tolerance) -> Iterator[Difference]:
    for name in Channels.__struct_fields__:
        old, new = getattr(a.channels, name), getattr(b.channels, name)
        if name in distance.DERIVED or (old is None and new is None):
            continue
        if old is None or new is None:
            if name in distance.WEIGHTS + _STATE:
                yield Difference(what="setting", path=b.path, field=name, a=_known(old), b=_known(new))
        elif len(old) == len(new):  # another num_features is a difference that was told already
            found = distance.apart(name, old, new, scale, tolerance) or distance.exact(old, new)
            if found.beyond.any():
                yield _moved(b, name, (old, new), found)


def _moved(layer: Any, name: str, pair: tuple[Any, Any], found: distance.Apart) -> Difference:
    at = distance.furthest(found)
    index = layer.channels.index
    return Difference(
        what="channels",
        path=layer.path,
        field=name,
        a=_json(pair[0][at]),
        b=_json(pair[1][at]),
        distance=None if found.unit is None else float(found.distance[at]),
        unit=found.unit,
        num_channels=int(found.beyond.sum()),
        num_features=layer.num_features,
        channel=at if index is None else int(index[at]),
    )


def _equal(old: Any, new: Any) -> bool:
    if old is None or new is None:
        return old is new
    return old.shape == new.shape and bool(distance.same(old, new).all())


def _known(vector: Any) -> str:
    return "none" if vector is None else f"{len(vector)} channels"


def _json(value: Any) -> Any:
    """A value that JSON has: tuples as lists, numpy's scalars as Python's."""
    return msgspec.to_builtins(value.item() if isinstance(value, np.generic) else value)
