"""The user's own models: ``package.module:callable`` and ``nets.py:callable``. This runs the user's code."""

from __future__ import annotations

from typing import Any

from bninspect._imports import load_object, looks_like_object, parse_arguments
from bninspect.errors import SourceError
from bninspect.models import LiveModel, ModelOptions
from bninspect.text import printable

SCHEME = "py"


def accepts(text: str) -> bool:
    """``module:name`` or ``file.py:name``."""
    return looks_like_object(text)


def load(value: str, options: ModelOptions) -> LiveModel:
    """The module, or the function or class that makes one.

    Raises:
        SourceError: it does not exist, or importing it raised; ``build`` raises it where making the model does.
    """
    if not looks_like_object(value):
        raise SourceError(f"{printable(value)!r} is not of the form package.module:callable or nets.py:callable")
    if options.weights:
        raise SourceError(
            f"--weights is for torchvision and timm models: load the weights of {printable(value)} in its own code"
        )
    found = load_object(value)
    arguments = parse_arguments(options.arguments)

    def build() -> Any:
        from torch import nn

        if isinstance(found, nn.Module):
            return found
        if not callable(found):
            raise SourceError(
                f"{printable(value)} is of type {type(found).__name__}: give an nn.Module or what makes one"
            )
        try:
            model = found(**arguments)
        except (Exception, SystemExit) as error:
            raise SourceError(
                f"{printable(value)} raised {type(error).__name__}: {printable(str(error), 300)} "
                "(arguments are given by --model-arg name=value)"
            ) from error
        if not isinstance(model, nn.Module):
            raise SourceError(
                f"{printable(value)} returned an object of type {type(model).__name__}: a torch.nn.Module was expected"
            )
        return model

    return LiveModel(name=value, kind="python", build=build)
