"""How a model is run: where, under which name, and by what function; each run is of a shadow of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from bninspect.observe.forward import forward
from bninspect.observe.shadow import set_mode, shadow
from bninspect.observe.steps import moved

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import nn

    from bninspect.observe.forward import Forward


class Runner(NamedTuple):
    """A model, where it runs, its name for errors, and the user's own function that runs it on a step, if there is one.

    Inputs are those of the model; with a function they are the one step that it takes.
    """

    model: nn.Module
    place: torch.device
    name: str
    by: Forward | None = None

    def twin(self) -> nn.Module:
        """A shadow in eval mode."""
        twin = shadow(self.model, device=self.place, stepped=self.by is not None)
        set_mode(twin, "eval")
        return twin

    def run(self, twin: nn.Module, inputs: Sequence[Any]) -> Any:
        """The output of a shadow for inputs that lie anywhere.

        Raises:
            ForwardError: the model's own code raised.
        """
        return forward(twin, [moved(value, self.place) for value in inputs], what=self.name, by=self.by)
