"""The rows, totals and remarks of a summary, from what one forward showed."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn.parameter import is_lazy

from bninspect.observe.layers import batchnorms, describe, is_batchnorm, num_features, scripted
from bninspect.observe.shadow import remarks
from bninspect.report import LayerRef, SummaryLayer, SummaryTotals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import nn

    from bninspect.inspection.summary.calls import Call, Seen
    from bninspect.layers import BatchNormLayer
    from bninspect.report import Shape, Trainable


def notes(name: str, seen: Seen) -> tuple[str, ...]:
    """What a reader should know beside the figures."""
    said = []
    if not batchnorms(seen.twin):
        said.append(f"{name} has no BatchNorm layer")
    if seen.why_real:
        said.append(f"a real forward was run: the model needs values, and the meta device has none ({seen.why_real})")
    return (*said, *scripted(seen.twin), *remarks(seen.twin))


def rows(seen: Seen, *, all_layers: bool) -> tuple[SummaryLayer, ...]:
    """One row per BatchNorm call, or per call of any layer, in call order."""
    times: Counter[int] = Counter()
    found = []
    for position, call in enumerate(seen.calls, 1):
        times[id(call.module)] += 1
        layer = describe(call.path, call.module) if is_batchnorm(call.module) else None
        if all_layers or layer:
            found.append(_row(call, layer, position, times[id(call.module)], training=seen.training[call.path]))
    return tuple(found)


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
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _flag(value: Any) -> bool | None:
    return bool(value.requires_grad) if isinstance(value, Tensor) else None


def totals(seen: Seen) -> SummaryTotals:
    """Parameters and buffers, each once, and the number of layers in each mode."""
    twin = seen.twin
    layers = batchnorms(twin)
    parameters = list(twin.parameters())
    own = {id(parameter): parameter for module in layers.values() for parameter in module.parameters()}
    buffers = {id(buffer): buffer for module in layers.values() for buffer in module.buffers()}
    in_training = sum(seen.training[path] for path in layers)
    return SummaryTotals(
        num_parameters=_elements(parameters),
        num_trainable_parameters=_elements(parameter for parameter in parameters if parameter.requires_grad),
        num_batchnorm_parameters=_elements(own.values()),
        num_buffer_elements=_elements(twin.buffers()),
        num_batchnorm_buffer_elements=_elements(buffers.values()),
        num_layer_calls=len(seen.calls),
        num_batchnorm=len(layers),
        num_batchnorm_train=in_training,
        num_batchnorm_eval=len(layers) - in_training,
    )


def _elements(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors if not is_lazy(tensor))


def refs(twin: nn.Module, wanted: Callable[[nn.Module], bool], counts: Counter[int]) -> tuple[LayerRef, ...]:
    """The BatchNorm layers that are ``wanted``, in the order of the module tree."""
    return tuple(
        LayerRef(
            path=path,
            kind=type(module).__name__,
            num_features=num_features(module),
            calls=counts[id(module)],
        )
        for path, module in batchnorms(twin).items()
        if wanted(module)
    )
