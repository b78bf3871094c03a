"""Which operation a module is, or a function of torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.dropout import _DropoutNd

from bninspect.layers import FOLDABLE, Op
from bninspect.observe.layers import is_batchnorm

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), "conv_transpose"),
    "linear": "linear",
    "layer_norm": "layer_norm",
    "embedding": "embedding",
    "multi_head_attention_forward": "attention",
}
_AXES = ("__get__",)  # x.T and x.mT arrive as property getters
_ATTACHED = frozenset({"parametrizations", "weight_fake_quant", "activation_post_process"})  # see weights, or watch
_SCALING = frozenset(
    {"add", "sub", "mul", "div", "truediv", "add_", "sub_", "mul_", "div_", "multiply", "divide", "subtract"}
    | {f"__{i}{name}__" for name in ("add", "sub", "mul", "truediv") for i in ("", "i", "r")}
)

_POINTWISE = frozenset(
    {"gelu", "tanh", "sigmoid", "silu", "elu", "selu", "celu", "leaky_relu", "leakyrelu", "prelu", "softplus", "mish"}
    | {"hardswish", "hardtanh", "hardsigmoid", "softsign", "logsigmoid", "tanhshrink", "clamp", "abs", "exp", "sqrt"}
    | {"identity", "clone", "contiguous", "detach", "to", "float", "half", "double", "bfloat16", "type_as"}
    | {"dropout", "alphadropout", "featurealphadropout", "alpha_dropout", "masked_fill", "where"}
)


def is_one(module: nn.Module) -> bool:
    """Whether a module counts as one operation: no child of it can run on what comes from the input."""
    if is_batchnorm(module) or isinstance(module, nn.MultiheadAttention):
        return True
    return not any(name not in _ATTACHED for name, _ in module.named_children())


def is_opened(module: nn.Module) -> bool:
    """Whether a module is a convolution or linear layer with more in it, whose own function stands for it."""
    return isinstance(module, (_ConvNd, nn.Linear)) and not is_one(module)


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


def called(func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Op:
    """The operation that a torch function is; a convolution with a bias is known by its third argument."""
    name = getattr(func, "__name__", "").partition(".")[0]  # an operator of an exported program is conv2d.default
    owner = getattr(getattr(func, "__self__", None), "__name__", "")
    role = _FUNCTIONS.get(name, "transpose" if name in _AXES and owner in ("T", "mT") else "other")
    if role == "dropout" and _argument(args, kwargs, 1, "p", 0.5) == 0:
        role = "other"
    bias = _argument(args, kwargs, 2, "bias", None) if role in FOLDABLE else None
    groups = _argument(args, kwargs, 6, "groups", 1) if role in ("conv", "conv_transpose") else 1
    return Op(kind=name, role=role, bias=bias.numel() if isinstance(bias, Tensor) else 0, groups=groups)


def is_scaling(op: Op) -> bool:
    """Whether an operation is plain arithmetic, such as a scale and an offset by channel."""
    return op.kind in _SCALING


def is_pointwise(op: Op) -> bool:
    """Whether an operation leaves every value at its place: an activation, dropout, plain arithmetic, a conversion."""
    return op.role in ("relu", "dropout") or is_scaling(op) or op.kind.lower().rstrip("_") in _POINTWISE


def _argument(args: Sequence[Any], kwargs: dict[str, Any], position: int, name: str, default: Any) -> Any:
    return kwargs.get(name, args[position] if len(args) > position else default)
