"""Where BatchNorm layers stand in a model: a forward of a shadow is watched, and each tensor's origin and readers kept.

Modules without children that run (and every BatchNorm) count as one operation; what the model does between them with
functions is seen by a torch function mode. Where a convolution holds its BatchNorm, its function stands for it. A
tensor's origin is whatever wrote it last; in-place operations are told by its version counter.
"""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.overrides import TorchFunctionMode

from bninspect.layers import FOLDABLE, Graph, Node, Op
from bninspect.observe.audit import Audit, Owners
from bninspect.observe.forward import forward
from bninspect.observe.guard import version_of
from bninspect.observe.layers import batchnorms, is_batchnorm
from bninspect.observe.norms import norm_of
from bninspect.observe.ops import called, describe, is_one, is_opened, is_pointwise, is_scaling
from bninspect.observe.process import own_dtype
from bninspect.observe.steps import tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bninspect.observe.forward import Forward
    from bninspect.report import FunctionalCall

_PASSING = frozenset(
    {"Sigmoid", "Softmax", "LogSoftmax", "Flatten", "Unflatten", "Identity", "Softmax2d"}
    | {"sigmoid", "softmax", "log_softmax", "flatten", "view", "reshape", "squeeze", "normalize"}
)


class _Made:
    """An operation of the graph, while it is being recorded."""

    def __init__(self, op: Op, inputs: list[_Made], owner: str | None = None) -> None:
        self.op, self.inputs, self.owner = op, inputs, owner
        self.live: bool = op.role == "input" or any(made.live for made in inputs)
        self.readers: list[_Made | None] = []  # None is the model's output
        for origin in {id(made): made for made in inputs}.values():
            origin.readers.append(self)

    def finished(self) -> Op:
        op = self.op
        return Op(kind=op.kind, role=op.role, path=op.path, bias=op.bias, groups=op.groups, consumers=len(self.readers))


class _Recorder(TorchFunctionMode):
    """Follows tensors through one forward."""

    def __init__(self, names: dict[int, str], layers: Owners) -> None:
        super().__init__()
        self.names, self.layers = names, layers
        self.inside = 0
        self.owners: list[nn.Module] = []
        self.ran: set[str] = set()
        self.alive: dict[int, tuple[Tensor, _Made]] = {}
        self.versions: list[dict[int, int | None]] = []
        self.calls: dict[str, list[tuple[_Made, Tensor]]] = {}
        self.ends: list[_Made] | None = None

    def watch(self, module: nn.Module) -> None:
        if isinstance(module, torch.jit.ScriptModule):
            return  # it takes no hooks
        if is_opened(module):
            module.register_forward_pre_hook(lambda owner, _: self.owners.append(owner), prepend=True)
            module.register_forward_hook(lambda *_: self._close())
        elif is_one(module) and not isinstance(module, nn.Identity):
            module.register_forward_pre_hook(self._enter, prepend=True, with_kwargs=True)
            module.register_forward_hook(self._leave, with_kwargs=True)

    def _close(self) -> None:
        self.owners.pop()

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:  # noqa: ARG002
        self.inside += 1
        self.versions.append({id(tensor): version_of(tensor) for tensor in _tensors((args, kwargs))})

    def _leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        self.inside -= 1
        versions = self.versions.pop()
        if is_batchnorm(module):
            self.ran.add(self.names[id(module)])
        if self.inside:
            return
        given = list(_tensors((args, kwargs)))
        if is_batchnorm(module):
            self._called(module, given, output, versions)
        else:
            self._record(describe(module, self.names[id(module)]), given, output, versions)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.inside:
            return func(*args, **kwargs)
        given = list(_tensors((args, kwargs)))
        versions = {id(tensor): version_of(tensor) for tensor in given}
        output = func(*args, **kwargs)
        norm = norm_of(func, args, kwargs)
        owner = norm and self.layers.of(norm)[0]
        if owner:  # a layer that is not called as a module
            self._called(owner, given, output, versions)
        elif given:
            self._record(self._own(called(func, args, kwargs)), given, output, versions)
        return output

    def _called(self, layer: nn.Module, given: list[Tensor], output: Any, versions: dict[int, int | None]) -> None:
        path = self.names[id(layer)]
        self.ran.add(path)
        made = self._record(describe(layer, path), given, output, versions)
        if made is not None and given:
            self.calls.setdefault(path, []).append((made, given[0]))

    def _own(self, op: Op) -> Op:
        """The layer that a function was called by, where it is that layer's own operation."""
        if not self.owners or op.role not in FOLDABLE:
            return op
        layer = describe(self.owners[-1], self.names[id(self.owners[-1])])
        return layer if layer.role == op.role else op

    def _record(self, op: Op, given: list[Tensor], output: Any, versions: dict[int, int | None]) -> _Made | None:
        """Note an operation, unless it gave back an input untouched or made no tensor."""
        results = list(_tensors(output))
        same = all(versions.get(id(result)) == version_of(result) for result in results)
        if not results or (same and op.role not in ("dropout", "batchnorm")):
            return None
        owner = self.names[id(self.owners[-1])] if self.owners else None
        if op.role == "other" and _swaps_sizes(given[0], results[0]):
            op = Op(kind=op.kind, role="transpose", path=op.path)
        made = _Made(op, [self.alive[id(tensor)][1] for tensor in given if id(tensor) in self.alive], owner)
        for result in results:
            self.alive[id(result)] = (result, made)
        return made

    def source(self, inputs: Sequence[Any]) -> None:
        """Name the model's inputs."""
        for tensor in _tensors(inputs):
            self.alive[id(tensor)] = (tensor, _Made(Op(kind="input", role="input"), []))

    def sink(self, output: Any) -> None:
        """Name the model's outputs."""
        ends = [self.alive[id(tensor)][1] for tensor in _tensors(output) if id(tensor) in self.alive]
        for made in {id(made): made for made in ends}.values():
            made.readers.append(None)
        self.ends = [*(self.ends or ()), *ends]

    def around(self, twin: nn.Module, by: Forward) -> Forward:
        """The user's own function; the model's inputs and outputs are then those of the model's call within it."""
        twin.register_forward_hook(lambda _, __, output: self.sink(output))

        @wraps(by)
        def run(model: nn.Module, step: Any) -> Any:
            self.source(tensors(step))
            return by(model, step)

        return run


def _swaps_sizes(given: Tensor, result: Tensor) -> bool:
    """Whether a result has the sizes of what was given in another order: a module that transposes shows no more."""
    return given.shape != result.shape and sorted(given.shape) == sorted(result.shape)


def watch(
    twin: nn.Module, inputs: Sequence[Any], *, what: str, by: Forward | None = None
) -> tuple[Graph, tuple[FunctionalCall, ...]]:
    """Run a shadow and describe its BatchNorm layers in call order; also the batch_norm calls of no module.

    With ``by``, the user's own function, images are counted at the first layer.

    Raises:
        ForwardError: the model's own code raised.
    """
    names = {id(module): path for path, module in twin.named_modules()}
    audit = Audit(twin, lambda *_: None)
    recorder = _Recorder(names, audit.owners)
    layers = batchnorms(twin)
    for module in twin.modules():
        recorder.watch(module)
    for module in layers.values():
        audit.watch(module)
    if by is None:
        recorder.source(inputs)
    else:
        by = recorder.around(twin, by)
    with audit, recorder:
        output = forward(twin, inputs, what=what, by=by)
    if recorder.ends is None:
        recorder.sink(output)
    counted = inputs if by is None else [given for calls in recorder.calls.values() for _, given in calls[:1]]
    images = max(1, next((len(tensor) for tensor in counted if isinstance(tensor, Tensor) and tensor.dim()), 1))
    outputs = set(map(id, _ends(recorder.ends or [])))
    nodes = {path: _node(path, calls, images, outputs) for path, calls in recorder.calls.items()}
    missing = tuple(path for path in layers if path not in recorder.ran)
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
    origin = _unscaled(made.inputs[0]) if made.inputs else None
    return Node(
        path=path,
        calls=len(calls),
        input_shape=tuple(given.shape),
        values_per_image=min(x.numel() / max(x.shape[1], 1) / images if x.dim() > 1 else 1.0 for _, x in calls),
        producer=origin.finished() if origin else None,
        origin=_behind_pointwise(origin) if origin else None,
        followers=tuple(reader.finished() for reader in made.readers if reader is not None),
        dropout=_upstream(made, lambda op: op.role == "dropout", lambda op: op.role == "batchnorm"),
        transposed=origin is not None and _swapped(origin),
        is_output=any(id(call) in outputs for call, _ in calls),
    )


def _unscaled(origin: _Made) -> _Made:
    """The convolution that a layer holds together with its BatchNorm, where it scales between the two (torch's QAT)."""
    made = origin
    while made.owner and is_scaling(made.op):
        before = [source for source in made.inputs if source.live]
        if len(before) != 1 or len(before[0].readers) != 1 or before[0].owner != made.owner:
            return origin
        made = before[0]
    return made if made.owner and made.op.role in FOLDABLE else origin


def _behind_pointwise(made: _Made) -> Op | None:
    """The nearest operation, ``made`` or before it, that does more than change each value at its place."""
    found, queue = [], [made]
    for one in queue:  # grows
        if is_pointwise(one.op):
            queue += (before for before in one.inputs if not any(before is known for known in queue))
        else:
            found.append(one)
    found.sort(key=lambda one: one.op.role == "input")  # the other side of a residual addition
    return found[0].finished() if found else None


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


def example(shapes: Sequence[tuple[int, ...]], twin: nn.Module, device: torch.device) -> tuple[Tensor, ...]:
    """Two made-up inputs of each of these shapes, uniform in [0, 1), of the type of the model's parameters."""
    return tuple(torch.rand((2, *shape), dtype=own_dtype(twin), device=device) for shape in shapes)


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
