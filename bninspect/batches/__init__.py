"""Where a batch comes from: one file per kind of source, each with ``SCHEME``, ``accepts`` and ``load``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from bninspect._plugins import choose
from bninspect.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from torch import Tensor


class BatchOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says about a batch beside its name.

    ``transforms`` are named by the user, those of torchvision's weights; ``own`` gives the model's, with their name.
    With ``as_given`` steps are given just as they come, for a forward of the user's own.
    With ``share`` (a rank and the number of processes) data are given as they are, not begun and not cut: a tensor, a
    data set, a loader or an iterable.
    With ``labels`` a loader's pieces are lists ``[input, labels]`` where it gives labels.
    """

    key: str | None = None
    shapes: tuple[tuple[int, ...], ...] = ()
    dtypes: tuple[str, ...] = ()
    size: int | None = None
    seed: int = 0
    transforms: str | None = None
    own: Callable[[], tuple[str, Callable[[Any], Tensor]]] | None = None
    workers: int = 0
    max_batches: int | None = None
    labels: bool = False
    share: tuple[int, int] | None = None
    as_given: bool = False


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """A batch: ``data`` is a tensor, or an iterable of tensors, or of tuples of them for a model of several inputs.

    What streams can be gone through again where its source can. Where data were asked for as they are, ``pick`` finds
    the input in one step of them, and ``own_share`` tells that they are the share of one process alone.
    """

    name: str
    kind: str
    data: Any
    element: str | None = None
    synthetic: bool = False
    num_images: int | None = None
    pick: Callable[[Any], Any] | None = None
    own_share: bool = False


def find(text: str, sources: dict[str, ModuleType]) -> tuple[ModuleType, str]:
    """The source that reads SOURCE ``text``, and the text without its scheme.

    Raises:
        SourceError: no source reads it.
    """
    if chosen := choose(text, sources):
        return chosen
    raise SourceError(
        f"{text!r} is no batch: give a file (.pt, .npy, .npz, .safetensors), an image or a folder of images, "
        "package.module:loader, data.py:loader, or random with --input C,H,W"
    )
