"""Twins of all that belongs to a model, each made once: modules, containers, and functions that lead to modules."""

from __future__ import annotations

import copy
import types
from collections import OrderedDict, deque
from functools import cache, cached_property, partial
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import ReferenceType, ref

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

from bninspect.observe.leads import is_record, is_users, leads

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_SHARED = frozenset({int, float, bool, str, bytes, complex, type(None), type, torch.dtype, torch.device, torch.Size})
_EMPTY = (dict, OrderedDict, set)  # what a module has a dozen of that hold nothing
_COMPILED = "_compiled_call_impl"  # a forward that is compiled in place is bound to the original


class Twins:
    """Twins of everything that belongs to a model, each made once."""

    def __init__(self, model: nn.Module, meta: torch.device | None) -> None:
        self.model, self.meta = model, meta
        self.memo: dict[int, Any] = {}
        self.todo: list[tuple[nn.Module, nn.Module]] = []

    def all(self) -> Any:
        """The twin of the model; modules are filled one after the other, as their attributes may lead in a circle."""
        twin = self.of(self.model)
        while self.todo:
            self._fill(*self.todo.pop())
        return twin

    def of(self, value: Any) -> Any:
        """What stands in the twin where ``value`` stands in the model."""
        kind = type(value)
        if kind in _SHARED:
            return value
        found = self.memo.get(id(value))
        if found is not None:
            return found
        make = _MAKERS.get(kind)
        if make is not None:
            return make(self, value)
        return self._uncommon(value)

    def keep(self, value: Any, twin: T) -> T:
        """Remember the twin of ``value``, before its parts are made: they may lead back to it."""
        self.memo[id(value)] = twin
        return twin

    @cached_property
    def known(self) -> set[int]:
        """Identities of the model's modules and tensors."""
        return {*map(id, self.model.modules()), *map(id, [*self.model.parameters(), *self.model.buffers()])}

    def _uncommon(self, value: Any) -> Any:
        if isinstance(value, nn.Module):
            return self.make_module(value)
        if isinstance(value, Tensor):
            return self.make_parameter(value)
        if isinstance(value, tuple):
            return self.make_tuple(value)
        if isinstance(value, dict | list | set | deque):
            return self.make_subclass(value)
        return self.make_object(value) if is_record(value) or self._is_rebuilt(value) else value

    def _is_rebuilt(self, value: Any) -> bool:
        return is_users(value) and leads(value, self.known)

    # Tensors and modules

    def make_tensor(self, tensor: Tensor) -> Tensor:
        """Of the same memory for a parameter, a clone for any other, of no memory on meta."""
        if is_lazy(tensor):
            kind: Any = type(tensor)
            device = self.meta or tensor.device
            lazy: Tensor = kind(requires_grad=tensor.requires_grad, device=device, dtype=tensor.dtype)
            return lazy
        is_parameter = isinstance(tensor, nn.Parameter)
        if self.meta is not None:
            twin = torch.empty_like(tensor, device=self.meta, requires_grad=False)
        else:
            twin = _alias(tensor) if is_parameter else tensor.detach().clone()
        if not is_parameter:
            return twin
        if not issubclass(type(tensor), nn.Parameter):  # a subclass of Tensor that was made a parameter
            return nn.Parameter(twin, tensor.requires_grad)
        parameter = Tensor._make_subclass(type(tensor), twin, tensor.requires_grad)  # noqa: SLF001  # as Parameter does
        for name, value in vars(tensor).items():
            setattr(parameter, name, value)
        return parameter

    def make_parameter(self, tensor: Tensor) -> Tensor:
        """A tensor, once."""
        return self.keep(tensor, self.make_tensor(tensor))

    def make_module(self, module: nn.Module) -> nn.Module:
        """A module that is yet to be filled."""
        if isinstance(module, torch.jit.ScriptModule):  # its code and its values lie in one object of torch's
            return self.keep(module, copy.deepcopy(module))
        twin: nn.Module = object.__new__(type(module))
        self.todo.append((module, twin))
        return self.keep(module, twin)

    def _fill(self, module: nn.Module, twin: nn.Module) -> None:
        of, memo, attributes = self.of, self.memo, twin.__dict__
        for name, value in module.__dict__.items():
            kind = type(value)
            if kind in _SHARED:
                attributes[name] = value
            elif kind in _EMPTY and not value and id(value) not in memo:
                attributes[name] = memo[id(value)] = kind()
            else:
                attributes[name] = of(value)
        module_kind: Any = type(module)
        for name in _slots(module_kind):
            if hasattr(module, name):
                object.__setattr__(twin, name, of(getattr(module, name)))
        if _COMPILED in attributes:
            attributes[_COMPILED] = None
        wrapped = attributes["_modules"].get("_orig_mod")
        if wrapped is not None and "dynamo_ctx" in attributes:
            attributes["forward"] = wrapped.__call__  # what torch.compile wraps is run as it was before

    # Containers

    def make_dict(self, value: dict[Any, Any]) -> dict[Any, Any]:
        """A dict of twins."""
        twin = self.keep(value, type(value)())
        if value:
            for key, part in value.items():
                twin[key] = self.of(part)
        return twin

    def make_list(self, value: list[Any]) -> list[Any]:
        """A list of twins."""
        twin: list[Any] = self.keep(value, [])
        twin.extend(map(self.of, value))
        return twin

    def make_set(self, value: set[Any]) -> set[Any]:
        """A set of twins."""
        return self.keep(value, {self.of(part) for part in value})

    def make_tuple(self, value: tuple[Any, ...]) -> Any:
        """A tuple of twins, or the same where none of its parts is exchanged."""
        if _SHARED.issuperset(map(type, value)):  # sizes and strides, of which each convolution has five
            return value
        parts = [self.of(part) for part in value]
        if all(new is old for new, old in zip(parts, value, strict=True)):
            return value
        made = value._make(parts) if hasattr(value, "_make") else tuple(parts)
        return self.keep(value, made)

    def make_subclass(self, value: Any) -> Any:
        """A container of a class of its own: a shallow copy, in which the parts are exchanged."""
        twin = self.keep(value, copy.copy(value))
        if isinstance(value, dict):
            for key, part in value.items():
                dict.__setitem__(twin, key, self.of(part))
        elif isinstance(value, set):
            set.clear(twin)
            set.update(twin, [self.of(part) for part in value])
        else:
            for place, part in enumerate(value):
                twin[place] = self.of(part)
        return twin

    def make_object(self, value: Any) -> Any:
        """An object of the same class with the same attributes, made without running any code of the class."""
        twin = self.keep(value, object.__new__(type(value)))
        for name, part in vars(value).items():
            twin.__dict__[name] = self.of(part)
        return twin

    # What leads to modules

    def make_function(self, value: types.FunctionType) -> Any:
        """A function over twins, where its closure, defaults or attributes lead to the model."""
        if not leads(value, self.known):
            return value
        cells = tuple(self._cell(cell) for cell in value.__closure__ or ())
        twin = types.FunctionType(value.__code__, value.__globals__, value.__name__, None, cells or None)
        self.keep(value, twin)
        twin.__defaults__ = self.of(value.__defaults__)
        twin.__kwdefaults__ = self.of(value.__kwdefaults__)
        twin.__qualname__, twin.__module__ = value.__qualname__, value.__module__
        twin.__dict__.update({name: self.of(part) for name, part in vars(value).items()})
        self._fill_cells(value)
        return twin

    def _cell(self, cell: types.CellType) -> types.CellType:
        """A cell of its own where its content leads to a module, else the same, which others may share."""
        twin: types.CellType | None = self.memo.get(id(cell))
        if twin is not None:
            return twin
        try:
            content = cell.cell_contents
        except ValueError:  # empty
            return cell
        return self.keep(cell, types.CellType()) if leads(content, self.known) else cell

    def _fill_cells(self, function: types.FunctionType) -> None:
        for cell in function.__closure__ or ():
            twin = self.memo.get(id(cell))
            if twin is not None:
                twin.cell_contents = self.of(cell.cell_contents)

    def make_method(self, value: types.MethodType) -> types.MethodType:
        """A method of the twin."""
        owner, function = self.of(value.__self__), self.of(value.__func__)
        if owner is value.__self__ and function is value.__func__:
            return value
        return self.keep(value, types.MethodType(function, owner))

    def make_partial(self, value: partial[Any]) -> partial[Any]:
        """A partial of twins, where it leads to the model."""
        if not leads(value, self.known):
            return value
        keywords = {name: self.of(part) for name, part in value.keywords.items()}
        twin = self.keep(value, partial(self.of(value.func), *map(self.of, value.args), **keywords))
        twin.__dict__.update({name: self.of(part) for name, part in vars(value).items()})
        return twin

    def make_reference(self, value: ReferenceType[Any]) -> ReferenceType[Any]:
        """A weak reference to the twin of a part of the model."""
        target = value()
        mine = isinstance(target, nn.Module | nn.Parameter) and id(target) in self.known
        return ref(self.of(target)) if mine else value

    def make_handle(self, value: RemovableHandle) -> RemovableHandle:
        """A handle that removes the twin's hook, and not the user's."""
        hooks = value.hooks_dict_ref()
        if hooks is None:
            return value
        twin = self.keep(value, copy.copy(value))
        twin.hooks_dict_ref = ref(self.of(hooks))
        twin.extra_dict_ref = tuple(
            ref(self.of(found)) for other in value.extra_dict_ref if (found := other()) is not None
        )
        return twin

    def make_copied(self, value: Any) -> Any:
        """Generators and arrays, which a forward may draw from or write into."""
        return self.keep(value, copy.deepcopy(value))

    def make_generator(self, value: torch.Generator) -> torch.Generator:
        """A generator of random numbers in the same state."""
        return self.keep(value, value.clone_state())


@cache
def _slots(kind: type) -> tuple[str, ...]:
    """Names that a class of modules keeps outside of its attributes."""
    own = [vars(base).get("__slots__", ()) for base in kind.__mro__ if base is not object]
    names = [name for slots in own for name in ((slots,) if isinstance(slots, str) else slots)]
    return tuple(name for name in names if name not in ("__dict__", "__weakref__"))


def _alias(tensor: Tensor) -> Tensor:
    """The same memory, with a version counter of its own."""
    if tensor.is_inference():  # which takes no gradients outside of inference mode, however it is viewed
        return tensor.new_empty(0).set_(
            tensor.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride()
        )
    return tensor.data if issubclass(type(tensor), nn.Parameter) else tensor.detach()


_MAKERS: dict[type, Callable[[Twins, Any], Any]] = {
    nn.Parameter: Twins.make_parameter,
    Tensor: Twins.make_parameter,
    dict: Twins.make_dict,
    OrderedDict: Twins.make_dict,
    list: Twins.make_list,
    set: Twins.make_set,
    tuple: Twins.make_tuple,
    types.FunctionType: Twins.make_function,
    types.MethodType: Twins.make_method,
    partial: Twins.make_partial,
    ReferenceType: Twins.make_reference,
    RemovableHandle: Twins.make_handle,
    torch.Generator: Twins.make_generator,
    **dict.fromkeys((bytearray, np.ndarray, np.random.Generator, np.random.RandomState, Random), Twins.make_copied),
}
