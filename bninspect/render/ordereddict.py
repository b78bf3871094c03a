"""The summary as the ``torchsummary`` package builds it: an OrderedDict of OrderedDicts, evaluable, on every Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bninspect.render._view import listed
from bninspect.text import printable

if TYPE_CHECKING:
    from bninspect.report import SummaryLayer, SummaryReport

SCHEMAS = ("bninspect.summary",)


def render(report: SummaryReport, *, color: bool, width: int | None) -> str:  # noqa: ARG001
    """Keys, order and values of torchsummary; BatchNorm rows also have the sizes of gamma, beta and running_mean."""
    entries = [(layer.name, _entry(layer)) for layer in report.layers]
    joint = ",\n" + " " * len("OrderedDict([")
    body = joint.join(f"({printable(name)!r},\n{' ' * 14}{_dict(entry, 14)})" for name, entry in entries)
    return f"OrderedDict([{body}])\n"


def _dict(entry: list[tuple[str, Any]], indent: int) -> str:
    joint = ",\n" + " " * (indent + len("OrderedDict(["))
    return f"OrderedDict([{joint.join(repr(pair) for pair in entry)}])"


def _entry(layer: SummaryLayer) -> list[tuple[str, Any]]:
    """``trainable`` is absent where a layer has no weight, and ``nb_params`` counts weight and bias alone."""
    entry: list[tuple[str, Any]] = [
        ("input_shape", listed(layer.input_shape)),
        ("output_shape", listed(layer.output_shape)),
    ]
    if layer.weight_requires_grad is not None:
        entry.append(("trainable", layer.weight_requires_grad))
    entry.append(("nb_params", _elements(layer.weight_size) + _elements(layer.bias_size)))
    if layer.is_batchnorm:
        sizes = (layer.weight_size, layer.bias_size, layer.running_mean_size)
        names = ("gamma_size", "beta_size", "running_mean_size")
        entry += [(name, listed(size)) for name, size in zip(names, sizes, strict=True)]
    return entry


def _elements(size: tuple[int, ...] | None) -> int:
    if size is None:
        return 0
    total = 1
    for length in size:
        total *= length
    return total
