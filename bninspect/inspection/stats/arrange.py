"""Order and choose what a statistics report shows: ``--channels``, ``--sort`` and ``--top``."""

from __future__ import annotations

import difflib

import msgspec
import numpy as np

from bninspect.errors import InputError
from bninspect.report import Channels, StatsLayer, StatsReport


def arrange(report: StatsReport, *, channels: bool, sort: str | None, top: int | None) -> StatsReport:
    """The report with or without its channels, the ``top`` layers (or channels of all layers) by ``sort`` first.

    Numbers are ordered by their size regardless of sign, largest first; names alphabetically.

    Raises:
        InputError: there is no such column.
    """
    if sort is not None:
        _known(sort, channels=channels)
    replace = msgspec.structs.replace
    if not channels:
        layers = _ordered(report.layers, sort)[:top]
        return replace(report, layers=tuple(replace(layer, channels=None) for layer in layers), sorted_by=sort)
    if top is None or sort is None:
        kept = report.layers if top is None else tuple(_first(layer, top) for layer in report.layers)
        return replace(report, layers=kept, sorted_by=sort)
    return replace(report, layers=_largest(report.layers, sort, top), sorted_by=sort)


def _known(sort: str, *, channels: bool) -> None:
    known = (Channels if channels else StatsLayer).__struct_fields__
    names = [name for name in known if name not in {"index", "channels"}]
    if sort not in names:
        near = difflib.get_close_matches(sort, names, 3, 0.5) or names[:6]
        what = "column of a channel" if channels else "column of a layer (--channels has those of a channel)"
        raise InputError(f"{sort!r} is no {what}: try {', '.join(near)}")


def _ordered(layers: tuple[StatsLayer, ...], sort: str | None) -> list[StatsLayer]:
    if sort is None:
        return list(layers)
    known = [layer for layer in layers if getattr(layer, sort) is not None]
    unknown = [layer for layer in layers if getattr(layer, sort) is None]
    if known and isinstance(getattr(known[0], sort), str):
        return sorted(known, key=lambda layer: str(getattr(layer, sort))) + unknown
    return sorted(known, key=lambda layer: abs(float(getattr(layer, sort))), reverse=True) + unknown


def _first(layer: StatsLayer, top: int) -> StatsLayer:
    return _keep(layer, np.arange(min(top, layer.num_features)))


def _largest(layers: tuple[StatsLayer, ...], sort: str, top: int) -> tuple[StatsLayer, ...]:
    """Of all channels of all layers, those with the ``top`` largest values; layers without any are left out."""
    sizes = [_sizes(layer, sort) for layer in layers]
    flat = np.concatenate(sizes) if sizes else np.empty(0)
    chosen = np.zeros(len(flat), dtype=bool)
    chosen[np.argsort(-flat, kind="stable")[:top]] = True
    ends = np.cumsum([len(size) for size in sizes])
    parts = np.split(chosen, ends[:-1]) if sizes else []
    return tuple(_keep(layer, np.flatnonzero(part)) for layer, part in zip(layers, parts, strict=True) if part.any())


def _sizes(layer: StatsLayer, sort: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    vector = None if layer.channels is None else getattr(layer.channels, sort)
    if vector is None:
        return np.full(layer.num_features, -1.0)
    sizes: np.ndarray[tuple[int], np.dtype[np.float64]] = np.abs(vector.astype(np.float64))
    return np.where(np.isnan(sizes), -1.0, sizes)


def _keep(layer: StatsLayer, index: np.ndarray[tuple[int], np.dtype[np.intp]]) -> StatsLayer:
    channels = layer.channels
    assert channels is not None
    vectors = {
        name: None if getattr(channels, name) is None else getattr(channels, name)[index]
        for name in Channels.__struct_fields__
    }
    return msgspec.structs.replace(layer, channels=Channels(**{**vectors, "index": index}))
