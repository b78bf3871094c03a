"""How a step reaches the model: which elements of it, by position or by name, or by a function of the user's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from bninspect.errors import InputError
from bninspect.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

key_option = click.option(
    "--batch-key",
    "key",
    metavar="NAME",
    help="Which element of a step or a file is the input; several in order: image,mask; by the name of the model's "
    "argument: x=pixel_values.",
)
forward_option = click.option(
    "--forward",
    metavar="FILE.py:FUNCTION",
    help="function(model, step) runs each step just as the loader gives it: dicts, lists of images, several inputs.",
)


def is_asked(settings: Mapping[str, Any]) -> bool:
    """Whether steps are to be given just as they come."""
    return settings.get("forward") is not None or "=" in (settings["key"] or "")


def asked(settings: Mapping[str, Any]) -> str:
    """The option that asks for it, in words."""
    return "--forward" if settings["forward"] is not None else "--batch-key ARGUMENT=KEY"


def find_forward(settings: Mapping[str, Any], batch: str | None) -> Callable[[Any, Any], Any] | None:
    """What runs the steps of SOURCE: the function that ``--forward`` names, or one that gives arguments by name."""
    text, key = settings["forward"], settings["key"]
    if not is_asked(settings):
        return None
    if batch is None:
        raise click.UsageError(f"{asked(settings)} runs the steps of a batch: add --batch SOURCE")
    if text is None:
        from bninspect.batches._elements import by_name

        return by_name(key, printable(batch))
    if key is not None:
        raise click.UsageError(
            "--forward gets each step as it is, and takes what it wants of it: leave --batch-key out"
        )
    return _named(text)


def _named(text: str) -> Callable[[Any, Any], Any]:
    from bninspect._imports import load_object, looks_like_object

    if not looks_like_object(text):
        raise InputError(
            f"--forward {printable(text)!r} is not of the form package.module:function or steps.py:function"
        )
    found: Any = load_object(text)
    if not callable(found):
        raise InputError(
            f"--forward {printable(text)} is a {type(found).__name__}: a function(model, step) was expected"
        )
    return found  # type: ignore[no-any-return]
