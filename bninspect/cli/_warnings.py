"""Warnings of others on the way of a command: out of the way, or a line; as they come with ``-v``."""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bninspect.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_THEIRS = {"torch", "torchvision", "timm", "huggingface_hub", "numpy", "PIL", "safetensors", "triton"}


@contextlib.contextmanager
def calm(arguments: Sequence[str]) -> Iterator[None]:
    """Without ``-v``, warnings of torch and its like are left out; others, as of a user's model, are a line each."""
    with warnings.catch_warnings():
        if not {"-v", "--verbose"} & set(arguments):
            warnings.showwarning = _show
        yield


def _show(message: Any, category: Any, filename: str, lineno: int, *_: Any, **__: Any) -> None:  # noqa: ARG001
    path = Path(filename)
    if _THEIRS.isdisjoint(path.parts):
        click.echo(f"Warning: {printable(str(message), 300)} ({printable(path.name)}:{lineno})", err=True)
