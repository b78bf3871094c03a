"""The command that a finding's "do" ends in, with the user's own words in it."""

from __future__ import annotations

import shlex
from pathlib import PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bninspect.report import Source
    from bninspect.rules._rule import Remedy

_FILES = {".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".pkl", ".tar"}  # of weights that a file holds


def command(remedy: Remedy, source: Source) -> str:
    """What to type; in Python, for a model that was handed over."""
    return {"recalibrate": _recalibrate}[remedy](source)


def _recalibrate(source: Source) -> str:
    if source.model_kind is None:
        return "bninspect.recalibrate(model, batches)"
    model, weights, output = source.model or "MODEL", source.weights, "recalibrated.pt"
    if source.evidence != "module":
        model, weights = "MODEL", model
    words = ["bninspect", "recalibrate", model]
    if weights is not None:
        held = PurePath(weights).suffix.lower() in _FILES
        words += ["--checkpoint" if held else "--weights", weights]
        output = f"{PurePath(weights).stem}-recalibrated.pt" if held else output
    batch = "SOURCE" if source.batch is None or source.synthetic else source.batch
    return shlex.join([*words, "--batch", batch, *source.options, "-o", output])
