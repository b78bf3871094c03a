"""Which layer of one report is which of another: by path, and what is left by shape and order."""

from __future__ import annotations

from collections import Counter
from difflib import SequenceMatcher
from typing import Any, NamedTuple

_SHAPE = ("num_features", "weight_size", "bias_size", "running_mean_size", "input_shape", "output_shape")
_FINDABLE = 5000  # layers left over; more are not searched for renamed ones


class Pairs(NamedTuple):
    """Layers of two reports: together (in the order of the second), only in the first, only in the second."""

    together: list[tuple[Any, Any]]
    removed: list[Any]
    added: list[Any]


def pair(old: tuple[Any, ...], new: tuple[Any, ...]) -> Pairs:
    """Match layers by path and call; the rest, in order, where kind and shape agree."""
    before, after = _keyed(old), _keyed(new)
    removed = [layer for key, layer in before.items() if key not in after]
    added = [layer for key, layer in after.items() if key not in before]
    renamed = dict(_renamed(removed, added))
    together = []
    for key, layer in after.items():
        if key in before:
            together.append((before[key], layer))
        elif id(layer) in renamed:
            together.append((renamed[id(layer)], layer))
    found = {id(layer) for layer in renamed.values()}
    return Pairs(
        together,
        [layer for layer in removed if id(layer) not in found],
        [layer for layer in added if id(layer) not in renamed],
    )


def in_order(together: list[tuple[Any, Any]], old: tuple[Any, ...]) -> bool:
    """Whether the layers that both have come in the same order."""
    position = {id(layer): index for index, layer in enumerate(old)}
    order = [position[id(before)] for before, _ in together]
    return order == sorted(order)


def _keyed(layers: tuple[Any, ...]) -> dict[tuple[str, int], Any]:
    times: Counter[str] = Counter()
    keyed = {}
    for layer in layers:
        times[layer.path] += 1
        keyed[layer.path, times[layer.path]] = layer
    return keyed


def _renamed(removed: list[Any], added: list[Any]) -> list[tuple[int, Any]]:
    if not removed or not added or max(len(removed), len(added)) > _FINDABLE:
        return []
    kinds = _comparable(removed, added)
    old, new = ([_shape(layer, kinds) for layer in layers] for layers in (removed, added))
    blocks = SequenceMatcher(None, old, new, autojunk=False).get_matching_blocks()
    return [(id(added[block.b + step]), removed[block.a + step]) for block in blocks for step in range(block.size)]


def _comparable(removed: list[Any], added: list[Any]) -> tuple[str, ...]:
    """Fields that both sides know: a file of tensors does not know a layer's class, nor what went through it."""
    both = [name for name in _SHAPE if hasattr(removed[0], name) and hasattr(added[0], name)]
    kinds = {layer.kind for layer in removed} & {layer.kind for layer in added}
    return (*both, "kind") if kinds else tuple(both)


def _shape(layer: Any, fields: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(getattr(layer, name) for name in fields)
