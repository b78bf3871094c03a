"""Stored models: checkpoints, pickled modules, safetensors, torch.export and TorchScript files; none of it is run."""

from __future__ import annotations

import os
from pathlib import PurePath
from typing import TYPE_CHECKING

import msgspec

from bninspect._plugins import refuse_address
from bninspect.errors import SourceError
from bninspect.models import LiveModel, ModelOptions, StoredModel
from bninspect.text import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from bninspect.layers import BatchNormLayer

SCHEME = "file"
_SUFFIXES = {".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".pt2", ".pkl", ".tar", ".json"}


def accepts(text: str) -> bool:
    """What is spelled like a file: with one of the usual endings, or with a folder or a dot and there to be found."""
    if PurePath(text).suffix.lower() in _SUFFIXES:
        return True
    return ("." in text or os.sep in text) and os.path.lexists(text)


def load(value: str, options: ModelOptions) -> StoredModel | LiveModel:
    """The BatchNorm layers of the file, with their stored values; where pickles are allowed, its module.

    Raises:
        SourceError: it cannot be read, is damaged, or is of no known kind.
    """
    from bninspect.models.stored.reading import read

    shown = printable(value)
    refuse_address(value)
    if options.weights or options.arguments:
        raise SourceError(f"{shown} is a file, which has its own values: --weights and --model-arg do not apply to it")
    if options.allow_pickle:
        from bninspect.models._pickled import live

        return live(value)
    found = read(value)
    layers = tuple(map(_encodable, found.layers))
    notes = found.notes if layers else (f"{shown} holds no BatchNorm layer with running statistics", *found.notes)
    return StoredModel(
        name=_text(value),
        kind=found.kind,
        layers=layers,
        notes=notes,
        evidence=found.evidence,
        pickled=found.kind == "pickled module",
        counters=found.counters,
    )


def with_values(model: LiveModel, path: str, *, strict: bool = True, which: str | None = None) -> LiveModel:
    """The model with the values of a file: its ``build()`` makes it and then fills it.

    Args:
        model: says what the layers are; values of its own are not loaded.
        path: a file of any kind that :func:`load` takes; none of it is run.
        strict: refuse where keys are missing, unexpected or of another shape; else fill what fits, and remark the rest.
        which: the set of weights that is meant, where the file holds several; default the one that fits best.

    Raises:
        SourceError: from ``build()``, where the file cannot be read, or does not fit; at once where it is an address.
    """
    refuse_address(path)
    remarks, missing = list(model.remarks), list(model.missing)
    unfilled, counters = list(model.unfilled), list(model.counters)

    def build() -> nn.Module:
        net = (model.outline or model.build)()
        said, lacking, without, counting = _fill(net, model.name, path, strict=strict, which=which)
        remarks.extend(said)
        missing.extend(lacking)
        unfilled.extend(without)
        counters.extend(counting)
        return net

    return LiveModel(
        name=model.name,
        kind=model.kind,
        build=build,
        transforms=model.transforms,
        weights=_text(path),
        remarks=remarks,
        missing=missing,
        unfilled=unfilled,
        counters=counters,
    )


def _fill(net: nn.Module, name: str, path: str, *, strict: bool, which: str | None) -> tuple[list[str], ...]:
    """Load the values; remarks, those on missing keys, keys that keep their values, and keys that count averages."""
    import torch

    from bninspect.models.stored.reading import read_state

    own = net.state_dict()
    found = read_state(path, own.keys(), which)
    values = {key: torch.from_numpy(value) for key, value in found.values.items() if _has_shape(own[key], value.shape)}
    faults = _faults(own, {key: tuple(value.shape) for key, value in found.values.items()}, found.unexpected)
    if faults and (strict or not values):
        raise SourceError(
            f"{printable(path)} does not fit {printable(name)}: {'; '.join(faults.values())}"
            + (" (--no-strict loads what fits)" if strict and values else "")
        )
    if real := {
        key: value for key, value in values.items() if not own[key].is_meta
    }:  # on meta, shapes are all there is
        net.load_state_dict(real, strict=False)
    place = [f"values of {printable(path)} found {found.place}"] if found.place else []
    unfilled = [_text(key) for key in own if key not in values and not key.endswith("num_batches_tracked")]
    said = {what: f"of {printable(path)} not loaded: {fault}" for what, fault in faults.items()}
    lacking = [said.pop("missing")] if "missing" in said else []
    return [*place, *said.values()], lacking, unfilled, [*found.counters]


def _has_shape(tensor: Tensor, shape: tuple[int, ...]) -> bool:
    from torch.nn.parameter import is_lazy

    return is_lazy(tensor) or tuple(tensor.shape) == shape


def _faults(
    own: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], unexpected: tuple[str, ...]
) -> dict[str, str]:
    """What does not fit, in words: missing, unexpected and mis-shaped keys; old files hold no batch counters."""
    missing = [key for key in own if key not in shapes and not key.endswith("num_batches_tracked")]
    other = [
        f"{key} {list(shapes[key])} for {list(own[key].shape)}"
        for key in own
        if key in shapes and not _has_shape(own[key], shapes[key])
    ]
    named = (("missing", missing), ("unexpected", list(unexpected)), ("of another shape", other))
    return {what: f"{len(keys)} {what} ({_few(keys)})" for what, keys in named if keys}


def _few(keys: list[str]) -> str:
    return ", ".join(printable(key, 60) for key in keys[:4]) + (", ..." if len(keys) > 4 else "")


def _encodable(layer: BatchNormLayer) -> BatchNormLayer:
    """The layer under a name that can be written: half a surrogate pair becomes its escape."""
    path, kind = _text(layer.path), _text(layer.kind)
    return layer if (path, kind) == (layer.path, layer.kind) else msgspec.structs.replace(layer, path=path, kind=kind)


def _text(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")
