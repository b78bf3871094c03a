"""What each opcode of pickle protocols 0 to 5 does to the machine: one small function each, in one table.

An opcode that is left out (extension registry, out-of-band buffers) refuses the file, as does a byte that is no opcode.
"""

from __future__ import annotations

import pickle
import struct
from typing import TYPE_CHECKING, Any

from bninspect.files import limits
from bninspect.files.pickle.literals import LITERALS
from bninspect.files.pickle.nodes import Call, Global, Items
from bninspect.files.pickle.rebuild import persistent, rebuilt
from bninspect.files.pickle.shortcut import tensors_ahead
from bninspect.files.refused import Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from bninspect.files.pickle.machine import Machine

_U32 = struct.Struct("<I").unpack_from
_MARK = pickle.MARK[0]


class Stop(Exception):  # noqa: N818 - a signal, not an error
    """The STOP opcode."""


def _unknown(m: Machine) -> None:
    raise Refused(f"its pickle has an opcode that no checkpoint needs (0x{m.data[m.pos - 1]:02x})")


def _stop(_: Machine) -> None:
    raise Stop


def _proto(m: Machine) -> None:
    if m.data[m.pos] > pickle.HIGHEST_PROTOCOL:
        raise Refused(f"its pickle has protocol {m.data[m.pos]}, which this version cannot read")
    m.pos += 1


def _frame(m: Machine) -> None:
    m.take(8)


# Stack


def _mark(m: Machine) -> None:
    if m.data[m.pos] == _MARK and tensors_ahead(m):
        return
    m.marks.append(len(m.stack))


def _pop(m: Machine) -> None:
    if m.marks and m.marks[-1] == len(m.stack):
        m.marks.pop()
    else:
        m.stack.pop()


def _pop_mark(m: Machine) -> None:
    m.marked()


def _dup(m: Machine) -> None:
    m.stack.append(m.stack[-1])


# Memo


def _binput(m: Machine) -> None:
    index = m.data[m.pos]
    m.pos += 1
    m.memoized += 1
    if m.keep[index]:
        m.memo[index] = m.stack[-1]
        m.heads.clear()


def _long_binput(m: Machine) -> None:
    index = m.data[m.pos : m.pos + 4]
    m.pos += 4
    if m.kept is None or index in m.kept or len(index) < 4:
        m.remember(_U32(index)[0])
    else:
        m.memoized += 1


def _put(m: Machine) -> None:
    m.remember(int(m.line()))


def _memoize(m: Machine) -> None:
    m.remember(m.memoized)


def _binget(m: Machine) -> None:
    m.stack.append(m.memo[m.data[m.pos]])
    m.pos += 1


def _long_binget(m: Machine) -> None:
    m.stack.append(m.memo[_U32(m.data, m.pos)[0]])
    m.pos += 4


def _get(m: Machine) -> None:
    index = m.line()
    if not index.isdigit():
        raise Refused("its pickle fetches an object by something that is no number")
    m.stack.append(m.memo[int(index[: limits.PICKLE_DIGITS])])


# Containers


def _empty_list(m: Machine) -> None:
    m.stack.append([])


def _empty_dict(m: Machine) -> None:
    m.stack.append(Items())


def _list(m: Machine) -> None:
    m.stack.append(m.marked())


def _empty_tuple(m: Machine) -> None:
    m.stack.append(())


def _tuple(m: Machine) -> None:
    m.stack.append(tuple(m.marked()))


def _tuple1(m: Machine) -> None:
    m.stack[-1] = (m.stack[-1],)


def _tuple2(m: Machine) -> None:
    m.stack[-2:] = [(m.stack[-2], m.stack[-1])]


def _tuple3(m: Machine) -> None:
    m.stack[-3:] = [(m.stack[-3], m.stack[-2], m.stack[-1])]


def _dict(m: Machine) -> None:
    made = Items()
    made.flat = _pairs(m.marked())
    m.stack.append(made)


def _pairs(flat: list[Any]) -> list[Any]:
    if len(flat) % 2:
        raise Refused("its pickle sets a dict's key without a value")
    return flat


def _add(target: object, values: list[Any]) -> None:
    if isinstance(target, Call):
        target.items = [] if target.items is None else target.items
        target = target.items
    if not isinstance(target, list):
        raise Refused("its pickle appends to something that is no list")
    target.extend(values)


def _append(m: Machine) -> None:
    value = m.stack.pop()
    _add(m.stack[-1], [value])


def _appends(m: Machine) -> None:
    values = m.marked()
    _add(m.stack[-1], values)


def _set(target: object, flat: list[Any]) -> None:
    if isinstance(target, Call) and target.flat is None:
        target.flat = flat
    elif isinstance(target, Items | Call) and target.flat is not None:
        target.flat.extend(flat)
    else:
        raise Refused("its pickle sets an item of something that is no dict")


def _setitem(m: Machine) -> None:
    value, key = m.stack.pop(), m.stack.pop()
    _set(m.stack[-1], [key, value])


def _setitems(m: Machine) -> None:
    flat = _pairs(m.marked())
    _set(m.stack[-1], flat)


# Objects


def _global_text(m: Machine) -> Global:
    return Global(str(m.line(), "utf-8"), str(m.line(), "utf-8"))


def _global(m: Machine) -> None:
    m.stack.append(_global_text(m))


def _stack_global(m: Machine) -> None:
    name, module = m.stack.pop(), m.stack.pop()
    if not (isinstance(name, str) and isinstance(module, str)):
        raise Refused("its pickle names a class by something that is no text")
    m.stack.append(Global(module, name))


def _call(m: Machine, func: object, args: object) -> None:
    if not isinstance(args, tuple):
        raise Refused("its pickle calls something with arguments that are no tuple")
    m.stack.append(rebuilt(func if isinstance(func, Global) else None, args))


def _reduce(m: Machine) -> None:
    args, func = m.stack.pop(), m.stack.pop()
    _call(m, func, args)


def _newobj_ex(m: Machine) -> None:
    keywords, args, func = m.stack.pop(), m.stack.pop(), m.stack.pop()
    del keywords
    _call(m, func, args)


def _inst(m: Machine) -> None:
    func = _global_text(m)
    _call(m, func, tuple(m.marked()))


def _obj(m: Machine) -> None:
    func, *args = m.marked()
    _call(m, func, tuple(args))


def _build(m: Machine) -> None:
    state = m.stack.pop()
    target = m.stack[-1]
    if not isinstance(target, Call):
        raise Refused("its pickle sets the state of something that is no object")
    target.state = state


def _persid(_: Machine) -> None:
    raise Refused("its pickle refers to storages by text, as no version of torch.save does")


def _binpersid(m: Machine) -> None:
    m.stack.append(persistent(m.stack.pop(), m.storages))


_OPCODES: dict[bytes, Callable[[Machine], None]] = {
    **LITERALS,
    pickle.PROTO: _proto,
    pickle.FRAME: _frame,
    pickle.STOP: _stop,
    pickle.MARK: _mark,
    pickle.POP: _pop,
    pickle.POP_MARK: _pop_mark,
    pickle.DUP: _dup,
    pickle.BINPUT: _binput,
    pickle.LONG_BINPUT: _long_binput,
    pickle.PUT: _put,
    pickle.MEMOIZE: _memoize,
    pickle.BINGET: _binget,
    pickle.LONG_BINGET: _long_binget,
    pickle.GET: _get,
    pickle.EMPTY_TUPLE: _empty_tuple,
    pickle.EMPTY_LIST: _empty_list,
    pickle.LIST: _list,
    pickle.APPEND: _append,
    pickle.APPENDS: _appends,
    pickle.EMPTY_DICT: _empty_dict,
    pickle.DICT: _dict,
    pickle.SETITEM: _setitem,
    pickle.SETITEMS: _setitems,
    pickle.EMPTY_SET: _empty_list,
    pickle.ADDITEMS: _appends,
    pickle.FROZENSET: _list,
    pickle.TUPLE: _tuple,
    pickle.TUPLE1: _tuple1,
    pickle.TUPLE2: _tuple2,
    pickle.TUPLE3: _tuple3,
    pickle.GLOBAL: _global,
    pickle.STACK_GLOBAL: _stack_global,
    pickle.REDUCE: _reduce,
    pickle.NEWOBJ: _reduce,
    pickle.NEWOBJ_EX: _newobj_ex,
    pickle.INST: _inst,
    pickle.OBJ: _obj,
    pickle.BUILD: _build,
    pickle.PERSID: _persid,
    pickle.BINPERSID: _binpersid,
}
TABLE = tuple(_OPCODES.get(bytes([opcode]), _unknown) for opcode in range(256))
