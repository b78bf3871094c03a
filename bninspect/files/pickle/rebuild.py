"""The few calls by which torch's pickles make tensors, told apart by name: each becomes a Tensor, and nothing runs."""

from __future__ import annotations

import math
from typing import Any

from bninspect.files import limits
from bninspect.files.pickle.nodes import Call, Global
from bninspect.files.refused import Refused
from bninspect.files.tensors import Odd, Part, Storage, Tensor, reach

STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "untyped",
}
_ODD = {
    "_rebuild_sparse_tensor": "a sparse tensor",
    "_rebuild_sparse_csr_tensor": "a sparse tensor",
    "_rebuild_qtensor": "a quantized tensor",
    "_rebuild_nested_tensor": "a nested tensor",
    "_rebuild_meta_tensor_no_storage": "a meta tensor, which has no values",
    "_rebuild_wrapper_subclass": "a tensor subclass of its own making",
    "_rebuild_device_tensor_from_numpy": "a tensor stored as a numpy array",
    "_rebuild_device_tensor_from_cpu_tensor": "a tensor stored for another device",
}
_NESTED_SUBCLASSES = 4
_KEY_DIGITS = 18


def storage_key(text: str) -> int | str:
    """A storage's key; a number as torch writes it becomes one, so that no two texts become the same."""
    canonical = text.isascii() and text.isdigit() and len(text) <= _KEY_DIGITS and (text[0] != "0" or len(text) == 1)
    return int(text) if canonical else text


def persistent(pid: object, storages: dict[int | str, Storage]) -> Storage | Part | Global:
    """What a persistent id stands for: a storage, or in a legacy file a part of one, or the class of a module."""
    match pid:
        case ("storage", Global() as kind, str(key), str(), int(count)) if count >= 0:
            return declared(STORAGES.get(kind.name, "unknown"), storage_key(key), count, storages)
        case ("storage", Global() as kind, str(key), str(), int(count), part) if count >= 0:
            return _part(declared(STORAGES.get(kind.name, "unknown"), storage_key(key), count, storages), part)
        case ("module", Global() as cls, _, _):
            return cls
    raise Refused("its pickle refers to a storage in a way that torch.save does not")


def declared(dtype: str, key: int | str, count: int, storages: dict[int | str, Storage]) -> Storage:
    """The storage of this key, of which the pickle must always say the same.

    Raises:
        Refused: it said otherwise before.
    """
    known = storages.get(key)
    if known is None:
        known = storages[key] = Storage(dtype, key, count)
    elif known.dtype != dtype or known.count != count:
        raise Refused("its pickle declares one storage twice, each time otherwise")
    return known


def _part(storage: Storage, part: object) -> Storage | Part:
    match part:
        case None:
            return storage
        case (str(), int(offset), int(count)) if offset >= 0 and count >= 0 and offset + count <= storage.count:
            return Part(storage, offset, count)
    raise Refused("its pickle names a part of a storage that lies outside of it")


def rebuilt(func: Global | None, args: tuple[Any, ...]) -> object:
    """What a call makes: a tensor where torch's rebuilding functions are named, else a description of the call."""
    if func is None:
        return Call(None, args)
    if func.module == "torch._utils":
        return _rebuilt_by_utils(func, args)
    if func.module == "torch._tensor" and func.name == "_rebuild_from_type_v2":
        return _of_subclass(args)
    return Call(func, args)


def _rebuilt_by_utils(func: Global, args: tuple[Any, ...]) -> object:
    if args and isinstance(args[0], Part):
        return _of_part(func, args[0], args)
    match func.name, args:
        case ("_rebuild_tensor_v2" | "_rebuild_tensor", (Storage() as storage, offset, shape, strides, *_)):
            return _tensor(storage, storage.dtype, offset, shape, strides)
        case (
            "_rebuild_tensor_v3",
            (Storage() as storage, offset, shape, strides, _, _, Global() as dtype, *_),
        ):
            return _tensor(storage, dtype.name, offset, shape, strides)
        case ("_rebuild_parameter" | "_rebuild_parameter_with_state", (Tensor() | Odd() as data, *_)):
            return data
    if func.name in _ODD:
        return Odd(_ODD[func.name])
    return Call(func, args)


def _of_part(func: Global, part: Part, args: tuple[Any, ...]) -> object:
    """A tensor on a part of a storage: the same tensor on the whole of it, further on."""
    made = _rebuilt_by_utils(func, (part.storage, *args[1:]))
    if isinstance(made, Tensor):
        if math.prod(made.shape) and made.offset + reach(made) >= part.count:
            raise Refused("a tensor reaches beyond its part of a storage")
        made.offset += part.offset
    return made


def _of_subclass(args: tuple[Any, ...]) -> object:
    """``_rebuild_from_type_v2(func, type, args, state)``: a tensor with a class or attributes of its own."""
    for _ in range(_NESTED_SUBCLASSES):
        match args:
            case (Global(name="_rebuild_from_type_v2"), _, tuple() as inner, *_):
                args = inner
            case (Global() as func, _, tuple() as inner, *_):
                return rebuilt(func, inner) if func.module == "torch._utils" else Call(func, inner)
            case _:
                break
    raise Refused("its pickle rebuilds a tensor in a way that torch.save does not")


def _tensor(storage: Storage, dtype: str, offset: object, shape: object, strides: object) -> Tensor:
    if not (_counts(shape) and _counts(strides) and type(offset) is int and offset >= 0):
        raise Refused("its pickle gives a tensor a shape, a stride or an offset that is no count")
    if len(shape) != len(strides) or len(shape) > limits.DIMENSIONS:  # type: ignore[arg-type]
        raise Refused("its pickle gives a tensor a shape that does not fit its strides")
    return Tensor(storage, dtype, offset, shape, strides)  # type: ignore[arg-type]


def _counts(sizes: object) -> bool:
    return type(sizes) is tuple and all(type(size) is int and size >= 0 for size in sizes)
