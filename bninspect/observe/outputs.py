"""What a model's forward gave, as a table of scores: the part of any output in which classes can be compared."""

from __future__ import annotations

from typing import Any

from torch import Tensor

_POSITIONS = 64  # positions of a dense prediction that are compared


def scores(output: Any) -> Tensor | None:
    """The table of scores ``[N, classes, positions]`` of a model's output; ``None`` if there is none."""
    if isinstance(output, dict):
        output = next((output[name] for name in ("logits", "out") if name in output), next(iter(output.values()), None))
    elif hasattr(output, "logits"):
        output = output.logits
    elif isinstance(output, (list, tuple)):
        output = output[0] if output else None
    if not isinstance(output, Tensor) or not output.is_floating_point() or output.dim() < 2 or output.shape[1] < 2:
        return None
    table = output.detach().flatten(2) if output.dim() > 2 else output.detach().unsqueeze(2)
    return table[..., :: max(1, table.shape[2] // _POSITIONS)].float().cpu()
