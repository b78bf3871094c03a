"""The functions of torch that normalise by batch, whichever way they are called, and where their arguments stand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_ATEN = torch.ops.aten
_OPERATORS = (
    _ATEN.batch_norm,
    _ATEN.native_batch_norm,
    _ATEN.cudnn_batch_norm,
    _ATEN._native_batch_norm_legit,  # noqa: SLF001  # the names that exported programs call
    _ATEN._native_batch_norm_legit_no_training,  # noqa: SLF001
    _ATEN._native_batch_norm_legit_functional,  # noqa: SLF001
    _ATEN._batch_norm_with_update,  # noqa: SLF001
    _ATEN._batch_norm_with_update_functional,  # noqa: SLF001
    _ATEN._batch_norm_no_update,  # noqa: SLF001
)
BATCH_NORMS: dict[Any, int] = {  # the position of running_mean; running_var follows
    nn.functional.batch_norm: 1,
    torch.batch_norm: 3,
    torch.native_batch_norm: 3,
    **{overload: 3 for packet in _OPERATORS for overload in (packet, packet.default)},
}
STATISTICS: dict[Any, int] = {**BATCH_NORMS, nn.functional.instance_norm: 1, torch.instance_norm: 3}
"""The same of all functions that may write into running statistics."""


class Norm(NamedTuple):
    """What a call of one of :data:`BATCH_NORMS` was given."""

    x: Any
    running_mean: Any
    eps: float | None


def norm_of(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Norm | None:
    """The arguments of a call that normalises an activation; ``None`` for any other call.

    A convolution that standardises its own weight does so by the same function.
    """
    place = BATCH_NORMS.get(func)
    if place is None:
        return None
    x = args[0] if args else kwargs.get("input")
    if isinstance(getattr(x, "_base", None), nn.Parameter):
        return None
    mean = args[place] if len(args) > place else kwargs.get("running_mean")
    eps = next((value for value in reversed(args) if type(value) is float), None)  # it is the last float of all of them
    return Norm(x, mean, kwargs.get("eps", eps))


def plain(x: Tensor) -> Tensor:
    """A tensor without its history and the layers that ``torch.func`` puts around it.

    What ``vmap`` runs over joins the images.
    """
    functorch = torch._C._functorch  # noqa: SLF001  # nothing public tells such a tensor from another
    while functorch.is_batchedtensor(x) or functorch.is_gradtrackingtensor(x):
        level = functorch.maybe_get_bdim(x) if functorch.is_batchedtensor(x) else None
        x = functorch.get_unwrapped(x)
        if level is not None:
            x = x.movedim(level, 0).flatten(0, 1)
    return x.detach() if x.requires_grad else x
