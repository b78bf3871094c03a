"""What a model consists of: one row per BatchNorm call (or per call of any layer), shapes, parameters, modes."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from bninspect.errors import BNInspectError, InputError
from bninspect.report import LayerRef, Mode, Source, SummaryLayer, SummaryReport, SummaryTotals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import torch
    from torch import Tensor, nn

    from bninspect.inspection._calls import Call, Seen
    from bninspect.layers import BatchNormLayer
    from bninspect.report import Shape, Trainable


def summary(
    model: nn.Module | Callable[[], nn.Module],
    input_size: Sequence[int] | Sequence[Sequence[int]],
    *,
    mode: Mode = "eval",
    batch_size: int = 2,
    dtypes: Sequence[str] = ("float32",),
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
        dtypes: one for all inputs, or one for each.
        all_layers: report the calls of all layers, not of BatchNorm layers alone.
        source: where the model came from, for the report's header.

    Raises:
        InputError: the input does not fit, or the model is no module.
        ForwardError: the model's forward raised.
    """
    import torch

    from bninspect import observe
    from bninspect.inspection._calls import Request, look

    shapes = _sizes(input_size)
    kinds = _dtypes(dtypes, len(shapes))
    if batch_size < 1:
        raise InputError(f"the batch size must be at least 1, and {batch_size} was given")
    name = source.model if source and source.model else _name(model)
    with observe.undisturbed(torch.device("cpu")):
        seen = look(Request(model, name, shapes, kinds, batch_size, mode))
    counts = Counter(id(call.module) for call in seen.calls)
    return SummaryReport(
        tool=observe.tool(seen.device, kinds[0], mode),
        source=source or Source(model=name),
        execution="meta" if seen.device.type == "meta" else "real",
        input_shapes=tuple(shapes),
        input_dtypes=tuple(str(kind).removeprefix("torch.") for kind in kinds),
        layers=_rows(seen, all_layers=all_layers),
        totals=_totals(seen),
        never_called=_refs(seen.twin, lambda module: counts[id(module)] == 0, counts),
        called_repeatedly=_refs(seen.twin, lambda module: counts[id(module)] > 1, counts),
        functional_calls=seen.audit.report(),
        notes=_notes(name, seen),
    )


def _notes(name: str, seen: Seen) -> tuple[str, ...]:
    from bninspect import observe

    notes = []
    if not observe.batchnorms(seen.twin):
        notes.append(f"{name} has no BatchNorm layer")
    if seen.why_real:
        notes.append(f"a real forward was run: the model needs values, and the meta device has none ({seen.why_real})")
    return tuple(notes)


def _rows(seen: Seen, *, all_layers: bool) -> tuple[SummaryLayer, ...]:
    from bninspect import observe

    times: Counter[int] = Counter()
    rows = []
    for position, call in enumerate(seen.calls, 1):
        times[id(call.module)] += 1
        layer = observe.describe(call.path, call.module) if observe.is_batchnorm(call.module) else None
        if all_layers or layer:
            rows.append(_row(call, layer, position, times[id(call.module)], training=seen.training[call.path]))
    return tuple(rows)


def _row(call: Call, layer: BatchNormLayer | None, position: int, call_index: int, *, training: bool) -> SummaryLayer:
    module = call.module
    parameters = list(module.parameters(recurse=False))
    kind = type(module).__name__
    weight = getattr(module, "weight", None)
    return SummaryLayer(
        position=position,
        name=f"{kind}-{position}",
        path=call.path,
        kind=kind,
        input_shape=call.input_shape,
        output_shape=call.output_shape,
        trainable=_trainable(parameters),
        num_parameters=sum(parameter.numel() for parameter in parameters),
        num_trainable_parameters=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        num_buffer_elements=sum(buffer.numel() for buffer in module.buffers(recurse=False)),
        training=training,
        call_index=call_index,
        is_batchnorm=layer is not None,
        weight_size=_size(weight),
        bias_size=_size(getattr(module, "bias", None)),
        weight_requires_grad=_flag(weight),
        running_mean_size=_size(getattr(module, "running_mean", None)),
        num_features=layer.num_features if layer else None,
        eps=layer.eps if layer else None,
        momentum=layer.momentum if layer else None,
        affine=layer.affine if layer else None,
        track_running_stats=layer.track_running_stats if layer else None,
    )


def _trainable(parameters: list[nn.Parameter]) -> Trainable | None:
    flags = {parameter.requires_grad for parameter in parameters}
    if not flags:
        return None
    return "partial" if len(flags) > 1 else "yes" if True in flags else "no"


def _size(value: Any) -> Shape | None:
    from torch import Tensor

    return tuple(value.shape) if isinstance(value, Tensor) else None


def _flag(value: Any) -> bool | None:
    from torch import Tensor

    return bool(value.requires_grad) if isinstance(value, Tensor) else None


def _totals(seen: Seen) -> SummaryTotals:
    from bninspect import observe

    twin = seen.twin
    batchnorms = observe.batchnorms(twin)
    parameters = list(twin.parameters())
    own = {id(parameter): parameter for module in batchnorms.values() for parameter in module.parameters()}
    buffers = {id(buffer): buffer for module in batchnorms.values() for buffer in module.buffers()}
    in_training = sum(seen.training[path] for path in batchnorms)
    return SummaryTotals(
        num_parameters=_elements(parameters),
        num_trainable_parameters=_elements(parameter for parameter in parameters if parameter.requires_grad),
        num_batchnorm_parameters=_elements(own.values()),
        num_buffer_elements=_elements(twin.buffers()),
        num_batchnorm_buffer_elements=_elements(buffers.values()),
        num_layer_calls=len(seen.calls),
        num_batchnorm=len(batchnorms),
        num_batchnorm_train=in_training,
        num_batchnorm_eval=len(batchnorms) - in_training,
    )


def _elements(tensors: Iterable[Tensor]) -> int:
    from torch.nn.parameter import is_lazy

    return sum(tensor.numel() for tensor in tensors if not is_lazy(tensor))


def _refs(twin: nn.Module, wanted: Callable[[nn.Module], bool], counts: Counter[int]) -> tuple[LayerRef, ...]:
    from bninspect import observe

    return tuple(
        LayerRef(
            path=path,
            kind=type(module).__name__,
            num_features=observe.num_features(module),
            calls=counts[id(module)],
        )
        for path, module in observe.batchnorms(twin).items()
        if wanted(module)
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
    if len(found) not in (1, inputs):
        raise InputError(f"{len(found)} dtypes were given for {inputs} inputs: give one for all, or one for each")
    return [kind for kind in found if kind is not None] * (inputs if len(found) == 1 else 1)


def _name(model: Any) -> str:
    from torch import nn

    if isinstance(model, nn.Module):
        return type(model).__name__
    if callable(model):
        return str(getattr(model, "__qualname__", type(model).__name__))
    raise BNInspectError(f"a torch.nn.Module or a function that builds one was expected, not {type(model).__name__}")
