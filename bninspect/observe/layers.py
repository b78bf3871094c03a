"""Which modules of a model are BatchNorm layers, and what they are: the module as a neutral view of it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.parameter import is_lazy

from bninspect.layers import BatchNormLayer

if TYPE_CHECKING:
    from bninspect.report import Vector


def is_batchnorm(module: nn.Module) -> bool:
    """Whether a module is a BatchNorm layer: torch's, a subclass, or a frozen one known by its buffers.

    Frozen variants (torchvision, detectron2, timm) are no subclasses; they are known by ``running_mean`` and
    ``running_var`` of one dimension and one length. InstanceNorm has them too but is a ``_NormBase``.
    """
    if isinstance(module, _NormBase):
        return isinstance(module, _BatchNorm)
    if "_orig_mod" in vars(module)["_modules"]:  # torch.compile's wrapper, which shows what its module has
        return False
    if not _may_have(module, "running_mean"):
        return False
    mean, var = getattr(module, "running_mean", None), getattr(module, "running_var", None)
    return isinstance(mean, Tensor) and isinstance(var, Tensor) and mean.dim() == 1 and mean.shape == var.shape


def _may_have(module: nn.Module, name: str) -> bool:
    """Whether to ask a module for an attribute: torch takes as long to say no as for all the rest of a walk."""
    own, kind = vars(module), type(module)
    if kind.__getattr__ is not nn.Module.__getattr__ or hasattr(kind, name):
        return True
    return name in own["_buffers"] or name in own["_parameters"] or name in own


def batchnorms(model: nn.Module) -> dict[str, nn.Module]:
    """The BatchNorm modules of ``model`` by path, each module once, in the order of the module tree."""
    found = {path: module for path, module in model.named_modules() if is_batchnorm(module)}
    return {path: module for path, module in found.items() if not isinstance(module, torch.jit.ScriptModule)}


def scripted(model: nn.Module) -> tuple[str, ...]:
    """A sentence on BatchNorm layers within TorchScript modules, if there are any: these take no hooks."""
    paths = [
        path
        for path, module in model.named_modules()
        if isinstance(module, torch.jit.ScriptModule) and is_batchnorm(module)
    ]
    if not paths:
        return ()
    return (f"{len(paths)} BatchNorm layers lie within TorchScript, which takes no hooks: not seen ({paths[0]} ...)",)


def given(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a layer was called with."""
    return args[0] if args else next(iter(kwargs.values()), None)


def unjudged(model: nn.Module) -> tuple[str, ...]:
    """InstanceNorm layers that keep running statistics, in words: those may be as wrong, and no rule looks at them."""
    kinds = Counter(
        type(module).__name__
        for module in model.modules()
        if isinstance(module, _NormBase) and not is_batchnorm(module) and isinstance(module.running_mean, Tensor)
    )
    return tuple(
        f"{count} {kind} {'layer' if count == 1 else 'layers'} with running statistics: not judged"
        for kind, count in sorted(kinds.items())
    )


def describe(path: str, module: nn.Module) -> BatchNormLayer:
    """The neutral view of a BatchNorm module; its vectors are copies, so the module may change afterwards."""
    affine = getattr(module, "weight", None), getattr(module, "bias", None)
    running = getattr(module, "running_mean", None), getattr(module, "running_var", None)
    (weight, bias), (mean, var) = map(_vector, affine), map(_vector, running)
    tracked = getattr(module, "num_batches_tracked", None)
    return BatchNormLayer(
        path=path,
        kind=type(module).__name__,
        num_features=num_features(module),
        eps=getattr(module, "eps", None),
        momentum=getattr(module, "momentum", None),
        affine=getattr(module, "affine", weight is not None),
        track_running_stats=getattr(module, "track_running_stats", mean is not None),
        training=None if type(module) is nn.Module else module.training,  # of an exported program, which has no mode
        weight=weight,
        bias=bias,
        running_mean=mean,
        running_var=var,
        num_batches_tracked=int(tracked) if isinstance(tracked, Tensor) and not tracked.is_meta else None,
        dtype=str(running[0].dtype).removeprefix("torch.") if isinstance(running[0], Tensor) else None,
        trainable=_trainable(affine),
    )


def num_features(module: nn.Module) -> int:
    """The number of channels of a BatchNorm module."""
    declared = getattr(module, "num_features", None)
    if isinstance(declared, int):
        return declared
    mean = module.running_mean
    assert isinstance(mean, Tensor)
    return len(mean)


def _trainable(affine: tuple[Any, ...]) -> bool | None:
    flags = [value.requires_grad for value in affine if isinstance(value, Tensor)]
    return any(flags) if flags else None


def _vector(value: Any) -> Vector | None:
    if not isinstance(value, Tensor) or value.is_meta or is_lazy(value):
        return None
    value = value.detach().cpu()
    vector: Vector = (value if value.dtype in (torch.float32, torch.float64) else value.float()).numpy().copy()
    return vector
