"""Run a model once and list the calls of its layers: on meta where possible, for real where values are needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from bninspect.observe import meta
from bninspect.observe.audit import Audit
from bninspect.observe.forward import brief, forward
from bninspect.observe.layers import batchnorms, given
from bninspect.observe.process import own_dtype
from bninspect.observe.shadow import set_mode, shadow
from bninspect.observe.unwrap import unwrap

if TYPE_CHECKING:
    from collections.abc import Callable

    from bninspect.observe.norms import Norm
    from bninspect.report import Mode, Shape, Shapes


class Call(NamedTuple):
    """One call of one module: its path, and the shapes that went in and out."""

    module: nn.Module
    path: str
    input_shape: Shapes
    output_shape: Shapes


class Seen(NamedTuple):
    """What one forward showed: the shadow that ran, the modes that were found before, and the calls in order."""

    twin: nn.Module
    training: dict[str, bool]
    calls: list[Call]
    audit: Audit
    device: torch.device
    dtypes: list[torch.dtype]
    why_real: str | None = None


class Request(NamedTuple):
    """What to run: a module or a function that builds one, made-up inputs (of no dtypes: of its own), and a mode."""

    model: nn.Module | Callable[[], nn.Module]
    name: str
    shapes: list[Shape]
    dtypes: list[torch.dtype]
    batch_size: int
    mode: Mode


def look(request: Request) -> Seen:
    """Run on meta, and for real where the model needs values.

    Raises:
        InputError: the model is no module, or cannot be copied.
        ForwardError: the model's forward raised.
    """
    try:
        return _attempt(request, torch.device("meta"))
    except Exception as error:
        if not meta.needs_values(error):
            raise
        why = brief(error.__cause__ or error, 120)
    return _attempt(request, torch.device("cpu"))._replace(why_real=why)


def _attempt(request: Request, device: torch.device) -> Seen:
    model = unwrap(_built(request.model, device), values=False)
    twin = shadow(model, device=device)
    calls, audit = _watch(twin)
    set_mode(twin, request.mode)
    dtypes = request.dtypes or [own_dtype(twin)] * len(request.shapes)
    with audit:
        forward(twin, _inputs(request, dtypes, device), what=request.name)
    return Seen(twin, {path: module.training for path, module in model.named_modules()}, calls, audit, device, dtypes)


def _built(model: Any, device: torch.device) -> Any:
    if isinstance(model, nn.Module) or not callable(model):
        return model
    if device.type != "meta":
        return model()
    with meta.on_meta():
        return model()


def _watch(twin: nn.Module) -> tuple[list[Call], Audit]:
    calls: list[Call] = []

    def seen(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        calls.append(Call(module, names[id(module)], _shapes(given(args, kwargs)), _shapes(output)))

    def direct(module: nn.Module, norm: Norm) -> None:
        calls.append(Call(module, names[id(module)], _shapes(norm.x), _shapes(norm.x)))

    audit = Audit(twin, direct)
    names = audit.owners.names
    for module in batchnorms(twin).values():
        audit.watch(module)
    for module in twin.modules():
        if _is_layer(module, twin):
            module.register_forward_hook(seen, with_kwargs=True)
    return calls, audit


def _is_layer(module: nn.Module, root: nn.Module) -> bool:
    """The rule of torchsummary: no containers; and the root only where it has no children."""
    if module is root:
        return next(module.children(), None) is None
    return not isinstance(module, (nn.Sequential, nn.ModuleList, torch.jit.ScriptModule))


def _shapes(value: Any) -> Shapes:
    """The shape of a tensor, batch as -1; of a list, tuple or dict of tensors, their shapes."""
    if isinstance(value, Tensor):
        return (-1, *value.shape[1:]) if value.dim() else ()
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return tuple(shape for shape in map(_shapes, value) if shape is not None)
    return None


def _inputs(request: Request, dtypes: list[torch.dtype], device: torch.device) -> list[Tensor]:
    """Made-up inputs: uniform in [0, 1), or zeros for integers (an index that every table has)."""

    def make(shape: Shape, dtype: torch.dtype) -> Tensor:
        fill = torch.rand if dtype.is_floating_point else torch.zeros
        return fill((request.batch_size, *shape), dtype=dtype, device=device)

    return [make(shape, dtype) for shape, dtype in zip(request.shapes, dtypes, strict=True)]
