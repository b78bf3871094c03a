"""What an exported program has fixed: the mode, momentum and eps of its BatchNorm layers are arguments in its graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from torch import fx, nn

from bninspect.observe.norms import BATCH_NORMS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch._ops import OpOverload


class Baked(NamedTuple):
    """The arguments of one call of a function that normalises by batch; ``None``: not told."""

    training: bool | None
    momentum: float | None
    eps: float | None


def baked(model: nn.Module) -> Mapping[str, Baked]:
    """By path of the layer, what the graphs of exported programs within ``model`` say of it; empty for other models."""
    found: dict[str, Baked] = {}
    for path, module in model.named_modules():
        if isinstance(module, fx.GraphModule):
            prefix = f"{path}." if path else ""
            found.update({prefix + name: said for name, said in _calls(module.graph)})
    return found


def _calls(graph: fx.Graph) -> list[tuple[str, Baked]]:
    found = []
    for node in graph.nodes:
        target: Any = node.target
        if node.op != "call_function" or target not in BATCH_NORMS or not hasattr(target, "_schema"):
            continue
        given = _arguments(target, node)
        mean = given.get("running_mean")
        if isinstance(mean, fx.Node) and mean.op == "get_attr":
            training = False if "no_training" in str(target) or "no_update" in str(target) else given.get("training")
            found.append(
                (str(mean.target).rpartition(".")[0], Baked(training, given.get("momentum"), given.get("eps")))
            )
    return found


def _arguments(target: OpOverload[Any, Any], node: fx.Node) -> dict[str, Any]:
    names = [argument.name for argument in target._schema.arguments]  # noqa: SLF001  # nothing public has the names
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}
