"""The thirty opcodes by which torch.save writes one small tensor, taken in one step, and the tensors after it too.

A state dict is little else than these. Only taken where it changes nothing: the bytes are exactly those opcodes, and
nothing that they put into the memo is ever fetched. All else goes the long way.
"""

from __future__ import annotations

import pickle
import re
from typing import TYPE_CHECKING

from bninspect.files.pickle.nodes import Global
from bninspect.files.pickle.rebuild import STORAGES, declared, storage_key
from bninspect.files.tensors import Tensor

if TYPE_CHECKING:
    from bninspect.files.pickle.machine import Machine

_GET = rb"(?>h.|j....)"  # atomic: an opcode is never tried twice
_PUT = rb"r...."
_INT = rb"(?>K.|M..)"
_LONG = rb"(?>K.|M..|J...[\0-\x7f])"
_TENSOR = (
    rb"\((" + _GET + _GET + rb")"  # a mark, "storage", the type of storage
    + rb"(?:X(.)\0\0\0(0|[1-9][0-9]{0,17})" + _PUT + rb"|(" + _GET + rb"))"  # its key, new or seen before
    + rb"(" + _GET + rb")(" + _LONG + rb")N?t" + _PUT + rb"Q"  # the device, the number of elements, no part
    + rb"(" + _LONG + rb")"  # offset
    + rb"(?:\)\)|(" + _INT + rb")\x85" + _PUT + rb"K\x01\x85" + _PUT + rb")"  # shape and stride
    + rb"[\x88\x89](" + _GET + rb")\)R" + _PUT + rb"t" + _PUT + rb"R" + _PUT  # requires_grad, hooks
)  # fmt: skip
_FIRST = re.compile(rb"()" + _TENSOR, re.DOTALL)  # behind the function that makes it
_NEXT = re.compile(_PUT + rb"(" + _GET + rb")\(" + _TENSOR, re.DOTALL)  # behind the name of an item of a dict
_SHORT = b"\0\0\0"
_number = int.from_bytes  # of an opcode that pushes a number, which stands behind its first byte
_ADJACENT = (1,)


def tensors_ahead(m: Machine) -> bool:
    """Whether a tensor stood at ``m``; it is then on the stack in place of the function that makes it.

    Where names and tensors follow in turn, all of these are on the stack as well, as far as they are alike.
    """
    func = m.stack[-1] if m.stack else None
    if m.awaited is None or not _is(func, "torch._utils", "_rebuild_tensor_v2"):
        return False
    while m.awaited[-1] < m.pos:
        m.awaited.pop()
    start = m.pos
    m.stack.pop()
    _take(m, func, m.awaited[-1])
    if m.pos == start:
        m.stack.append(func)
    return m.pos > start


def _take(m: Machine, func: object, end: int) -> None:
    """The tensor at ``m``, then names and tensors that follow: one loop, in which a large file spends a third of all.

    Args:
        m: the machine, whose stack they are pushed on.
        func: the function that makes tensors.
        end: no byte from here on is looked at.
    """
    data, heads, vectors, push, match = m.data, m.heads, m.vectors, m.stack.append, _NEXT.match
    known, name = {b"": True}, None
    found = _FIRST.match(data, m.pos, end)
    while found is not None:
        get, kind, size, digits, seen, device, count, offset, length, hooks = found.groups()
        if get not in known:
            known[get] = _fetched(m, get) is func
        head = (kind, seen, device, hooks)
        if head not in heads:
            heads[head] = _head(m, *head)
        dtype, key = heads[head]
        if digits is not None:
            key = int(digits) if size[0] == len(digits) else None
        if dtype is None or key is None or not known[get]:
            break
        storage = declared(dtype, key, _number(count, "little") >> 8, m.storages)
        if length not in vectors:
            vectors[length] = (_number(length, "little") >> 8,)
        shape = vectors[length]
        if name is not None:
            push(name)
        push(Tensor(storage, dtype, _number(offset, "little") >> 8, shape, _ADJACENT if shape else ()))
        m.memoized += 4 + (name is not None) + (digits is not None) + 2 * (length is not None)
        pos = m.pos = found.end()
        if not (data.startswith(pickle.BINUNICODE, pos) and data.startswith(_SHORT, pos + 2)):
            break
        begin = pos + 5  # behind the length of the name
        stop = begin + data[pos + 1]
        found = match(data, stop, end)
        if found is not None:
            name = str(data[begin:stop], "utf-8", "surrogatepass")


def _head(
    m: Machine, kind: bytes, seen: bytes | None, device: bytes, hooks: bytes
) -> tuple[str | None, int | str | None]:
    """The type of element, and the key of a storage that was seen before; ``None`` if it is no tensor's after all."""
    word = 2 if kind[:1] == pickle.BINGET else 5
    storage = _fetched(m, kind[word:])
    key = None if seen is None else _fetched(m, seen)
    usual = _fetched(m, kind[:word]) == "storage" and isinstance(_fetched(m, device), str)
    if not (usual and isinstance(storage, Global) and _is(_fetched(m, hooks), "collections", "OrderedDict")):
        return None, None
    return STORAGES.get(storage.name, "unknown"), storage_key(key) if isinstance(key, str) else None


def _is(found: object, module: str, name: str) -> bool:
    return isinstance(found, Global) and found.name == name and found.module == module


def _fetched(m: Machine, opcode: bytes) -> object:
    return m.memo.get(int.from_bytes(opcode[1:], "little"))
