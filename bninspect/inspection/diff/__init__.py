"""What differs between two reports, models or files: layers, settings, and channels that moved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bninspect.errors import InputError
from bninspect.inspection._header import tool_without_torch
from bninspect.inspection.diff import entries
from bninspect.inspection.diff.layers import kept_updating, layer_differences, statistics_only
from bninspect.inspection.diff.pairs import in_order, pair
from bninspect.inspection.stats.stored import stored_stats
from bninspect.report import Difference, DiffReport, Source, StatsReport, Tolerance

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from bninspect.layers import BatchNormLayer
    from bninspect.report import Report

TOLERANCES = {
    "strict": Tolerance(mean=1e-5, var=1e-4),
    "default": Tolerance(mean=1e-3, var=1e-2),
    "loose": Tolerance(mean=5e-2, var=2e-1),
}


def diff(
    a: Report | Iterable[BatchNormLayer] | Any,
    b: Report | Iterable[BatchNormLayer] | Any,
    *,
    tolerance: Tolerance | str | tuple[float, float] = "default",
) -> DiffReport:
    """What differs between two reports, or between the stored values of two models; ``a`` is the earlier one.

    Layers are matched by path, and what is left by shape and order (renamed). Settings, shapes, names and whole
    numbers are compared exactly, means in standard deviations of their channel, variances as a ratio.

    Args:
        a: a report of any kind, a module, or layers (:class:`bninspect.layers.BatchNormLayer`).
        b: the same; it may be of another kind than ``a``, and what both know is compared.
        tolerance: ``strict`` (1e-5 standard deviations, 1e-4 of the variance: between runs on CPUs), ``default`` (1e-3,
            1e-2: also TF32), ``loose`` (5e-2, 2e-1: also bfloat16), or the two numbers. Extremes, which are single
            values, may be twenty times as far apart as means.

    Raises:
        InputError: one of them is no report and has no BatchNorm layers, or the tolerance is none.
    """
    limits = tolerance_of(tolerance)
    old, new = _report(a), _report(b)
    partial = _partial(old, new)
    pairs = pair(_layers(old), _layers(new))
    found = [*entries.report_differences(old, new, limits, partial=partial), *_apart(pairs.removed, pairs.added)]
    if not in_order(pairs.together, _layers(old)):
        found.append(Difference(what="setting", path="", field="order of the layers", a="as before", b="another"))
    drifted, updated = [], []
    for before, after in pairs.together:
        own = [*_renamed(before, after), *layer_differences(before, after, limits, partial=partial)]
        if statistics_only(before, after, own):
            drifted.append(after.path)
            updated += [after.path] if kept_updating(before, after) else []
        found += own
    return DiffReport(
        tool=tool_without_torch(),
        a=old.source,
        b=new.source,
        compared=old.schema if old.schema == new.schema else "what both know",
        tolerance=limits,
        equal=not found,
        num_layers=len(pairs.together) if _layers(old) or _layers(new) else getattr(new, "num_layers", 0),
        differences=tuple(found),
        statistics_only=tuple(drifted),
        kept_updating=tuple(updated),
        notes=tuple(_notes(old, new, pairs.together)),
    )


def tolerance_of(given: Tolerance | str | tuple[float, float]) -> Tolerance:
    """``strict``, ``default``, ``loose``, ``MEAN,VAR`` or two numbers, as a :class:`Tolerance`.

    Raises:
        InputError: it is none of these.
    """
    if isinstance(given, Tolerance):
        return given
    if isinstance(given, str) and given in TOLERANCES:
        return TOLERANCES[given]
    try:
        mean, var = map(float, given.split(",") if isinstance(given, str) else given)
    except (TypeError, ValueError):
        mean = var = -1.0
    if not (0 <= mean < float("inf") and 0 <= var < float("inf")):
        raise InputError(
            f"{given!r} is no tolerance: give {', '.join(TOLERANCES)}, or MEAN,VAR such as 1e-3,1e-2 (means in "
            "standard deviations, variances relative)"
        )
    return Tolerance(mean=mean, var=var)


def of_module(model: Any, source: Source | None = None) -> StatsReport:
    """The stored values of a module as a report; nothing is run."""
    from bninspect.observe.layers import batchnorms, describe
    from bninspect.observe.unwrap import unwrap

    model = unwrap(model, values=False)
    layers = [describe(path, module) for path, module in batchnorms(model).items()]
    return stored_stats(layers, source or Source(model=type(model).__name__))


def _report(given: Any) -> Any:
    if hasattr(given, "schema_version"):
        if not hasattr(given, "source"):
            raise InputError("a run that was watched is of no one model: compare files that were saved in it")
        return given
    if hasattr(given, "named_modules"):
        return of_module(given)
    try:
        layers = list(given)
    except TypeError:
        layers = [given]
    if not all(hasattr(layer, "running_mean") and hasattr(layer, "path") for layer in layers):
        raise InputError(
            f"a report, a torch.nn.Module or a list of BatchNorm layers was expected, not {type(given).__name__}"
        )
    return stored_stats(layers, Source(evidence="tensors"))


def _layers(report: Any) -> tuple[Any, ...]:
    """Those whose figures are compared; the findings of a check tell what became of its layers."""
    return () if report.schema == "bninspect.check" else getattr(report, "layers", ())


def _partial(a: Any, b: Any) -> bool:
    """Whether one of them cannot know all that the other knows."""
    return (
        a.schema != b.schema
        or a.source.evidence != b.source.evidence
        or (getattr(a, "num_images", None) is None) != (getattr(b, "num_images", None) is None)
    )


def _apart(removed: list[Any], added: list[Any]) -> Iterator[Difference]:
    for layer in removed:
        yield Difference(what="removed", path=layer.path, a=_words(layer))
    for layer in added:
        yield Difference(what="added", path=layer.path, b=_words(layer))


def _words(layer: Any) -> str:
    return layer.kind if layer.num_features is None else f"{layer.kind}({layer.num_features})"


def _renamed(a: Any, b: Any) -> Iterator[Difference]:
    if a.path != b.path:
        yield Difference(what="renamed", path=b.path, a=a.path, b=b.path)


def _notes(a: Any, b: Any, together: list[tuple[Any, Any]]) -> Iterator[str]:
    """What a reader of the differences has to know: what made the two, and what could not be compared."""
    for name in ("torch", "torchvision", "timm", "device", "dtype", "tf32", "bninspect"):
        old, new = getattr(a.tool, name), getattr(b.tool, name)
        if old is not None and new is not None and old != new:
            yield f"made with {name} {old}, and compared with one made with {name} {new}"
    if None not in (a.source.weights, b.source.weights) and a.source.weights != b.source.weights:
        yield f"the weights are {a.source.weights}, and {b.source.weights}"
    if a.source.batch_sha256 and b.source.batch_sha256 and a.source.batch_sha256 != b.source.batch_sha256:
        yield "the two were made of different batches"
    if any(getattr(old, "dtype", None) != getattr(new, "dtype", None) for old, new in together):
        yield "the inputs of some layers have another dtype than before"
    half = [1 for old, new in together if _has_vectors(old) != _has_vectors(new)]
    if half:
        yield "one of the two holds no channel vectors: the ranges over channels were compared"
    for notes, others in ((a.notes, b.notes), (b.notes, a.notes)):
        yield from (note for note in notes if note not in others)
    if not together and _layers(a) and _layers(b):
        yield "no layer is in both"


def _has_vectors(layer: Any) -> bool:
    return getattr(layer, "channels", None) is not None
