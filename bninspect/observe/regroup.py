"""Images of several steps put into other groups: which tensors and lists of a step have an entry for each image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bninspect.containers import has_names
from bninspect.errors import InputError
from bninspect.observe.forward import brief
from bninspect.observe.steps import leaves, mapped, parts_of, with_parts
from bninspect.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bninspect.observe.steps import Path

    Inputs = tuple[Any, ...]

_SHARED = (str, bytes, int, float, complex, bool, type(None))  # the same for all images of a step


class UncutError(InputError):
    """The images of a step cannot be told apart."""


class Cut:
    """How the inputs of a forward are cut into images.

    A tensor whose first dimension, or a list whose length, is the number of images has an entry for each of them.
    Single numbers and words belong to all of them. A list of as many tensors as they have entries may be either: where
    its tensors differ in kind, as images and labels do, they are taken for columns.

    Args:
        inputs: of one forward.
        images: how many they hold.

    Raises:
        UncutError: something in them is of another length, or is no tensor, or may be cut in two ways.
    """

    def __init__(self, inputs: Inputs, images: int) -> None:
        self.places = tuple(path for name, part in enumerate(inputs) for path in _places(part, images, (name,)))
        if not self.places:
            raise UncutError(f"nothing in a step has an entry for each of its {images} images")

    def images(self, inputs: Inputs) -> int:
        """How many images other inputs like these hold."""
        return len(_at(inputs, self.places[0]))

    def rows(self, inputs: Inputs, index: Tensor) -> Inputs:
        """The images with these numbers."""
        return tuple(self._changed(inputs, lambda value, _: _rows(value, index)))

    def joined(self, steps: Sequence[Inputs]) -> Inputs:
        """The images of several steps as those of one.

        Raises:
            UncutError: they are of different sizes, or what belongs to all images of a step differs between steps.
        """
        if len(steps) == 1:
            return steps[0]
        try:
            sizes = {tuple(_size(_at(step, path)) for path in self.places) for step in steps}
            shared = [_shared(step, self.places) for step in steps]
            if len(sizes) == 1 and all(same == shared[0] for same in shared):
                return tuple(self._changed(steps[0], lambda _, path: _together([_at(step, path) for step in steps])))
        except (RuntimeError, TypeError, ValueError, AttributeError) as error:
            raise UncutError(f"the pieces of the batch cannot be put together: {brief(error)}") from error
        if len(sizes) > 1:
            raise UncutError(
                f"the pieces of the batch have {len(sizes)} different sizes, and are no images of one batch"
            )
        raise UncutError("the pieces of the batch differ in what belongs to all of their images")

    def _changed(self, value: Any, change: Callable[[Any, Path], Any], path: Path = ()) -> Any:
        if path in self.places:
            return change(value, path)
        parts = parts_of(value)
        if parts is None:
            return value
        return with_parts(value, {name: self._changed(part, change, (*path, name)) for name, part in parts.items()})


def length_of(inputs: Inputs) -> int | None:
    """How many images a step holds, where that can be told without a run: of a tensor, and of what names tensors."""
    (step,) = inputs
    found = [step] if isinstance(step, Tensor) else [*(parts_of(step) or {}).values()] if has_names(step) else []
    lengths = {len(value) for value in found if isinstance(value, Tensor) and value.dim()}
    return lengths.pop() if len(lengths) == 1 else None


def split(inputs: Inputs, size: int) -> Iterator[Inputs]:
    """The images of a step by so many.

    Raises:
        InputError: it cannot.
    """
    images = length_of(inputs)
    if images is None:
        raise InputError(
            "batch_size splits tensors, alone or named in a step and of one length; forward runs other steps as they "
            "come: let the loader make smaller ones"
        )
    cut = Cut(inputs, images)
    for start in range(0, images, size):
        yield inputs if images <= size else cut.rows(inputs, torch.arange(start, min(start + size, images)))


def _places(value: Any, images: int, path: Path) -> Iterator[Path]:
    """The paths of what has an entry for each image."""
    if isinstance(value, Tensor) and value.dim():
        if len(value) != images:
            raise UncutError(f"{_named(path)} has {len(value)} entries, and the step {images} images")
        yield path
        return
    parts = parts_of(value)
    if parts is None:
        if not isinstance(value, (Tensor, *_SHARED)):
            raise UncutError(f"{_named(path)} is a {type(value).__name__}, which cannot be cut into images")
    elif _is_list(value) and len(value) == images and not _are_columns(value, images):
        yield path
    else:
        for name, part in parts.items():
            yield from _places(part, images, (*path, name))


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and not hasattr(value, "_fields")


def _are_columns(value: Sequence[Any], images: int) -> bool:
    """Whether the parts of a list have an entry for each image, where its own length is their number too."""
    try:
        columns = [path for part in value for path in _places(part, images, ())]
    except UncutError:
        return False
    if columns and images > 1 and len({_kind(part) for part in value}) == 1:
        raise UncutError(f"a list of {images} parts with {images} entries each can be cut into images in two ways")
    return bool(columns)


def _kind(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.dim(), value.dtype
    return (type(value), _kind(value[0])) if _is_list(value) and value else type(value)


def _rows(value: Any, index: Tensor) -> Any:
    if isinstance(value, Tensor):
        return value[index.to(value.device)]
    return type(value)(value[number] for number in index.tolist())


def _size(value: Any) -> Any:
    """Of one image, where all have the same."""
    return value.shape[1:] if isinstance(value, Tensor) else None


def _together(values: list[Any]) -> Any:
    if isinstance(values[0], Tensor):
        return torch.cat(values)
    return type(values[0])(entry for value in values for entry in value)


def _at(value: Any, path: Path) -> Any:
    for name in path:
        parts = parts_of(value) or {}
        if name not in parts:
            raise UncutError(f"the pieces of the batch differ: not all of them hold {_named(path)}")
        value = parts[name]
    return value


def _shared(step: Inputs, places: tuple[Path, ...]) -> dict[Path, Any]:
    """What belongs to all images of a step."""
    own = {path: leaf for path, leaf in leaves(step) if not any(path[: len(place)] == place for place in places)}
    return {path: leaf.item() if isinstance(leaf, Tensor) else leaf for path, leaf in own.items()}


def _named(path: Path) -> str:
    """In the words of one who sees the step alone."""
    return ".".join(printable(str(name), 40) for name in path[1:]) or "a step"


def put(inputs: Inputs, path: Path, value: Any) -> Inputs:
    """The same inputs with another value at one place."""
    return mapped(inputs, lambda leaf, own: value if own == path else leaf)  # type: ignore[no-any-return]
