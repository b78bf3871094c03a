"""What a pickle describes, as plain dicts and lists of tensors that are yet to be read; all else is named, not made.

The classes that are understood are few and fixed: tensors and their containers, TensorDataset, numpy's arrays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bninspect.files import limits
from bninspect.files.arrays import Held, pickled_array
from bninspect.files.dtypes import SIZES
from bninspect.files.pickle.nodes import Call, Items
from bninspect.files.refused import Refused
from bninspect.files.tensors import Odd, Tensor
from bninspect.files.values import read_values

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bninspect.files.values import Container

_DICTS = ("collections.OrderedDict", "collections.defaultdict", "builtins.dict")
_DATASETS = ("torch.utils.data.dataset.TensorDataset",)
_ALL = 1 << 40  # elements: what is stored bounds them, whatever is shown


class Foreign:
    """An object of a class that is not understood; ``name`` is the class's, or the function's that would make it."""

    def __init__(self, name: str) -> None:
        self.name = name


def objects_of(top: object, container: Container) -> Any:
    """``top`` with each of its parts made once, however often it is shared, nested or circular.

    Raises:
        Refused: it has more parts than any honest batch.
    """
    made: dict[int, Any] = {}
    todo: list[object] = []

    def of(node: object) -> Any:
        if not isinstance(node, list | tuple | Items | Call | Tensor | Odd):
            return node
        if id(node) not in made:
            made[id(node)] = _empty(node, container)
            todo.append(node)
            if len(made) > limits.PARTS:
                raise Refused(f"it holds more than {limits.PARTS:,} tensors and containers, as no batch does")
        return made[id(node)]

    result = of(top)
    while todo:
        node = todo.pop()
        shell = made[id(node)]
        if isinstance(shell, dict):
            shell.update((key, of(value)) for key, value in _items(node))
        elif isinstance(shell, list):
            shell.extend(map(of, _members(node)))
    return result


def _empty(node: object, container: Container) -> Any:
    """A part without its own parts."""
    if isinstance(node, Tensor):
        return held(node, container)
    if isinstance(node, Odd):
        return Held("unknown", (), None, odd=node.what)
    if isinstance(node, list | tuple):
        return []
    if isinstance(node, Items):
        return {}
    assert isinstance(node, Call)
    path = node.func.path if node.func else "an object"
    if path in _DICTS:
        return {}
    return [] if path in _DATASETS else pickled_array(node) or Foreign(path)


def held(tensor: Tensor, container: Container) -> Held:
    """A tensor of the file that can be read when it is wanted."""
    if tensor.dtype not in SIZES:
        return Held(tensor.dtype, tensor.shape, None, odd="a tensor of a type that is not read")

    def read() -> Any:
        (value,), _ = read_values(container, [tensor], _ALL)
        return value.reshape(tensor.shape)

    return Held(tensor.dtype, tensor.shape, read)


def _items(node: object) -> Iterator[tuple[str, Any]]:
    flat = node.flat if isinstance(node, Items | Call) else None
    if flat is None and isinstance(node, Call) and node.args and isinstance(node.args[0], list):
        flat = [part for pair in node.args[0] if isinstance(pair, list | tuple) and len(pair) == 2 for part in pair]
    flat = flat or []
    for key, value in zip(flat[::2], flat[1::2], strict=False):
        if isinstance(key, str):
            yield key, value
        elif type(key) is int and abs(key) < 1 << 64:
            yield str(key), value


def _members(node: object) -> list[Any] | tuple[Any, ...]:
    if isinstance(node, list | tuple):
        return node
    state = dict(_items(node.state)) if isinstance(node, Call) else {}
    tensors = state.get("tensors")
    return tensors if isinstance(tensors, list | tuple) else ()
