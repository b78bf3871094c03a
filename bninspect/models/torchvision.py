"""Models by their torchvision name. Names are read from torchvision's files, so a wrong one costs no import."""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bninspect._imports import parse_arguments
from bninspect.errors import SourceError
from bninspect.models import LiveModel, ModelOptions
from bninspect.models._downloads import downloading, failed, fetched
from bninspect.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

SCHEME = "torchvision"
_REGISTERED = re.compile(r"^@register_model\((?:name=)?[\"']?(\w*)[\"']?\).*?^def (\w+)", re.MULTILINE | re.DOTALL)


def accepts(text: str) -> bool:
    """A bare word, without dots, colons or slashes."""
    return re.fullmatch(r"\w+", text) is not None


def names() -> list[str]:
    """All names that torchvision registers, sorted, without importing it."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return []
    files = (Path(spec.origin).parent / "models").rglob("*.py")
    found = (_REGISTERED.findall(file.read_text(encoding="utf-8")) for file in files)
    return sorted({given or function for matches in found for given, function in matches})


def load(value: str, options: ModelOptions) -> LiveModel:
    """The model of that name, to be built later.

    Raises:
        SourceError: no such model or weights, or torchvision cannot be imported.
    """
    known = names()
    if not known:
        raise SourceError(
            f"{printable(value)!r} is taken for a torchvision model, and torchvision is not installed: "
            "pip install torchvision, or give package.module:callable or nets.py:callable"
        )
    value = next((name for name in known if name.lower() == value.lower()), value)
    if value not in known:
        if Path(value).is_dir():
            raise SourceError(f"{printable(value)} is a folder, and no model: give a file in it")
        near = difflib.get_close_matches(value, known, 5, 0.6)
        hint = f"did you mean {', '.join(near)}?" if near else f"torchvision has {', '.join(known[:5])} ..."
        raise SourceError(
            f"torchvision has no model {printable(value)!r}: {hint} "
            "(a model of timm is timm:NAME, your own package.module:callable or nets.py:callable)"
        )
    weights = _weights(value, options.weights)
    return LiveModel(
        name=value,
        kind="torchvision",
        build=_builder(value, weights, options),
        transforms=None if weights is None else lambda: (str(weights), weights.transforms()),
        input_size=lambda: _input_size(value, weights),
        weights=str(weights) if weights is not None else None,
        notes=() if weights is not None else (f"{value} has random weights: --weights DEFAULT loads trained ones",),
    )


def _import() -> Any:
    try:
        from torchvision import models
    except Exception as error:
        raise SourceError(
            f"torchvision cannot be imported ({type(error).__name__}: {printable(str(error), 120)}): install torch and "
            "torchvision from the same index; your own models work without it"
        ) from error
    return models


def _weights(name: str, wanted: str | None) -> Any:
    if wanted is None:
        return None
    choices = _import().get_model_weights(name)
    member = wanted.removeprefix(f"{choices.__name__}.")
    if member not in choices.__members__:
        known = ", ".join(choices.__members__) or "none"
        raise SourceError(f"{name} has no weights {printable(wanted)!r}: it has {known}")
    return choices[member]


def _input_size(name: str, weights: Any) -> tuple[str, tuple[int, ...]] | None:
    """The shape of an image that a classifier's weights are evaluated with, and which weights these are."""
    found = weights or getattr(_import().get_model_weights(name), "DEFAULT", None)
    crop: list[int] = getattr(found.transforms(), "crop_size", []) if found is not None else []
    return (str(found), (3, *crop, *crop)) if len(crop) == 1 else None


def _builder(name: str, weights: Any, options: ModelOptions) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        function = _import().get_model_builder(name)
        if weights is not None:
            what = f"the file of {weights} of {name}"
            fetched(what, weights.url, offline=options.offline, say=options.say, hashed=True)
        arguments: dict[str, Any] = {"weights": weights, **parse_arguments(options.arguments)}
        if "weights_backbone" in inspect.signature(function).parameters:
            arguments.setdefault("weights_backbone", None)
        try:
            with warnings.catch_warnings(), downloading():
                warnings.simplefilter("ignore")
                model: nn.Module = function(**arguments)
        except OSError as error:
            if weights is None:
                raise SourceError(f"{name} cannot be built: {printable(str(error), 300)}") from error
            raise failed(f"the file of {weights} of {name}", weights.url, error) from error
        except (TypeError, ValueError, RuntimeError) as error:
            raise SourceError(
                f"{name} cannot be built: {type(error).__name__}: {printable(str(error), 300)}"
            ) from error
        return model

    return build
