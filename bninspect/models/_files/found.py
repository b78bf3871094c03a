"""BatchNorm layers among a file's tensors: recognised by their buffers, described by what the file says of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from bninspect.layers import BatchNormLayer
from bninspect.models._files import limits
from bninspect.models._files.dtypes import COUNTS, FLOATS
from bninspect.models._files.nodes import Odd, Refused, Tensor
from bninspect.models._files.values import Wanted, fill
from bninspect.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from bninspect.models._files.values import Container
    from bninspect.report import Vector

VECTORS = ("weight", "bias", "running_mean", "running_var")
FIELDS = frozenset((*VECTORS, "num_batches_tracked"))
UNKNOWN_KIND = "BatchNorm"


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
        self.tensors = dict(tensors)
        self.container = container
        self.kind = kind
        self.attributes = attributes or {}


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
            groups.setdefault(path, {})[field] = tensor
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
        """The layers with their values.

        Raises:
            Refused: a value cannot be read, or there are more than any honest file holds.
        """
        paths = self._paths()
        wanted = [self._wanted(found) for found in self.found]
        if not fill(one for fields in wanted for one in fields.values()):
            self.notes.append("records of more than a gigabyte were read in part, without their checksum")
        layers = tuple(map(_layer, paths, self.found, wanted))
        if self._misshapen:
            self.notes.append(
                f"{self._misshapen} tensors do not fit their layer's running statistics and were left out"
            )
        return layers

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

    def _wanted(self, found: Found) -> dict[str, Wanted]:
        mean = found.tensors.get("running_mean")
        length = mean.shape[0] if isinstance(mean, Tensor) and mean.shape else None
        fields = {}
        for field, tensor in found.tensors.items():
            if _fits(field, tensor, length):
                held = found.container
                fields[field] = Wanted(held[field] if isinstance(held, dict) else held, tensor)  # type: ignore[arg-type]
            else:
                self._misshapen += 1
        return fields


def _fits(field: str, tensor: Tensor | Odd, length: int | None) -> bool:
    if not isinstance(tensor, Tensor):
        return False
    if field == "num_batches_tracked":
        return tensor.dtype in COUNTS and math.prod(tensor.shape) == 1 and len(tensor.shape) <= 1
    if not _is_vector(tensor):
        return False
    return length is None or tensor.shape[0] == length


def _layer(path: str, found: Found, wanted: dict[str, Wanted]) -> BatchNormLayer:
    vectors: dict[str, Vector | None] = {name: wanted[name].vector for name in VECTORS if name in wanted}
    tracked = wanted["num_batches_tracked"].vector if "num_batches_tracked" in wanted else None
    attributes = found.attributes
    return BatchNormLayer(
        path=path,
        kind=found.kind,
        num_features=_features(vectors, attributes),
        eps=_number(attributes.get("eps")),
        momentum=_number(attributes.get("momentum")),
        affine=_flag(attributes.get("affine"), "weight" in vectors or "bias" in vectors),
        track_running_stats=_flag(attributes.get("track_running_stats"), "running_mean" in vectors),
        training=_flag(attributes.get("training"), None),
        num_batches_tracked=None if tracked is None else int(tracked.flat[0]),
        dtype=wanted["running_mean"].tensor.dtype if "running_mean" in wanted else None,
        weight=vectors.get("weight"),
        bias=vectors.get("bias"),
        running_mean=vectors.get("running_mean"),
        running_var=vectors.get("running_var"),
    )


def _features(vectors: Mapping[str, Vector | None], attributes: Mapping[str, Any]) -> int:
    for vector in vectors.values():
        if vector is not None:
            return len(vector)
    return int(attributes.get("num_features", 0))


def _number(value: object) -> float | None:
    try:
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    except OverflowError:
        return None


def _flag(value: object, otherwise: bool | None) -> bool | None:  # noqa: FBT001
    return value if isinstance(value, bool) else otherwise
