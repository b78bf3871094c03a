"""bninspect.watch for those whose loop is a trainer's: a callback for each, loaded when it is asked for.

``bninspect.integrations.LightningWatch`` and ``bninspect.integrations.TransformersWatch`` take what
:func:`bninspect.watch` takes, but for the model and the optimizer, which their trainers know.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bninspect.errors import SourceError

if TYPE_CHECKING:
    from bninspect.integrations.lightning import LightningWatch
    from bninspect.integrations.transformers import TransformersWatch

__all__ = ["LightningWatch", "TransformersWatch"]
_HOMES = {"LightningWatch": "lightning", "TransformersWatch": "transformers"}


def __getattr__(name: str) -> Any:
    """A callback, with the package that it is for.

    Raises:
        SourceError: that package is not installed.
    """
    if name not in _HOMES:
        raise AttributeError(f"module 'bninspect.integrations' has no attribute {name!r}")
    home = _HOMES[name]
    try:
        return getattr(importlib.import_module(f"bninspect.integrations.{home}"), name)
    except ModuleNotFoundError as error:
        raise SourceError(f"{name} is for {home}, which is not installed: pip install {home}") from error
