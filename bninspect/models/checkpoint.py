"""Stored models: checkpoints, pickled modules, safetensors, torch.export and TorchScript files; none of it is run."""

from __future__ import annotations

import os
from pathlib import PurePath
from typing import TYPE_CHECKING

import msgspec

from bninspect.errors import SourceError
from bninspect.models import ModelOptions, StoredModel
from bninspect.text import printable

if TYPE_CHECKING:
    from bninspect.layers import BatchNormLayer

SCHEME = "file"
_SUFFIXES = {".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".pt2", ".pkl", ".tar", ".json"}


def accepts(text: str) -> bool:
    """What is spelled like a file: with one of the usual endings, or with a folder or a dot and there to be found."""
    if PurePath(text).suffix.lower() in _SUFFIXES:
        return True
    return ("." in text or os.sep in text) and os.path.lexists(text)


def load(value: str, options: ModelOptions) -> StoredModel:
    """The BatchNorm layers of the file, with their stored values.

    Raises:
        SourceError: it cannot be read, is damaged, or is of no known kind.
    """
    from bninspect.models._files import read

    shown = printable(value)
    if "://" in value:
        raise SourceError(f"{shown} is an address: download the file first, and give its path")
    if options.weights or options.arguments:
        raise SourceError(f"{shown} is a file, which has its own values: --weights and --model-arg do not apply to it")
    found = read(value)
    layers = tuple(map(_encodable, found.layers))
    notes = found.notes if layers else (f"{shown} holds no BatchNorm layer with running statistics", *found.notes)
    return StoredModel(name=_text(value), kind=found.kind, layers=layers, notes=notes, evidence=found.evidence)


def _encodable(layer: BatchNormLayer) -> BatchNormLayer:
    """The layer under a name that can be written: half a surrogate pair becomes its escape."""
    path, kind = _text(layer.path), _text(layer.kind)
    return layer if (path, kind) == (layer.path, layer.kind) else msgspec.structs.replace(layer, path=path, kind=kind)


def _text(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")
