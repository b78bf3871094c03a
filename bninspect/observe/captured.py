"""The state of all BatchNorm layers at one moment, copied at once, and on its way to the host without a wait."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import nn

    from bninspect.report import Vector

KINDS = ("running_mean", "running_var", "weight", "bias")
GRADS = ("weight_grad", "bias_grad")
_FILLERS = dict(zip((*KINDS, *GRADS), (0.0, 1.0, 1.0, 0.0, torch.nan, torch.nan), strict=True))


class Snapshot(NamedTuple):
    """Values on the host: ``channels`` by name, all layers in one vector; ``counts`` by layer, -1 for none."""

    channels: dict[str, Vector]
    counts: Vector


class Layers:
    """BatchNorm modules in a fixed order, and copies of their state.

    Args:
        modules: by path. What a layer does not have stands as in a new one; a gradient that is not there as NaN.
        sizes: their numbers of channels.
    """

    def __init__(self, modules: dict[str, nn.Module], sizes: Iterable[int]) -> None:
        self.modules = tuple(modules.values())
        self.sizes = np.array(list(sizes))
        self._fillers: dict[tuple[str, int, torch.device], Tensor] = {}

    def capture(self, *, grads: bool = False) -> Capture:
        """Copy all values now, in a few launches; with the gradients of weight and bias, where they are asked for."""
        kinds = (*KINDS, *GRADS) if grads else KINDS
        with torch.no_grad():
            groups = [list(group) for _, group in groupby(zip(self.modules, self.sizes, strict=True), key=_place)]
            parts = [self._copied(group, kinds) for group in groups]
        devices = {_place(group[0]) for group in groups}
        events = [torch.cuda.current_stream(device).record_event() for device in devices if device.type == "cuda"]
        return Capture(kinds, parts, events)

    def _copied(self, group: list[tuple[nn.Module, Any]], kinds: Sequence[str]) -> tuple[Tensor, Tensor]:
        """All values of layers on one device, kind after kind, and their counts; on the host, or on the way."""
        device = _place(group[0])
        flat = torch.cat([self._value(module, kind, int(size), device) for kind in kinds for module, size in group])
        flat = flat if flat.dtype in (torch.float32, torch.float64) else flat.float()
        counts = [module._buffers.get("num_batches_tracked") for module, _ in group]  # noqa: SLF001  # 160 a step
        none = torch.full((), -1, dtype=torch.long, device=device) if None in counts else None
        stacked = torch.stack([none if count is None else count.reshape(()) for count in counts])  # type: ignore[misc]
        waits = device.type != "cuda"
        return flat.to("cpu", non_blocking=not waits), stacked.to("cpu", non_blocking=not waits)

    def _value(self, module: nn.Module, kind: str, size: int, device: torch.device) -> Tensor:
        name, grad, _ = kind.partition("_grad")
        value = (module._buffers if name.startswith("running") else module._parameters).get(name)  # noqa: SLF001
        if grad and value is not None:
            value = value.grad
        if value is None or value.numel() != size:
            return self._filler(kind, size, device)
        return value

    def _filler(self, kind: str, size: int, device: torch.device) -> Tensor:
        key = kind, size, device
        if key not in self._fillers:
            self._fillers[key] = torch.full((size,), _FILLERS[kind], device=device)
        return self._fillers[key]


class Capture:
    """A copy of all values that may not have arrived yet.

    Its events are waited for a step later: then the device still has a whole step to do, and does not run dry.
    """

    def __init__(self, kinds: Sequence[str], parts: list[tuple[Tensor, Tensor]], events: list[torch.Event]) -> None:
        self._kinds, self._parts, self._events = kinds, parts, events

    @property
    def at_hand(self) -> bool:
        """Whether there is nothing to wait for, as on the CPU."""
        return not self._events

    def snapshot(self) -> Snapshot:
        """The values; waits for them where they have not arrived."""
        for event in self._events:
            event.synchronize()
        rows = [flat.view(len(self._kinds), -1).numpy() for flat, _ in self._parts]
        whole = rows[0] if len(rows) == 1 else np.concatenate(rows, axis=1)
        counts = np.concatenate([counts.numpy() for _, counts in self._parts])
        return Snapshot(dict(zip(self._kinds, whole, strict=True)), counts)


def _place(entry: tuple[nn.Module, Any]) -> torch.device:
    """The device that a layer's tensors are on."""
    module = entry[0]
    tensors = (*module._buffers.values(), *module._parameters.values())  # noqa: SLF001
    return next((tensor.device for tensor in tensors if tensor is not None), torch.device("cpu"))
