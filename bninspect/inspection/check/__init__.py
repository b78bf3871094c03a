"""What is wrong with the BatchNorm layers of a model: the rules are applied to all that can be found out about it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from bninspect._collector import without_collections
from bninspect.errors import InputError
from bninspect.inspection._header import tool_without_torch
from bninspect.inspection.check.causes import with_causes
from bninspect.inspection.check.remedies import command
from bninspect.layers import BatchNormLayer
from bninspect.report import Channels, CheckReport, Finding, Silent, Source
from bninspect.report.judged import Judged, Measured, measured
from bninspect.rules import catalogue
from bninspect.rules.facts import Facts, Hit, LayerFacts, Silence

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import torch
    from torch import Tensor, nn

    from bninspect.report import Shape
    from bninspect.rules._rule import Rule

_GIVE = re.compile(r"\bgive (?P<words>[^;(]*)(\((?P<option>--[^)]*)\))?")
SEVERITIES = ("error", "warning", "info")


def check(
    model: nn.Module | Sequence[BatchNormLayer],
    batch: Tensor | tuple[Any, ...] | Iterable[Any] | None = None,
    *,
    input_size: Sequence[int] | Sequence[Sequence[int]] | None = None,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    forward: Callable[[nn.Module, Any], Any] | None = None,
    source: Source | None = None,
    channels: bool = False,
) -> CheckReport:
    """Apply every rule to a model, its graph and, if a batch is given, to what the batch does; nothing is changed.

    Args:
        model: a module, left exactly as it is found; or stored layers, which are looked at without torch.
        batch: real data, prepared as for evaluation: a tensor ``[N, ...]``, a tuple of tensors for a model of several
            inputs, or an iterable of batches as training makes them. Rules on data are silent without it.
        input_size: shape of one input without its batch dimension, for the rules on the graph; default that of the
            batch, or a guess from the first layer. Several for several inputs.
        batch_size: images in one training step, for the rules that depend on it. A tensor is run in pieces of it.
        device: where the batch runs; default where the model is.
        select: codes or their beginnings (``BN1``, ``BN203``); only these rules are applied.
        ignore: the same, for rules that are not applied.
        forward: ``forward(model, step)`` runs each step of ``batch`` just as it comes, as in :func:`bninspect.stats`.
            What needs the images of steps in other batches regroups them, where each has its entry in the tensors
            and lists of a step.
        source: where model and batch came from, for the report's header.
        channels: the report keeps the vectors of each layer, as a page shows them.

    Raises:
        InputError: no rule has such a code; the batch or the shape does not fit the model.
        ForwardError: the model's forward raised.
    """
    rules = chosen(select, ignore)
    if batch_size is not None and batch_size < 1:
        raise InputError(f"the batch size must be at least 1, and {batch_size} was given")
    if isinstance(model, (list, tuple)):
        return _stored(model, rules, batch_size, source or Source(evidence="tensors"), channels=channels)
    if forward is not None and batch is None:
        raise InputError("forward runs the steps of a batch, and no batch was given")
    from bninspect.inspection.check.evidence import Request, gather

    needs = frozenset(need.rstrip("?") for rule in rules for need in rule.needs)
    wanted = frozenset(rule.code for rule in rules)
    source = source or Source(model=type(model).__name__)
    found = gather(Request(model, batch, _sizes(input_size), batch_size, device, forward, source, wanted, needs))
    shape = source.batch_shape or found.batch_shape
    return _report(
        rules,
        found.facts,
        msgspec.structs.replace(source, batch_shape=shape),
        tool=found.tool,
        num_images=found.num_images,
        notes=found.notes,
        channels=channels,
    )


def chosen(select: Sequence[str] = (), ignore: Sequence[str] = ()) -> list[Rule]:
    """The rules whose code begins with one of ``select`` (none: all), and with none of ``ignore``.

    Raises:
        InputError: no rule has a code that begins so.
    """
    rules = {code: rule for code, rule in catalogue().items() if not rule.in_training}
    for prefix in (*select, *ignore):
        if not prefix or not any(code.startswith(prefix.upper()) for code in rules):
            families = ", ".join(sorted({code[:3] for code in rules}))
            hint = "; BN5 is told while a model trains, by bninspect.watch" if prefix.upper().startswith("BN5") else ""
            raise InputError(f"no rule has a code that begins with {prefix!r}: the families are {families}{hint}")
    wanted, unwanted = (tuple(prefix.upper() for prefix in prefixes) for prefixes in (select, ignore))
    return [
        rule
        for code, rule in rules.items()
        if (not wanted or code.startswith(wanted)) and not (unwanted and code.startswith(unwanted))
    ]


@without_collections()
def _stored(
    layers: Sequence[BatchNormLayer], rules: list[Rule], batch_size: int | None, source: Source, *, channels: bool
) -> CheckReport:
    if not all(isinstance(layer, BatchNormLayer) for layer in layers):
        raise InputError("a torch.nn.Module or stored BatchNorm layers were expected")
    why = dict.fromkeys(("graph", "data"), "stored values alone: give a model that can be run")
    exported = source.evidence == "graph" or source.model_kind == "TorchScript archive"
    facts = Facts(
        tuple(map(LayerFacts, layers)), batch_size=batch_size, exported=exported, averaged=source.averaged, why=why
    )
    tool = tool_without_torch()
    return _report(rules, facts, source, channels=channels, tool=tool, num_images=None, notes=())


def _report(rules: list[Rule], facts: Facts, source: Source, *, channels: bool, **header: Any) -> CheckReport:
    findings: list[Finding] = []
    silent: list[Silent] = []
    for rule in rules:
        reason = facts.missing(rule.needs)
        outcomes = [Silence(reason)] if reason else list(rule(facts))
        if not any(isinstance(outcome, Silence) for outcome in outcomes):
            outcomes += facts.unseen(rule.needs)
        findings += _grouped(rule, [outcome for outcome in outcomes if isinstance(outcome, Hit)], source)
        silent += [_silent(rule, outcome) for outcome in outcomes if isinstance(outcome, Silence)]
    findings.sort(key=lambda finding: (SEVERITIES.index(finding.severity), finding.code))
    return CheckReport(
        source=source,
        num_layers=len(facts.layers),
        rules=tuple(rule.code for rule in rules),
        findings=tuple(with_causes(findings, facts)),
        silent=tuple(silent),
        layers=tuple(_judged(layer, channels=channels) for layer in facts.layers),
        **header,
    )


def _judged(layer: LayerFacts, *, channels: bool) -> Judged:
    """How far it is from the batch, where there was one."""
    stored = layer.stored
    seen = measured(layer.live) if layer.channels is not None else Measured(path=stored.path or stored.kind)
    return Judged(
        path=seen.path,
        kind=stored.kind,
        num_features=stored.num_features,
        eps=stored.eps,
        d=seen.d,
        r=seen.r,
        channels=_channels(layer) if channels else None,
    )


def _channels(layer: LayerFacts) -> Channels | None:
    """What the batch did in it, or else what is stored of it."""
    if layer.channels is not None or not layer.sound or not layer.lengths:
        return layer.channels  # type: ignore[no-any-return]
    names = ("weight", "bias", "running_mean", "running_var")
    return Channels(**{name: getattr(layer.stored, name) for name in names})


def _silent(rule: Rule, silence: Silence) -> Silent:
    """A reason says what would help, as ``give batch (--batch SOURCE)``: the option, or else the words."""
    wanted = _GIVE.search(silence.reason)
    needs = (wanted["option"] or wanted["words"]).strip() if wanted else None
    return Silent(code=rule.code, name=rule.name, reason=silence.reason, layers=silence.layers, needs=needs)


def _grouped(rule: Rule, hits: list[Hit], source: Source) -> list[Finding]:
    """One finding for all hits of one sentence and severity."""
    groups: dict[tuple[str, str], list[Hit]] = {}
    for hit in hits:
        groups.setdefault((hit.severity or rule.severity, hit.message), []).append(hit)
    return [_finding(rule, same, source) for same in groups.values()]


def _finding(rule: Rule, hits: list[Hit], source: Source) -> Finding:
    first = hits[0]
    places = tuple(hit.place for hit in hits if hit.place is not None)
    fix = _sentence(first.fix or rule.section("Do"))
    return Finding(
        code=rule.code,
        name=rule.name,
        severity=first.severity or rule.severity,
        path=places[0].path if places else None,
        channels=places[0].channels if places else None,
        message=first.message,
        told=places[0].told if places else first.told,
        evidence=places[0].evidence if places else first.evidence,
        why=_sentence(rule.section("Why")),
        fix=f"{fix} Run: {command(rule.remedy, source)}" if rule.remedy and first.runs else fix,
        layers=places,
    )


def _sentence(text: str) -> str:
    """With a capital, unless it starts with a name of code."""
    return text[:1].upper() + text[1:] if text.partition(" ")[0].rstrip(",").isalpha() else text


def _sizes(input_size: Any) -> list[Shape]:
    if input_size is None:
        return []
    sizes = list(input_size)
    shapes = [tuple(size) for size in sizes] if sizes and not isinstance(sizes[0], int) else [tuple(sizes)]
    if not sizes or not all(all(isinstance(length, int) and length > 0 for length in shape) for shape in shapes):
        raise InputError(f"an input size is a tuple of positive integers such as (3, 224, 224), not {input_size!r}")
    return shapes
