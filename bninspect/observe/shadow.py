"""The copy that runs in the model's place: the user's module is never run, moved or hooked.

A twin is made module by module: a new object of the same class, whose parameters share the user's memory and whose
buffers are its own. So modes, hooks, counters, lazy initialisation and batch statistics change in the shadow alone.

- Containers in a module's attributes (lists, dicts, tuples, sets, dataclasses) are rebuilt, as deep as containers go.
- Bound methods, partials, closures and objects of the user's classes that lead to a module of the model (a ``forward``
  replaced on the instance, a hook that writes to another layer) are rebuilt to lead to its twin.
- Everything else is shared by reference: locks, files, writers, process groups, trainers' loaders and optimisers.

What runs the model itself even so, or writes into a parameter, is seen and put back by :mod:`bninspect.observe.guard`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bninspect.errors import InputError
from bninspect.observe import guard
from bninspect.observe.forward import brief
from bninspect.observe.twins import Twins

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from bninspect.report import Mode

_ONE_MODE = "_bninspect_one_mode"  # an attribute of a shadow


def shadow(model: nn.Module, *, device: torch.device | None = None, stepped: bool = False) -> nn.Module:
    """A copy of ``model`` to run: it has the structure, and shares the memory of the parameters.

    Args:
        model: left exactly as it is.
        device: where the shadow lives; ``meta`` gives tensors without memory. Default: where the model is.
        stepped: the user's own function will run it, and may do all that a step of training does.

    Raises:
        InputError: the model holds something that cannot be copied.
    """
    twins = Twins(model, device if device is not None and device.type == "meta" else None)
    try:
        twin: nn.Module = twins.all()
    except Exception as error:
        raise InputError(f"the model cannot be copied, and so not be run safely: {brief(error)}") from error
    if device is not None and device.type != "meta" and any(value.device != device for value in _tensors(twin)):
        twin = twin.to(device)
    guard.attach(twin, model, stepped=stepped)
    return twin


def set_mode(twin: nn.Module, mode: Mode) -> None:
    """Put a shadow into a mode; a class that overrides ``train`` to freeze its layers has its say."""
    try:
        twin.train(mode == "train")
    except NotImplementedError:  # an exported program
        vars(twin)[_ONE_MODE] = True


def has_one_mode(twin: nn.Module) -> bool:
    """Whether a shadow refused to be put into a mode."""
    return _ONE_MODE in vars(twin)


def remarks(twin: nn.Module) -> tuple[str, ...]:
    """What a reader should know of the forwards of a shadow."""
    one_mode = ("an exported program runs in the mode that it was exported in, whatever was asked for",)
    return (*guard.notes(twin), *(one_mode if has_one_mode(twin) else ()))


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]
