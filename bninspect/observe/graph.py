"""Where BatchNorm layers stand in a model: a forward of a shadow is watched, and each tensor's origin and readers kept.

Leaf modules (and every BatchNorm) count as one operation; what the model does between them with functions is seen by a
torch function mode. A tensor's origin is whatever wrote it last; in-place operations are told by its version counter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.dropout import _DropoutNd
from torch.overrides import TorchFunctionMode

from bninspect.layers import Graph, Node, Op
from bninspect.observe.audit import Audit
from bninspect.observe.forward import forward
from bninspect.observe.layers import batchnorms, is_batchnorm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bninspect.report import FunctionalCall

_ROLES: tuple[tuple[tuple[type[nn.Module], ...], str], ...] = (
    ((_ConvTransposeNd,), "conv_transpose"),
    ((_ConvNd,), "conv"),
    ((nn.Linear,), "linear"),
    ((nn.LayerNorm,), "layer_norm"),
    ((nn.MultiheadAttention,), "attention"),
    ((nn.RNNBase,), "rnn"),
    ((nn.Embedding, nn.EmbeddingBag), "embedding"),
    ((nn.ReLU, nn.ReLU6), "relu"),
    ((_DropoutNd,), "dropout"),
)
_FUNCTIONS = {
    **dict.fromkeys(("relu", "relu_", "relu6"), "relu"),
    **dict.fromkeys(("dropout", "dropout1d", "dropout2d", "dropout3d"), "dropout"),
    **dict.fromkeys(
        ("transpose", "permute", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "einsum"), "transpose"
    ),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), "conv"),
    "linear": "linear",
    "layer_norm": "layer_norm",
    "embedding": "embedding",
    "multi_head_attention_forward": "attention",
}
_PASSING = frozenset(
    {"Sigmoid", "Softmax", "LogSoftmax", "Flatten", "Unflatten", "Identity", "Softmax2d"}
    | {"sigmoid", "softmax", "log_softmax", "flatten", "view", "reshape", "squeeze", "normalize"}
)
_AXES = ("__get__",)  # x.T and x.mT arrive as property getters


class _Made:
    """An operation of the graph, while it is being recorded."""

    def __init__(self, op: Op, inputs: list[_Made]) -> None:
        self.op, self.inputs = op, inputs
        self.readers: list[_Made | None] = []  # None is the model's output
        for origin in {id(made): made for made in inputs}.values():
            origin.readers.append(self)

    def finished(self) -> Op:
        op = self.op
        return Op(kind=op.kind, role=op.role, path=op.path, bias=op.bias, groups=op.groups, consumers=len(self.readers))


class _Recorder(TorchFunctionMode):
    """Follows tensors through one forward."""

    def __init__(self, names: dict[int, str]) -> None:
        super().__init__()
        self.names = names
        self.inside = 0
        self.alive: dict[int, tuple[Tensor, _Made]] = {}
        self.versions: list[dict[int, int]] = []
        self.calls: dict[str, list[tuple[_Made, Tensor]]] = {}

    def watch(self, module: nn.Module) -> None:
        module.register_forward_pre_hook(self._enter, prepend=True, with_kwargs=True)
        module.register_forward_hook(self._leave, with_kwargs=True)

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:  # noqa: ARG002
        self.inside += 1
        self.versions.append({id(tensor): tensor._version for tensor in _tensors((args, kwargs))})  # noqa: SLF001

    def _leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        self.inside -= 1
        versions = self.versions.pop()
        if self.inside:
            return
        given = list(_tensors((args, kwargs)))
        made = self._record(describe(module, self.names[id(module)]), given, output, versions)
        if made is not None and is_batchnorm(module) and given:
            self.calls.setdefault(self.names[id(module)], []).append((made, given[0]))

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.inside:
            return func(*args, **kwargs)
        given = list(_tensors((args, kwargs)))
        versions = {id(tensor): tensor._version for tensor in given}  # noqa: SLF001
        output = func(*args, **kwargs)
        if given:
            self._record(_function(func, args, kwargs), given, output, versions)
        return output

    def _record(self, op: Op, given: list[Tensor], output: Any, versions: dict[int, int]) -> _Made | None:
        """Note an operation, unless it gave back an input untouched or made no tensor."""
        results = list(_tensors(output))
        same = all(versions.get(id(result)) == result._version for result in results)  # noqa: SLF001
        if not results or (same and op.role not in ("dropout", "batchnorm")):
            return None
        made = _Made(op, [self.alive[id(tensor)][1] for tensor in given if id(tensor) in self.alive])
        for result in results:
            self.alive[id(result)] = (result, made)
        return made

    def source(self, inputs: Sequence[Any]) -> None:
        """Name the model's inputs."""
        for tensor in _tensors(inputs):
            self.alive[id(tensor)] = (tensor, _Made(Op(kind="input", role="input"), []))

    def sink(self, output: Any) -> list[_Made]:
        """Name the model's outputs, and give their origins."""
        ends = [self.alive[id(tensor)][1] for tensor in _tensors(output) if id(tensor) in self.alive]
        for made in {id(made): made for made in ends}.values():
            made.readers.append(None)
        return ends


def watch(twin: nn.Module, inputs: Sequence[Any], *, what: str) -> tuple[Graph, tuple[FunctionalCall, ...]]:
    """Run a shadow and describe its BatchNorm layers in call order; also the batch_norm calls of no module.

    Raises:
        ForwardError: the model's own code raised.
    """
    names = {id(module): path for path, module in twin.named_modules()}
    recorder, audit = _Recorder(names), Audit(names)
    layers = batchnorms(twin)
    for module in twin.modules():
        if _is_leaf(module) and not isinstance(module, nn.Identity):
            recorder.watch(module)
    for module in layers.values():
        audit.watch(module)
    recorder.source(inputs)
    with audit, recorder:
        output = forward(twin, inputs, what=what)
    ends = recorder.sink(output)
    images = max(1, next((len(tensor) for tensor in inputs if isinstance(tensor, Tensor) and tensor.dim()), 1))
    outputs = set(map(id, _ends(ends)))
    nodes = {path: _node(path, calls, images, outputs) for path, calls in recorder.calls.items()}
    missing = tuple(path for path in layers if path not in nodes)
    return Graph(nodes=nodes, never_called=missing, aliases=_aliases(twin)), audit.report()


def _aliases(twin: nn.Module) -> dict[str, tuple[str, ...]]:
    """Other names of BatchNorm modules that have more than one."""
    names: dict[int, list[str]] = {}
    for path, module in twin.named_modules(remove_duplicate=False):
        if is_batchnorm(module):
            names.setdefault(id(module), []).append(path)
    return {first: tuple(others) for first, *others in names.values() if others}


def _node(path: str, calls: list[tuple[_Made, Tensor]], images: int, outputs: set[int]) -> Node:
    made, given = calls[0]
    origin = made.inputs[0] if made.inputs else None
    return Node(
        path=path,
        calls=len(calls),
        input_shape=tuple(given.shape),
        values_per_image=min(x.numel() / max(x.shape[1], 1) / images if x.dim() > 1 else 1.0 for _, x in calls),
        producer=origin.finished() if origin else None,
        followers=tuple(reader.finished() for reader in made.readers if reader is not None),
        dropout=_upstream(made, lambda op: op.role == "dropout", lambda op: op.role == "batchnorm"),
        transposed=origin is not None and _swapped(origin),
        is_output=any(id(call) in outputs for call, _ in calls),
    )


def _swapped(origin: _Made) -> bool:
    stop = ("conv", "conv_transpose", "rnn", "embedding", "attention", "batchnorm")
    return _upstream(origin, lambda op: op.role == "transpose", lambda op: op.role in stop) is not None


def _upstream(made: _Made, wanted: Callable[[Op], bool], ends: Callable[[Op], bool]) -> str | None:
    """Path or name of the nearest operation before ``made`` that is wanted, not looking past those that end it."""
    seen, queue = {id(made)}, list(made.inputs)
    while queue:
        found = queue.pop(0)
        if id(found) in seen:
            continue
        seen.add(id(found))
        if wanted(found.op):
            return found.op.path or found.op.kind
        if not ends(found.op):
            queue += found.inputs
    return None


def _ends(ends: list[_Made]) -> Iterator[_Made]:
    """The BatchNorm operations that the outputs come from through nothing but sigmoids, softmaxes and reshapes."""
    queue = list(ends)
    while queue:
        made = queue.pop()
        if made.op.role == "batchnorm":
            yield made
        elif made.op.kind in _PASSING:
            queue += made.inputs


def _is_leaf(module: nn.Module) -> bool:
    """Modules that are one operation: without children, or of a kind that is known."""
    if is_batchnorm(module) or isinstance(module, (_ConvNd, nn.Linear, nn.MultiheadAttention)):
        return True
    return next(module.children(), None) is None


def describe(module: nn.Module, path: str) -> Op:
    """The operation that a module is."""
    kind = type(module).__name__
    if is_batchnorm(module):
        return Op(kind=kind, role="batchnorm", path=path)
    role = next((role for kinds, role in _ROLES if isinstance(module, kinds)), "other")
    if role == "dropout" and not module.p:
        role = "other"
    bias = getattr(module, "bias", None)
    groups = getattr(module, "groups", 1)
    return Op(
        kind=kind,
        role=role,
        path=path,
        bias=bias.numel() if isinstance(bias, Tensor) else 0,
        groups=groups if isinstance(groups, int) else 1,
    )


def _function(func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Op:
    """The operation that a torch function is; a convolution with a bias is known by its third argument."""
    name = getattr(func, "__name__", "")
    owner = getattr(getattr(func, "__self__", None), "__name__", "")
    role = _FUNCTIONS.get(name, "transpose" if name in _AXES and owner in ("T", "mT") else "other")
    if role == "dropout" and _second(args, kwargs, "p", 0.5) == 0:
        role = "other"
    bias = kwargs.get("bias", args[2] if len(args) > 2 else None) if role in ("conv", "linear") else None
    return Op(kind=name, role=role, bias=bias.numel() if isinstance(bias, Tensor) else 0)


def _second(args: Sequence[Any], kwargs: dict[str, Any], name: str, default: Any) -> Any:
    return kwargs.get(name, args[1] if len(args) > 1 else default)


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested lists, tuples, dicts and objects with fields, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)
    elif hasattr(value, "__dataclass_fields__") or type(value).__name__ == "ImageList":
        yield from _tensors(vars(value))


def example(shapes: Sequence[tuple[int, ...]], device: torch.device, images: int = 2) -> tuple[Tensor, ...]:
    """Made-up inputs of these shapes, uniform in [0, 1)."""
    return tuple(torch.rand((images, *shape), device=device) for shape in shapes)


def guess(model: nn.Module) -> tuple[int, ...] | None:
    """The shape of an image that the first layer of a model would take; ``None`` where that is anyone's guess."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            return (module.in_features,)
        if isinstance(module, _ConvNd) and not isinstance(module, _ConvTransposeNd):
            sides = {1: (256,), 2: (224, 224), 3: (16, 112, 112)}[len(module.kernel_size)]
            return (module.in_channels, *sides)
        if isinstance(module, (nn.Embedding, nn.RNNBase)):
            return None
    return None
