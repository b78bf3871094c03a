"""A pickled module made live, which runs the code of its file: nothing else here does, and only where it is asked."""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bninspect.errors import SourceError
from bninspect.models import LiveModel
from bninspect.text import printable

if TYPE_CHECKING:
    from torch import nn


def live(path: str) -> LiveModel:
    """The module that was saved whole in the file, alone or as an entry of a dict; ``build()`` loads it, once.

    Raises:
        SourceError: from ``build()``, where it cannot be read, its code is missing or raised, or it holds no module.
    """
    remarks = [f"the code that {printable(path)} names was run (--allow-pickle)"]

    @cache
    def build() -> nn.Module:
        key, module = _module(_loaded(path), printable(path))
        if key is not None:
            remarks.append(f"the module is that under {printable(repr(key))}")
        return module

    return LiveModel(name=path, kind="pickled module", build=build, remarks=remarks)


def _loaded(path: str) -> Any:
    import torch

    from bninspect.files.opened import opened
    from bninspect.files.refused import Refused

    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # where the classes of one's own models are, as for nets.py:make
    try:
        with (
            opened(path) as found,
            os.fdopen(os.dup(found.handle), "rb") as file,
            warnings.catch_warnings(action="ignore"),
            redirect_stdout(sys.stderr),
        ):
            return torch.load(file, map_location="cpu", weights_only=False)
    except Refused as refusal:
        raise SourceError(f"cannot read '{printable(path)}': {refusal}") from None
    except MemoryError:
        raise
    except (Exception, SystemExit) as error:
        raise SourceError(f"'{printable(path)}' cannot be loaded: {_words(error)}") from error


def _words(error: BaseException) -> str:
    text = f"{type(error).__name__}: {printable(str(error).strip().partition(chr(10))[0], 300)}"
    if isinstance(error, AttributeError) and "__main__" in str(error):
        return f"{text} (its class was in the script that saved it: give it as MODEL, and the file by --checkpoint)"
    if isinstance(error, (ImportError, AttributeError)):
        return f"{text} (the classes that it names must be installed, or be in the current folder)"
    return text


def _module(held: Any, shown: str) -> tuple[Any, nn.Module]:
    """The module of what was loaded, and its key if it is an entry of a dict."""
    import torch
    from torch import nn

    entries = held.items() if isinstance(held, dict) else [(None, held)]
    modules = [(key, value) for key, value in entries if isinstance(value, nn.Module)]
    if not modules:
        raise SourceError(
            f"{shown} holds no whole module, but {type(held).__name__}: its stored values are shown without "
            f"--allow-pickle, and a model is filled with them by MODEL --checkpoint {shown}"
        )
    if len(modules) > 1:
        keys = ", ".join(printable(repr(key), 60) for key, _ in modules[:5])
        raise SourceError(
            f"{shown} holds {len(modules)} modules (under {keys}): give the one that is meant by a function of your "
            "own that returns it, nets.py:callable"
        )
    if isinstance(modules[0][1], torch.jit.ScriptModule):
        raise SourceError(
            f"{shown} is a TorchScript archive, whose module takes no hooks and cannot be watched: give the nn.Module "
            f"that it was made of, as MODEL --checkpoint {shown}"
        )
    return modules[0]
