"""What a model consists of: one row per BatchNorm call (or per call of any layer), shapes, parameters, modes."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from bninspect.errors import BNInspectError, InputError
from bninspect.report import Mode, Source, SummaryReport

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from torch import nn

    from bninspect.report import Shape


def summary(
    model: nn.Module | Callable[[], nn.Module],
    input_size: Sequence[int] | Sequence[Sequence[int]],
    *,
    mode: Mode = "eval",
    batch_size: int = 2,
    dtypes: Sequence[str] = (),
    all_layers: bool = False,
    source: Source | None = None,
) -> SummaryReport:
    """Shapes, parameters and settings of every BatchNorm layer, in call order; the model is left as found.

    Shapes are found on the meta device, without memory or arithmetic, or by a real forward where the model needs
    values; ``execution`` says which.

    Args:
        model: a module, which may be anywhere and in any mode, or a function that builds one, which is then built
            without memory.
        input_size: shape of one input without its batch dimension, ``(3, 224, 224)``; several for several inputs.
        mode: the mode that the forward runs in. The ``training`` flags of the report are those that were found.
        batch_size: entries of the batch dimension, which is shown as -1.
        dtypes: one for all inputs, or one for each; none: that of the model's parameters.
        all_layers: report the calls of all layers, not of BatchNorm layers alone.
        source: where the model came from, for the report's header.

    Raises:
        InputError: the input does not fit, or the model is no module.
        ForwardError: the model's forward raised.
    """
    import torch

    from bninspect.inspection.summary import rows
    from bninspect.inspection.summary.calls import Request, look
    from bninspect.observe.process import tool_of, undisturbed

    shapes = _sizes(input_size)
    kinds = _dtypes(dtypes, len(shapes))
    if batch_size < 1:
        raise InputError(f"the batch size must be at least 1, and {batch_size} was given")
    name = source.model if source and source.model else _name(model)
    with undisturbed(torch.device("cpu")):
        seen = look(Request(model, name, shapes, kinds, batch_size, mode))
    counts = Counter(id(call.module) for call in seen.calls)
    return SummaryReport(
        tool=tool_of(seen.device, seen.dtypes[0], mode),
        source=source or Source(model=name),
        execution="meta" if seen.device.type == "meta" else "real",
        input_shapes=tuple(shapes),
        input_dtypes=tuple(str(kind).removeprefix("torch.") for kind in seen.dtypes),
        layers=rows.rows(seen, all_layers=all_layers),
        totals=rows.totals(seen),
        never_called=rows.refs(seen.twin, lambda module: counts[id(module)] == 0, counts),
        called_repeatedly=rows.refs(seen.twin, lambda module: counts[id(module)] > 1, counts),
        functional_calls=seen.audit.report(),
        notes=rows.notes(name, seen),
    )


def _sizes(input_size: Sequence[Any]) -> list[Shape]:
    sizes = list(input_size)
    nested = bool(sizes) and not isinstance(sizes[0], int)
    shapes = [tuple(size) for size in sizes] if nested else [tuple(sizes)]
    if not all(all(isinstance(length, int) and length > 0 for length in shape) for shape in shapes) or not sizes:
        raise InputError(f"an input size is a tuple of positive integers such as (3, 224, 224), not {input_size!r}")
    return shapes


def _dtypes(names: Sequence[str], inputs: int) -> list[torch.dtype]:
    import torch

    found = [getattr(torch, name, None) for name in names]
    for name, kind in zip(names, found, strict=True):
        if not isinstance(kind, torch.dtype):
            raise InputError(f"{name!r} is no torch dtype: give float32, float16, bfloat16, float64, int64 ...")
    if len(found) not in (0, 1, inputs):
        raise InputError(f"{len(found)} dtypes were given for {inputs} inputs: give one for all, or one for each")
    return [kind for kind in found if kind is not None] * (inputs if len(found) == 1 else 1)


def _name(model: Any) -> str:
    from torch import nn

    if isinstance(model, nn.Module):
        return type(model).__name__
    if callable(model):
        return str(getattr(model, "__qualname__", type(model).__name__))
    raise BNInspectError(f"a torch.nn.Module or a function that builds one was expected, not {type(model).__name__}")
