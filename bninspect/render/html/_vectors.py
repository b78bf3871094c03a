"""Channel vectors on a page: one block of float32 that the script cuts into layers and fields."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

if TYPE_CHECKING:
    from bninspect.report import Float64


class Vectors(NamedTuple):
    """``block`` holds, field by field, the vectors of all layers one after the other, as little-endian float32.

    ``unit`` is what an entry of a vector is of: a channel, or a step. ``chosen`` is the layer that is looked at first.
    """

    fields: tuple[str, ...]
    layers: tuple[dict[str, Any], ...]
    block: bytes
    unit: str = "channel"
    chosen: int = 0

    def data(self) -> dict[str, Any]:
        """What the page's script reads."""
        block = base64.b64encode(self.block).decode()
        return {"fields": self.fields, "layers": self.layers, "block": block, "unit": self.unit, "chosen": self.chosen}


def without(report: Any) -> Any:
    """The report without its channels: a page lists layers, and shows the channels of one at a time."""
    if not any(getattr(layer, "channels", None) is not None for layer in getattr(report, "layers", ())):
        return report
    layers = tuple(msgspec.structs.replace(layer, channels=None) for layer in report.layers)
    return msgspec.structs.replace(report, layers=layers)


def pack(report: Any, wanted: tuple[str, ...]) -> Vectors | None:
    """The vectors of these names, of a report that holds any."""
    layers = [layer for layer in getattr(report, "layers", ()) if getattr(layer, "channels", None) is not None]
    if not layers:
        return None
    fields = [name for name in wanted if any(getattr(layer.channels, name) is not None for layer in layers)]
    rows, start = [], 0
    for layer in layers:
        size = _size(layer)
        rows.append({"path": layer.path or layer.kind, "size": size, "start": start, "eps": getattr(layer, "eps", 0)})
        start += size
    parts = [_vector(layer, name, row["size"]) for name in fields for layer, row in zip(layers, rows, strict=True)]
    return Vectors(tuple(fields), tuple(rows), packed(parts))


def packed(parts: list[Float64]) -> bytes:
    """Vectors one after the other; what float32 cannot hold is infinite."""
    with np.errstate(over="ignore"):
        return np.concatenate(parts).astype("<f4").tobytes()


def _size(layer: Any) -> int:
    """How many channels the report holds of a layer: all, or a choice of them."""
    vectors = (getattr(layer.channels, name) for name in layer.channels.__struct_fields__)
    return next((len(vector) for vector in vectors if vector is not None), 0)


def _vector(layer: Any, name: str, size: int) -> Float64:
    found = getattr(layer.channels, name)
    return np.full(size, np.nan) if found is None else np.asarray(found, np.float64)
