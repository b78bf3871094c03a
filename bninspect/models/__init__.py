"""Where a model comes from: one file per kind of source, each with ``SCHEME``, ``accepts`` and ``load``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from bninspect._plugins import choose
from bninspect.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from torch import Tensor, nn

    from bninspect.layers import BatchNormLayer


class ModelOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says about a model beside its name; ``say`` is told of a download, with a bar."""

    weights: str | None = None
    arguments: dict[str, str] = {}
    offline: bool = False
    say: Callable[[str], object] | None = None
    allow_pickle: bool = False


class LiveModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model that can be built and run: ``build()`` makes it, with random or with trained weights.

    ``outline()`` makes the same layers without the trained values, where that is cheaper: neither shapes nor the values
    of another file need them. ``transforms()`` says what an image goes through before this model sees it, by name and
    as a function of a PIL image; ``input_size()`` the shape that it has then, and whose, where that is known.
    ``remarks`` are notes that are only known once it was built, ``missing`` those on keys that a file of values lacks,
    ``unfilled`` the keys that it did not fill, ``counters`` those that count averages of its values.
    """

    name: str
    kind: str
    build: Callable[[], nn.Module]
    outline: Callable[[], nn.Module] | None = None
    transforms: Callable[[], tuple[str, Callable[[Any], Tensor]]] | None = None
    input_size: Callable[[], tuple[str, tuple[int, ...]] | None] | None = None
    weights: str | None = None
    notes: tuple[str, ...] = ()
    remarks: list[str] = []
    missing: list[str] = []
    unfilled: list[str] = []
    counters: list[str] = []
    evidence: Literal["module"] = "module"


class StoredModel(msgspec.Struct, frozen=True, kw_only=True):
    """The BatchNorm layers of a file, read without running anything of it.

    ``pickled`` tells that the file holds a whole module, which running its code would bring to life. ``counters`` are
    keys that count averages of its values (n_averaged).
    """

    name: str
    kind: str
    layers: tuple[BatchNormLayer, ...]
    notes: tuple[str, ...] = ()
    evidence: Literal["graph", "tensors"] = "tensors"
    pickled: bool = False
    counters: tuple[str, ...] = ()


Model = LiveModel | StoredModel
_REPOSITORY = re.compile(r"(\w[\w.-]*)/(\w[\w.-]*)(@[\w./-]+)?", re.ASCII)


def find(text: str, sources: dict[str, ModuleType]) -> tuple[ModuleType, str]:
    """The source that reads MODEL ``text``, and the text without its scheme.

    Args:
        text: ``[scheme:]value`` as the user wrote it.
        sources: the modules of this folder, by name.

    Raises:
        SourceError: no source reads it.
    """
    if chosen := choose(text, sources):
        return chosen
    if repository := _REPOSITORY.fullmatch(text):
        own = f", timm:{repository[2]} a model of timm" if repository[1] == "timm" else ""
        raise SourceError(
            f"{text!r} says not where it is, and there is no such file: hf-hub:{text} is a model of the Hugging Face "
            f"hub{own}"
        )
    raise SourceError(
        f"{text!r} is no model that bninspect can find: give a torchvision name (resnet18), package.module:callable, "
        f"nets.py:callable, or a scheme ({', '.join(sorted(source.SCHEME for source in sources.values()))}) and a value"
    )
