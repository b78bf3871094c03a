"""What reports have in common: frozen structs, versions, sources, and layers that are listed apart."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]
Mode = Literal["eval", "train"]
Shape = tuple[int, ...]
Shapes = tuple[Any, ...] | None  # of one tensor, or nested as the tensors are


class Struct(msgspec.Struct, frozen=True):
    """A value that cannot be changed once it is made."""


class Tool(Struct, frozen=True, kw_only=True):
    """What made the report: versions, and the settings that a figure depends on."""

    bninspect: str
    python: str
    torch: str | None = None
    torchvision: str | None = None
    timm: str | None = None
    device: str | None = None
    dtype: str | None = None
    tf32: bool | None = None
    mode: Mode | None = None


class Source(Struct, frozen=True, kw_only=True):
    """Where the model and the batch came from, in the user's own words.

    ``evidence`` tells what could be looked at: ``module`` (a live model), or ``tensors`` (stored values alone).
    ``synthetic`` is true where the batch was made up. ``batch_sha256`` is of the tensors' dtypes, shapes and bytes,
    however they were split into pieces; it is found where a report is to be compared. ``missing_keys`` are those that a
    checkpoint did not fill.
    ``averaged`` is true where the file counts averages of its weights (n_averaged), as AveragedModel does.
    ``options`` are words of the command line that model and batch need beside their names.
    """

    model: str | None = None
    model_kind: str | None = None
    evidence: Literal["module", "graph", "tensors"] = "module"
    weights: str | None = None
    batch: str | None = None
    batch_kind: str | None = None
    batch_element: str | None = None
    batch_shape: Shapes = None
    synthetic: bool = False
    batch_sha256: str | None = None
    missing_keys: tuple[str, ...] = ()
    averaged: bool = False
    options: tuple[str, ...] = ()


class FunctionalCall(Struct, frozen=True, kw_only=True):
    """Calls of ``torch.nn.functional.batch_norm`` that no BatchNorm module owns, by the module that made them."""

    path: str
    kind: str
    calls: int


class LayerRef(Struct, frozen=True, kw_only=True):
    """A BatchNorm layer that is listed apart: never called, or called ``calls`` times in one forward."""

    path: str
    kind: str
    num_features: int | None
    calls: int


class LeftLayer(Struct, frozen=True, kw_only=True):
    """A BatchNorm layer that was left as it is, and why."""

    path: str
    kind: str
    num_features: int | None
    reason: str
