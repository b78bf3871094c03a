"""Watch a model run without touching it: a shadow of it runs, and the process is put back as it was.

The user's module is never run, moved or hooked. :func:`shadow` copies its structure, with parameters that share the
user's memory and with buffers of their own, so that modes, hooks, counters, lazy initialisation and batch statistics
change in the shadow alone. What is global (random number generators, grad mode) is put back by :func:`undisturbed`.
"""

from __future__ import annotations

import copy
import platform
import random
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from bninspect.errors import BNInspectError, ForwardError, InputError
from bninspect.layers import BatchNormLayer
from bninspect.report import FunctionalCall, Mode, Tool
from bninspect.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from types import TracebackType

    from torch.utils.hooks import RemovableHandle

    from bninspect.report import Vector

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_BATCH_NORM = frozenset({nn.functional.batch_norm, torch.batch_norm, torch.native_batch_norm})


def is_batchnorm(module: nn.Module) -> bool:
    """Whether a module is a BatchNorm layer: torch's, a subclass, or a frozen one known by its buffers.

    Frozen variants (torchvision, detectron2, timm) are no subclasses; they are known by ``running_mean`` and
    ``running_var`` of one dimension and one length. InstanceNorm has them too but is a ``_NormBase``.
    """
    if isinstance(module, _NormBase):
        return isinstance(module, _BatchNorm)
    mean, var = getattr(module, "running_mean", None), getattr(module, "running_var", None)
    return isinstance(mean, Tensor) and isinstance(var, Tensor) and mean.dim() == 1 and mean.shape == var.shape


def batchnorms(model: nn.Module) -> dict[str, nn.Module]:
    """The BatchNorm modules of ``model`` by path, each module once, in the order of the module tree."""
    return {path: module for path, module in model.named_modules() if is_batchnorm(module)}


def describe(path: str, module: nn.Module) -> BatchNormLayer:
    """The neutral view of a BatchNorm module; its vectors are copies, so the module may change afterwards."""
    weight, bias = _vector(module, "weight"), _vector(module, "bias")
    mean, var = _vector(module, "running_mean"), _vector(module, "running_var")
    tracked = getattr(module, "num_batches_tracked", None)
    return BatchNormLayer(
        path=path,
        kind=type(module).__name__,
        num_features=num_features(module),
        eps=getattr(module, "eps", None),
        momentum=getattr(module, "momentum", None),
        affine=getattr(module, "affine", weight is not None),
        track_running_stats=getattr(module, "track_running_stats", mean is not None),
        training=module.training,
        weight=weight,
        bias=bias,
        running_mean=mean,
        running_var=var,
        num_batches_tracked=int(tracked) if isinstance(tracked, Tensor) and not tracked.is_meta else None,
        dtype=_dtype(module),
        trainable=_trainable(module),
    )


def num_features(module: nn.Module) -> int:
    """The number of channels of a BatchNorm module."""
    declared = getattr(module, "num_features", None)
    if isinstance(declared, int):
        return declared
    mean = module.running_mean
    assert isinstance(mean, Tensor)
    return len(mean)


def _dtype(module: nn.Module) -> str | None:
    mean = getattr(module, "running_mean", None)
    return str(mean.dtype).removeprefix("torch.") if isinstance(mean, Tensor) else None


def _trainable(module: nn.Module) -> bool | None:
    flags = [
        value.requires_grad
        for value in (getattr(module, name, None) for name in ("weight", "bias"))
        if isinstance(value, Tensor)
    ]
    return any(flags) if flags else None


def _vector(module: nn.Module, name: str) -> Vector | None:
    value = getattr(module, name, None)
    if not isinstance(value, Tensor) or value.is_meta or is_lazy(value):
        return None
    value = value.detach().cpu()
    return (value if value.dtype in (torch.float32, torch.float64) else value.float()).numpy().copy()


def unwrap(model: Any) -> nn.Module:
    """The module inside DataParallel, DistributedDataParallel and ``torch.compile``.

    Raises:
        InputError: ``model`` is no module, or one whose layers cannot be watched.
    """
    while isinstance(model, nn.Module):
        inner = getattr(model, "_orig_mod", None)
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = model.module
        if not isinstance(inner, nn.Module):
            break
        model = inner
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError("a TorchScript module takes no hooks and cannot be watched: give the nn.Module it was made of")
    if not isinstance(model, nn.Module):
        raise InputError(f"a torch.nn.Module was expected, and a {type(model).__name__} was given")
    return model


def shadow(model: nn.Module, *, device: torch.device | None = None) -> nn.Module:
    """A copy of ``model`` to run: it has the structure, and shares the memory of the parameters.

    Args:
        model: left exactly as it is.
        device: where the shadow lives; ``meta`` gives tensors without memory. Default: where the model is.

    Raises:
        InputError: the model holds something that cannot be copied.
    """
    ours = set(map(id, model.modules()))
    memo: dict[int, Any] = {}
    for module in model.modules():
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False), *_loose_tensors(module)):
            memo[id(tensor)] = _alias(tensor, device)
        for name in _HOOKS:
            for hook in getattr(module, name).values():
                if id(getattr(hook, "__self__", None)) not in ours:
                    memo[id(hook)] = hook
    keep_alive = list(memo.values())
    try:
        twin = copy.deepcopy(model, memo)
    except Exception as error:
        raise InputError(f"the model cannot be copied, and so not be run safely: {brief(error)}") from error
    del keep_alive
    return twin.to(device) if device is not None and device.type != "meta" else twin


def _loose_tensors(module: nn.Module) -> Iterator[Tensor]:
    """Tensors kept as plain attributes, such as the weight that ``weight_norm`` computes."""
    return (value for value in vars(module).values() if isinstance(value, Tensor))


def _alias(tensor: Tensor, device: torch.device | None) -> Tensor:
    """A tensor for the shadow: of the same memory for a parameter, a clone for a buffer, of no memory on meta."""
    if is_lazy(tensor):
        kind: Any = type(tensor)
        twin: Tensor = kind(requires_grad=tensor.requires_grad, device=device or tensor.device, dtype=tensor.dtype)
        return twin
    if device is not None and device.type == "meta":
        twin = torch.empty_like(tensor, device="meta", requires_grad=False)
    elif isinstance(tensor, nn.Parameter):
        twin = tensor.detach()
    else:
        return tensor.detach().clone()
    return nn.Parameter(twin, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else twin


def set_mode(twin: nn.Module, mode: Mode) -> None:
    """Put a shadow into a mode; a class that overrides ``train`` to freeze its layers has its say."""
    twin.train(mode == "train")


@contextmanager
def undisturbed(device: torch.device, seed: int = 0) -> Iterator[None]:
    """No gradients, seeded random numbers, and afterwards every generator as it was found."""
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    cuda = torch.cuda.get_rng_state_all() if device.type == "cuda" or torch.cuda.is_initialized() else []
    try:
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)
        if cuda:
            torch.cuda.manual_seed_all(seed)
        with torch.no_grad():
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.default_generator.set_state(states[2])
        if cuda:
            torch.cuda.set_rng_state_all(cuda)


def unseen() -> AbstractContextManager[None]:
    """Calls of torch made inside are no concern of an :class:`Audit`, nor of the input's own tensor class."""
    return torch._C.DisableTorchFunction()  # noqa: SLF001  # the name that torch documents for this


class Audit(TorchFunctionMode):
    """Counts calls of ``batch_norm`` that no watched module owns; ``names`` gives the modules' paths by identity.

    It costs time at every call of torch, so it is entered for one forward, and its hooks go when it is left.
    """

    def __init__(self, names: dict[int, str]) -> None:
        super().__init__()
        self.names = names
        self.inside = 0
        self.found: dict[tuple[str, str], int] = {}
        self._handles: list[RemovableHandle] = []

    def watch(self, module: nn.Module) -> None:
        """Calls made while ``module`` runs are its own."""
        self._handles.append(module.register_forward_pre_hook(self._enter, prepend=True))
        self._handles.append(module.register_forward_hook(self._leave, always_call=True))

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)  # type: ignore[no-untyped-call]
        while self._handles:
            self._handles.pop().remove()

    def _enter(self, *_: Any) -> None:
        self.inside += 1

    def _leave(self, *_: Any) -> None:
        self.inside -= 1

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not self.inside and func in _BATCH_NORM and not _is_weight(args, kwargs):
            frame = _innermost(_frames_up(), self.names)
            caller = frame.f_locals["self"] if frame else None
            key = (self.names[id(caller)], type(caller).__name__) if frame else ("", "")
            self.found[key] = self.found.get(key, 0) + 1
        return func(*args, **(kwargs or {}))

    def report(self) -> tuple[FunctionalCall, ...]:
        """What was found, by the module that made the calls."""
        return tuple(FunctionalCall(path=path, kind=kind, calls=calls) for (path, kind), calls in self.found.items())


def _is_weight(args: Sequence[Any], kwargs: dict[str, Any] | None) -> bool:
    """Whether a parameter is normalised, and no activation: convolutions that standardise their weight do so."""
    value = args[0] if args else (kwargs or {}).get("input")
    return isinstance(getattr(value, "_base", None), nn.Parameter)


def run(twin: nn.Module, inputs: Sequence[Any], *, what: str) -> Any:
    """The forward of a shadow.

    Raises:
        ForwardError: the model's own code raised; the text names the innermost layer it was in.
    """
    try:
        return twin(*inputs)
    except BNInspectError:
        raise
    except Exception as error:
        raise ForwardError(
            f"the forward of {printable(what)} on {_sizes(inputs)} failed in {_where(error, twin)}: {brief(error)}"
        ) from error


def _where(error: BaseException, twin: nn.Module) -> str:
    """The innermost layer that an error came through: its path, its settings, and what it was given."""
    names = {id(module): path for path, module in twin.named_modules()}
    frame = _innermost(_frames(error.__traceback__), names)
    layer = twin if frame is None else frame.f_locals["self"]
    leaf = next(layer.children(), None) is None
    text = printable(repr(layer) if leaf else type(layer).__name__)
    if path := names[id(layer)]:
        text = f"layer {printable(path)}, {text}"
    given = [] if frame is None else [frame.f_locals[name] for name in ("input", "x") if name in frame.f_locals]
    return f"{text}, given {_sizes(given)}" if leaf and any(isinstance(value, Tensor) for value in given) else text


def _sizes(values: Sequence[Any]) -> str:
    return ", ".join(str(list(value.shape)) for value in values if isinstance(value, Tensor))


def brief(error: BaseException, limit: int = 300) -> str:
    """An error's class and the first line of its text, safe to show."""
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {printable(text, limit)}" if text else type(error).__name__


def _innermost(frames: Iterator[Any], names: dict[int, str]) -> Any:
    """The first frame whose ``self`` is a module of the model, innermost first."""
    return next((frame for frame in frames if id(frame.f_locals.get("self")) in names), None)


def _frames(traceback: TracebackType | None) -> Iterator[Any]:
    frames = []
    while traceback is not None:
        frames.append(traceback.tb_frame)
        traceback = traceback.tb_next
    return reversed(frames)


def _frames_up() -> Iterator[Any]:
    frame = sys._getframe(2)  # noqa: SLF001
    while frame is not None:
        yield frame
        frame = frame.f_back  # type: ignore[assignment]


def home(model: nn.Module) -> torch.device:
    """The device a model lives on: that of its first parameter or buffer, else the CPU."""
    tensors = (tensor for tensors in (model.parameters(), model.buffers()) for tensor in tensors)
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def resolve_device(name: str | torch.device | None, model: nn.Module) -> torch.device:
    """The device that was asked for, or the model's own.

    Raises:
        InputError: there is no such device.
    """
    if name is None:
        return home(model)
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"{name!r} is no device: give cpu, cuda or cuda:K") from error
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise InputError(f"{name} was asked for, and torch finds {count} CUDA devices: give --device cpu")
    return device


def tool(device: torch.device, dtype: torch.dtype | None, mode: Mode | None) -> Tool:
    """Versions and settings for a report's header."""
    from bninspect import __version__

    others = {name: getattr(sys.modules.get(name), "__version__", None) for name in ("torchvision", "timm")}
    return Tool(
        bninspect=__version__,
        python=platform.python_version(),
        torch=str(torch.__version__),
        **others,
        device=str(device),
        dtype=str(dtype).removeprefix("torch.") if dtype else None,
        tf32=bool(torch.backends.cudnn.allow_tf32) if device.type == "cuda" else None,
        mode=mode,
    )
