"""Archives of torch.export (.pt2): a graph and a list of weights, both JSON, and the weights' bytes.

The graph's BatchNorm nodes say what a state dict cannot: eps, momentum, mode and class.
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from bninspect.files import limits
from bninspect.files.archive import Archive
from bninspect.files.dtypes import SIZES
from bninspect.files.refused import Refused
from bninspect.files.tensors import Odd, Storage, Tensor
from bninspect.models.stored.checkpoint import tensors_of
from bninspect.models.stored.recognise import FIELDS, UNKNOWN_KIND, Found, by_layer, is_batchnorm

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bninspect.files.archive import Numbers, Records
    from bninspect.files.values import Container

    Exported = tuple[list[Found], dict[str, Tensor | Odd], Container]

_DTYPES = {  # torch's ScalarType, as the format writes it
    1: "uint8",
    2: "int8",
    3: "int16",
    4: "int32",
    5: "int64",
    6: "float16",
    7: "float32",
    8: "float64",
    12: "bool",
    13: "bfloat16",
    29: "float8_e4m3fn",
    30: "float8_e5m2",
    31: "float8_e4m3fnuz",
    32: "float8_e5m2fnuz",
    33: "float8_e8m0fnu",
}
_STRIDED = 7
_WEIGHTS = b"data/weights/"
_OLDER_GRAPH = b"serialized_exported_program.json"
_OLDER_STATE = b"serialized_state_dict.pt"
_OPERATORS: tuple[str, ...] = (
    "batch_norm",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training",
    "native_batch_norm",
)
_OPERATORS += ("cudnn_batch_norm", "_native_batch_norm_legit_functional", "_batch_norm_with_update")


class _Size(msgspec.Struct):
    as_int: int


class _Meta(msgspec.Struct):
    dtype: int
    layout: int
    sizes: list[_Size]
    strides: list[_Size]
    storage_offset: _Size


class _Weight(msgspec.Struct):
    path_name: str
    use_pickle: bool
    tensor_meta: msgspec.Raw


class _Weights(msgspec.Struct):
    config: dict[str, _Weight]


class _Input(msgspec.Struct):
    name: str
    arg: dict[str, Any]


class _Node(msgspec.Struct):
    target: str
    inputs: msgspec.Raw
    metadata: msgspec.Raw


class _Graph(msgspec.Struct):
    nodes: list[_Node]


class _Signature(msgspec.Struct):
    input_specs: list[dict[str, msgspec.Raw]]


class _Module(msgspec.Struct):
    graph: _Graph
    signature: _Signature


class _Program(msgspec.Struct):
    graph_module: _Module


class _Argument(msgspec.Struct):
    name: str


class _Held(msgspec.Struct):
    arg: _Argument
    parameter_name: str | None = None
    buffer_name: str | None = None


class ExportedStorages:
    """Storages that are records of the archive's ``data/weights``."""

    def __init__(self, archive: Archive, root: bytes) -> None:
        self.archive = archive
        self._folder = root + _WEIGHTS
        self.file = archive.file
        name = root + b"byteorder"
        self.big_endian = name in archive.names and archive.read(name, limits.CHUNK) == b"big"

    def positions(self, storages: Sequence[Storage]) -> Numbers:
        """Where the storages' records begin."""
        return self.archive.offsets[self._indices(storages)]

    def records(self, storages: Sequence[Storage]) -> Records:
        """Where the storages' bytes lie; how many elements that are, only the record itself says."""
        records = self.archive.records(self._indices(storages))
        for storage, size in zip(storages, records.size.tolist(), strict=True):
            storage.count = size
        return records

    def _indices(self, storages: Sequence[Storage]) -> Numbers:
        names = [self._folder + str(storage.key).encode("utf-8", "surrogatepass") for storage in storages]
        return np.array([self.archive.index(name) for name in names], np.int64)


def read_exported(archive: Archive, root: bytes, *, everything: bool = False) -> Exported:
    """The layers of a torch.export archive, its tensors (those of BatchNorm's names, or every one), and their holder.

    Raises:
        Refused: its JSON is not as torch.export writes it.
    """
    container = ExportedStorages(archive, root)
    with _understood():
        weights = _decode(archive, root + _WEIGHTS + b"model_weights_config.json", _Weights).config
        program = _decode(archive, root + b"models/model.json", _Program)
        tensors = dict(_tensors(weights, everything=everything))
        return _layers(program, tensors, container), tensors, container


def is_older(archive: Archive) -> bool:
    """Whether it is what torch.export wrote before torch 2.8: the graph as JSON, the state dict by torch.save."""
    return _OLDER_GRAPH in archive.names and _OLDER_STATE in archive.names


def read_older(archive: Archive) -> Exported:
    """The same of such an archive; the file of torch.save within it is read where it lies.

    Raises:
        Refused: one of the two is not as torch writes it.
    """
    record = archive.records(np.array([archive.names[_OLDER_STATE]]))[0]
    if record.packed >= 0:
        raise Refused("its state dict is compressed")
    container, tensors = tensors_of(Archive(archive.file.within(record.start, record.size)))
    with _understood():
        return _layers(_decode(archive, _OLDER_GRAPH, _Program), tensors, container), tensors, container


@contextlib.contextmanager
def _understood() -> Iterator[None]:
    try:
        yield
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Refused("its JSON is not what torch.export writes") from error


def _layers(program: _Program, tensors: dict[str, Tensor | Odd], container: Container) -> list[Found]:
    nodes = dict(_batchnorms(program.graph_module))
    found = []
    for path, group in by_layer(tensors.items()).items():
        tracked = "running_mean" in group and "running_var" in group and is_batchnorm(group)
        if tracked or path in nodes:
            kind, attributes = nodes.get(path, (UNKNOWN_KIND, {}))
            found.append(Found("", path, group, container, kind=kind, attributes=attributes))
    return found


def _decode(archive: Archive, name: bytes, kind: type[Any]) -> Any:
    return msgspec.json.decode(archive.read(name, limits.JSON_BYTES), type=kind)


def _tensors(weights: dict[str, _Weight], *, everything: bool) -> Iterator[tuple[str, Tensor | Odd]]:
    for name, weight in weights.items():
        if everything or name.rpartition(".")[2] in FIELDS:
            yield name, _tensor(weight)


def _tensor(weight: _Weight) -> Tensor | Odd:
    if weight.use_pickle:
        return Odd("a pickle of its own")
    meta = msgspec.json.decode(weight.tensor_meta, type=_Meta)
    if meta.layout != _STRIDED:
        return Odd("a sparse tensor")
    dtype = _DTYPES.get(meta.dtype, "unknown")
    shape, strides = (tuple(size.as_int for size in sizes) for sizes in (meta.sizes, meta.strides))
    if any(size < 0 for size in (*shape, *strides, meta.storage_offset.as_int)) or len(shape) != len(strides):
        raise Refused("its list of weights gives a tensor a shape, a stride or an offset that is no count")
    storage = Storage("untyped", weight.path_name, math.prod(shape) * SIZES.get(dtype, 1))
    return Tensor(storage, dtype, meta.storage_offset.as_int, shape, strides)


def _batchnorms(module: _Module) -> Iterator[tuple[str, tuple[str, dict[str, Any]]]]:
    """The BatchNorm nodes of a graph: path, class and attributes."""
    held = dict(_held(module.signature))
    for node in module.graph.nodes:
        if not any(f".{operator}." in node.target for operator in _OPERATORS):
            continue
        inputs = {one.name: one.arg for one in msgspec.json.decode(node.inputs, type=list[_Input])}
        path = held.get(_name(inputs.get("running_mean")), "")
        stack = msgspec.json.decode(node.metadata, type=dict[str, Any]).get("nn_module_stack")
        owner, kind = _owner(stack)
        attributes = _attributes(inputs, node.target)
        yield (path.rpartition(".")[0] if path else owner), (kind, attributes)


def _held(signature: _Signature) -> Iterator[tuple[str, str]]:
    for spec in signature.input_specs:
        for kind in ("parameter", "buffer"):
            if kind in spec:
                one = msgspec.json.decode(spec[kind], type=_Held)
                yield one.arg.name, one.parameter_name or one.buffer_name or ""


def _name(argument: dict[str, Any] | None) -> str:
    tensor = (argument or {}).get("as_tensor")
    return str(tensor.get("name")) if isinstance(tensor, dict) else ""


def _owner(stack: object) -> tuple[str, str]:
    """Path and class of the innermost module, from ``key,path,class;key,path,class``."""
    parts = stack.rpartition(";")[2].split(",") if isinstance(stack, str) else []
    if len(parts) != 3 or "norm" not in parts[2].lower():
        return "", UNKNOWN_KIND
    return parts[1], parts[2].rpartition(".")[2]


def _attributes(inputs: dict[str, dict[str, Any]], target: str) -> dict[str, Any]:
    attributes = {
        "eps": inputs.get("eps", {}).get("as_float"),
        "momentum": inputs.get("momentum", {}).get("as_float"),
        "training": inputs.get("training", {}).get("as_bool"),
        "affine": _name(inputs.get("weight")) != "",
        "track_running_stats": _name(inputs.get("running_mean")) != "",
    }
    return {**attributes, "training": False} if "no_training" in target else attributes
