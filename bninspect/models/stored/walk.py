"""Through everything that a pickle describes, each object once, looking for BatchNorm layers.

A dict that maps names to tensors is a state dict; an object whose state holds its own tensors is a module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bninspect.files import limits
from bninspect.files.pickle.nodes import Call, Items
from bninspect.files.refused import Refused
from bninspect.files.tensors import Odd, Tensor
from bninspect.models.stored.recognise import FIELDS, UNKNOWN_KIND, VECTORS, Found, counting, grouped, is_batchnorm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bninspect.files.values import Container

_TENSORS = (Tensor, Odd)
_CONTAINERS = (Items, Call, list, tuple)
_TRANSPARENT = ("_parameters", "_buffers", "_modules")
_OWN = frozenset(("eps", "momentum", "affine", "track_running_stats", "training", "num_features"))
_NORM = ("num_features", "eps", "momentum", "affine", "track_running_stats")
_VERSION = 2  # of BatchNorm's and InstanceNorm's state, since num_batches_tracked


class Place:
    """Where a walk stands: a chain of names, joined only where a layer is found."""

    __slots__ = ("depth", "key", "parent", "root")

    def __init__(self, parent: Place | None, key: str, *, root: bool) -> None:
        self.parent = parent
        self.key = key
        self.depth: int = parent.depth + 1 if parent else 0
        self.root = root

    def names(self) -> tuple[str, str]:
        """The section and the name in it: what leads to the model, and what leads on from there."""
        outer: list[str] = []
        inner: list[str] = []
        keys, place = inner, self
        while place.parent is not None:
            if place.root:
                keys = outer
            keys.append(place.key)
            place = place.parent
        return ".".join(reversed([*outer])), ".".join(reversed([*inner]))


class Walk:
    """One walk over one pickle's result; ``found`` and the counters are what it saw."""

    def __init__(self, container: Container, top: object, *, everything: bool = False) -> None:
        self.container = container
        self.found: list[Found] = []
        self.states: dict[str, dict[str, Tensor | Odd]] | None = {} if everything else None
        self.modules = 0
        self.instance_norms = 0
        self.unlike = 0
        self.untracked: list[str] = []
        self.counters: list[str] = []
        self.too_deep = False
        self._characters = 0
        self._run(top)

    def _run(self, top: object) -> None:
        """Visit ``top`` and all that it holds, in the order stored."""
        seen: set[int] = set()
        todo: list[tuple[object, Place]] = [(top, Place(None, "", root=True))]
        while todo:
            node, place = todo.pop()
            if id(node) in seen:
                continue
            seen.add(id(node))
            if len(seen) > limits.ENTRIES:
                raise Refused(f"its pickle has more than {limits.ENTRIES:,} containers")
            children = list(self._visit(node, place))
            if place.depth >= limits.DEPTH:
                self.too_deep |= bool(children)
                continue
            todo.extend(reversed(children))

    def _visit(self, node: object, place: Place) -> Iterator[tuple[object, Place]]:
        if isinstance(node, list | tuple):
            yield from _children(((str(k), value) for k, value in enumerate(node)), place, root=True)
        elif isinstance(node, Items):
            yield from self._mapping(node.flat, None, place)
        elif isinstance(node, Call):
            flat = node.flat if node.flat is not None else _ordered(node)
            state = _state(node.state)
            if flat is not None:
                yield from self._mapping(flat, state.get("_metadata"), place)
            if state and flat is None:
                yield from self._object(node, state, place)
            yield from _children((("", value) for value in (node.args, node.items)), place, root=True)

    def _mapping(self, flat: list[Any], metadata: object, place: Place) -> Iterator[tuple[object, Place]]:
        groups = grouped((key, value) for key, value in _pairs(flat) if isinstance(value, _TENSORS))
        self.counters += counting(key for key, value in _pairs(flat) if isinstance(value, _TENSORS))
        if self.states is not None:
            self._keep_state(flat, place)
        section, _ = place.names()
        for prefix, group in groups.items():
            if not is_batchnorm(group):
                self.unlike += 1
                continue
            if prefix:
                self._append(Found(section, prefix, group, self.container))
            else:  # a dict of one layer's own tensors, in a dict of layers
                outer, _, name = section.rpartition(".")
                self._append(Found(outer, name, group, self.container))
        if metadata is not None:
            self._look_at_versions(metadata, {k: v for k, v in _pairs(flat) if isinstance(v, _TENSORS)}, groups)
        yield from _children(_pairs(flat), place, root=True)

    def _keep_state(self, flat: list[Any], place: Place) -> None:
        tensors = {key: value for key, value in _pairs(flat) if isinstance(value, _TENSORS)}
        if tensors and self.states is not None:
            self.states.setdefault(".".join(filter(None, place.names())), {}).update(tensors)

    def _append(self, found: Found) -> None:
        self._characters += len(found.section) + len(found.name)
        if self._characters > limits.NAME_CHARACTERS:
            raise Refused("its layers' names are longer than those of any honest file")
        self.found.append(found)

    def _look_at_versions(self, metadata: object, tensors: dict[str, Any], groups: dict[str, Any]) -> None:
        """Note layers that are like BatchNorm but for the statistics: of its version and vectors, and no container.

        The version alone proves nothing: torchvision's dense blocks and detection heads have the same.
        """
        versions = {path: dict(_pairs(_flat(entry))).get("version") for path, entry in _pairs(_flat(metadata))}
        outer = {path.rpartition(".")[0] for path in (*versions, *(key.rpartition(".")[0] for key in tensors)) if path}
        own: dict[str, dict[str, Any]] = {
            path: {}
            for path, version in versions.items()
            if version == _VERSION and path not in groups and path not in outer
        }
        for key, tensor in tensors.items():
            path, _, field = key.rpartition(".")
            if path in own:
                own[path][field] = tensor
        self.untracked += (path for path, fields in own.items() if _is_affine(fields))

    def _object(self, node: Call, state: dict[str, Any], place: Place) -> Iterator[tuple[object, Place]]:
        own = {**dict(_pairs(_flat(state.get("_parameters")))), **dict(_pairs(_flat(state.get("_buffers"))))}
        is_module = "_modules" in state or "training" in state
        self.modules += is_module
        if "_buffers" not in state:
            own = state
        self.counters += counting(key for key, value in own.items() if isinstance(value, _TENSORS))
        self._own_layer(node, {k: v for k, v in own.items() if k in FIELDS}, state, place)
        if self.states is not None:
            self._keep(own, _names(state.get("_non_persistent_buffers_set")), place)
        for name, value in state.items():
            pairs = _pairs(_flat(value)) if name in _TRANSPARENT else iter(((name, value),))
            yield from _children(pairs, place, root=not is_module)

    def _keep(self, own: dict[str, Any], without: list[Any], place: Place) -> None:
        """Take a module's own tensors into the state dict that the whole module would give."""
        assert self.states is not None
        section, name = place.names()
        state = self.states.setdefault(section, {})
        for field, value in own.items():
            if isinstance(value, _TENSORS) and field not in without:
                state[f"{name}.{field}" if name else field] = value

    def _own_layer(self, node: Call, own: dict[str, Any], state: dict[str, Any], place: Place) -> None:
        kind = node.func.name.rpartition(".")[2] if node.func else UNKNOWN_KIND
        tensors = {name: value for name, value in own.items() if isinstance(value, _TENSORS)}
        tracked = "running_mean" in tensors and "running_var" in tensors
        if not (tracked and is_batchnorm(tensors)) and not _is_untracked(state, tensors):
            self.unlike += tracked
            return
        if "InstanceNorm" in kind:
            self.instance_norms += tracked
            return
        section, name = place.names()
        attributes = {key: value for key, value in state.items() if key in _OWN}
        self._append(Found(section, name, tensors, self.container, kind=kind, attributes=attributes))


def _is_affine(own: dict[str, Any]) -> bool:
    """Whether a layer's tensors are gamma and beta, vectors of one length, or none of them."""
    shapes = {tensor.shape if isinstance(tensor, Tensor) else None for tensor in own.values()}
    return own.keys() <= {"weight", "bias"} and len(shapes) <= 1 and all(shape and len(shape) == 1 for shape in shapes)


def _is_untracked(state: dict[str, Any], tensors: dict[str, Any]) -> bool:
    """Whether an object has all of BatchNorm's attributes, and says that it keeps no running statistics."""
    features = state.get("num_features")
    return (
        all(name in state for name in _NORM)
        and state["track_running_stats"] is False
        and type(features) is int
        and 0 <= features <= limits.CHANNELS
        and all(
            len(t.shape) == 1 and t.shape[0] == features
            for n, t in tensors.items()
            if n in VECTORS and isinstance(t, Tensor)
        )
    )


def _children(pairs: Any, place: Place, *, root: bool) -> Iterator[tuple[object, Place]]:
    for key, value in pairs:
        if isinstance(value, _CONTAINERS) and _holds_any(value):
            yield value, Place(place, key, root=root) if key else place


def _holds_any(node: Any) -> bool:
    """Whether there is anything in a container: a module has a dozen empty ones for its hooks."""
    if isinstance(node, Call):
        return bool(node.flat or node.args or node.items or node.state is not None)
    return bool(node.flat if isinstance(node, Items) else node)


def _pairs(flat: list[Any]) -> Iterator[tuple[str, Any]]:
    """The items of a dict whose keys are texts or numbers; others name no layer."""
    keys = flat[: len(flat) // 2 * 2 : 2]
    named = keys if set(map(type, keys)) <= {str} else map(_name, keys)
    return zip(named, flat[1::2], strict=True)


def _name(key: object) -> str:
    if isinstance(key, str):
        return key
    return str(key) if type(key) is int and abs(key) < 1 << 64 else "?"


def pairs_of(node: object) -> Iterator[tuple[str, Any]]:
    """The items of a dict, or of nothing."""
    return _pairs(_flat(node))


def _flat(node: object) -> list[Any]:
    if isinstance(node, Items):
        return node.flat
    if isinstance(node, Call):
        return node.flat if node.flat is not None else _ordered(node) or []
    return []


def _ordered(node: Call) -> list[Any] | None:
    """The items of ``OrderedDict([[key, value], ...])``, as Python 2 pickled it; of an empty one too."""
    if node.func is None or node.func.path != "collections.OrderedDict":
        return None
    pairs = node.args[0] if node.args and isinstance(node.args[0], list) else []
    return [part for pair in pairs if isinstance(pair, list | tuple) and len(pair) == 2 for part in pair]


def _names(node: object) -> list[Any]:
    """The members of a set."""
    if isinstance(node, Call) and node.args and isinstance(node.args[0], list):
        return [name for name in node.args[0] if isinstance(name, str)]
    return [name for name in node if isinstance(name, str)] if isinstance(node, list) else []


def _state(state: object) -> dict[str, Any]:
    """What is put into an object, by name; of ``(dict, slots)`` both."""
    parts = state if isinstance(state, tuple) else (state,)
    return {key: value for part in parts for key, value in _pairs(_flat(part))}
