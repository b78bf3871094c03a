"""BatchNorm layers among a file's tensors: recognised by their buffers, described by what the file says of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from bninspect.files import limits
from bninspect.files.dtypes import COUNTS, FLOATS
from bninspect.files.refused import Refused
from bninspect.files.tensors import Odd, Tensor
from bninspect.files.values import read_from
from bninspect.layers import BatchNormLayer
from bninspect.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from bninspect.files.values import Container
    from bninspect.report import Vector

VECTORS = ("weight", "bias", "running_mean", "running_var")
FIELDS = frozenset((*VECTORS, "num_batches_tracked"))
COUNTERS = ("n_averaged",)  # of torch.optim.swa_utils.AveragedModel, beside the model's keys and without its prefix
UNKNOWN_KIND = "BatchNorm"
_NONE: Mapping[str, Any] = {}


class Found:
    """One layer: where it is in the file, its tensors, and the attributes that the file says it has.

    ``section`` is the part of the file that holds the whole model, ``name`` the layer's name in it; ``container`` holds
    the tensors, or says for each field what does.
    """

    __slots__ = ("attributes", "container", "kind", "name", "section", "tensors")

    def __init__(
        self,
        section: str,
        name: str,
        tensors: Mapping[str, Tensor | Odd],
        container: Container | Mapping[str, Container],
        *,
        kind: str = UNKNOWN_KIND,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        self.section = section
        self.name = name
        self.tensors = tensors
        self.container = container
        self.kind = kind
        self.attributes = attributes or _NONE


def counting(keys: Iterable[str]) -> list[str]:
    """Those of the keys that count averages of the weights beside them."""
    return [key for key in keys if key.rpartition(".")[2] in COUNTERS]


def grouped(tensors: Iterable[tuple[str, Tensor | Odd]]) -> dict[str, dict[str, Tensor | Odd]]:
    """Tensors by layer and field, from names such as ``bn1.running_mean``; only layers with both statistics."""
    groups = by_layer(tensors)
    return {path: group for path, group in groups.items() if "running_mean" in group and "running_var" in group}


def by_layer(tensors: Iterable[tuple[str, Tensor | Odd]]) -> dict[str, dict[str, Tensor | Odd]]:
    """Tensors by layer and field, of every layer that has a field of BatchNorm's."""
    groups: dict[str, dict[str, Tensor | Odd]] = {}
    for key, tensor in tensors:
        path, _, field = key.rpartition(".")
        if field in FIELDS:
            group = groups.get(path)
            if group is None:
                group = groups[path] = {}
            group[field] = tensor
    return groups


def is_batchnorm(group: Mapping[str, Tensor | Odd]) -> bool:
    """Whether both buffers are vectors of numbers and of one length.

    Raises:
        Refused: they are there, but of a kind that holds no plain values.
    """
    mean, var = group["running_mean"], group["running_var"]
    for tensor in (mean, var):
        if isinstance(tensor, Odd):
            raise Refused(f"the running statistics of a layer are {tensor.what}, which is not read")
        if tensor.shape and tensor.shape[0] > limits.CHANNELS:
            raise Refused(f"a layer has more than {limits.CHANNELS:,} channels")
    return _is_vector(mean) and _is_vector(var) and mean.shape == var.shape  # type: ignore[union-attr]


def _is_vector(tensor: Tensor | Odd | None) -> bool:
    return isinstance(tensor, Tensor) and len(tensor.shape) == 1 and tensor.dtype in FLOATS


class Layers:
    """Turns what was found into layers, reading all of their values in one pass through the file."""

    def __init__(self, found: list[Found]) -> None:
        self.found = found
        self.notes: list[str] = []
        self._misshapen = 0

    def read(self) -> tuple[BatchNormLayer, ...]:
        """The layers with their values; what was found is let go of meanwhile.

        Raises:
            Refused: a value cannot be read, or there are more than any honest file holds.
        """
        paths = self._paths()
        fields = [self._fields(found) for found in self.found]
        types = [_dtype(found.tensors.get("running_mean")) for found in self.found]
        values = iter(self._values(fields))
        layers = [
            _layer(path, found, dtype, dict(zip(names, values, strict=False)))
            for found, path, dtype, names in zip(self.found, paths, types, fields, strict=True)
        ]
        if self._misshapen:
            self.notes.append(
                f"{self._misshapen} tensors do not fit their layer's running statistics and were left out"
            )
        return tuple(layers)

    def _fields(self, found: Found) -> tuple[str, ...]:
        """The names of a layer's tensors that fit each other."""
        mean = found.tensors.get("running_mean")
        length = mean.shape[0] if isinstance(mean, Tensor) and mean.shape else None
        fitting = tuple(field for field, tensor in found.tensors.items() if _fits(field, tensor, length))
        self._misshapen += len(found.tensors) - len(fitting)
        return fitting

    def _values(self, fields: list[tuple[str, ...]]) -> list[Vector]:
        """The vectors of these fields of each layer, one layer after the other."""
        tensors: list[Any] = []
        holders: list[Any] = []
        for found, names in zip(self.found, fields, strict=True):
            tensors += map(found.tensors.__getitem__, names)
            held = found.container
            holders += map(held.__getitem__, names) if isinstance(held, dict) else [held] * len(names)
            found.tensors = {}
        values, complete = read_from(holders, tensors)
        if not complete:
            self.notes.append("records of more than a gigabyte were read in part, without their checksum")
        return values

    def _paths(self) -> list[str]:
        sections = dict.fromkeys(found.section for found in self.found)
        if sum(len(found.section) + len(found.name) for found in self.found) > limits.NAME_CHARACTERS:
            raise Refused("its layers' names are longer than those of any honest file")
        if len(sections) <= 1:
            self.notes += [f"found under '{printable(section)}'" for section in sections if section]
            return [found.name for found in self.found]
        shown = ", ".join(f"'{printable(section)}'" for section in list(sections)[:4])
        more = f" and {len(sections) - 4} more" if len(sections) > 4 else ""
        self.notes.append(
            f"{len(sections)} sets of layers side by side, under {shown}{more}: each path begins with its set's name"
        )
        return [".".join(filter(None, (found.section, found.name))) for found in self.found]


def _fits(field: str, tensor: Tensor | Odd, length: int | None) -> bool:
    if not isinstance(tensor, Tensor):
        return False
    if field == "num_batches_tracked":
        return tensor.dtype in COUNTS and math.prod(tensor.shape) == 1 and len(tensor.shape) <= 1
    if not _is_vector(tensor):
        return False
    return length is None or tensor.shape[0] == length


def _dtype(tensor: Tensor | Odd | None) -> str | None:
    return tensor.dtype if isinstance(tensor, Tensor) else None


def _layer(path: str, found: Found, dtype: str | None, values: dict[str, Vector]) -> BatchNormLayer:
    tracked, attributes = values.get("num_batches_tracked"), found.attributes
    return BatchNormLayer(
        path=path,
        kind=found.kind,
        num_features=_features(values, attributes),
        eps=_number(attributes.get("eps")),
        momentum=_number(attributes.get("momentum")),
        affine=_flag(attributes.get("affine"), "weight" in values or "bias" in values),
        track_running_stats=_flag(attributes.get("track_running_stats"), "running_mean" in values),
        training=_flag(attributes.get("training"), None),
        num_batches_tracked=None if tracked is None else int(tracked.item()),
        dtype=dtype if "running_mean" in values else None,
        weight=values.get("weight"),
        bias=values.get("bias"),
        running_mean=values.get("running_mean"),
        running_var=values.get("running_var"),
    )


def _features(values: Mapping[str, Vector], attributes: Mapping[str, Any]) -> int:
    for name in VECTORS:
        if name in values:
            return len(values[name])
    return int(attributes.get("num_features", 0))


def _number(value: object) -> float | None:
    try:
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    except OverflowError:
        return None


def _flag(value: object, otherwise: bool | None) -> bool | None:  # noqa: FBT001
    return value if isinstance(value, bool) else otherwise
