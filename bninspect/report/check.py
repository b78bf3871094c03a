"""The report of ``check``: findings, and the rules that could not look."""

from __future__ import annotations

from typing import Literal

import msgspec

from bninspect.report.header import Source, Struct, Tool
from bninspect.report.judged import Judged  # noqa: TC001  # msgspec reads the types of a struct

Severity = Literal["error", "warning", "info"]


class Place(Struct, frozen=True, kw_only=True):
    """Where a finding was made: a layer, the channels of it (``None``: the layer as a whole), and the numbers.

    ``told`` says the numbers in words, such as ``"2 of 8 channels are off by up to 1.1 standard deviations"``.
    """

    path: str
    channels: tuple[int, ...] | None = None
    told: str = ""
    evidence: dict[str, float | int | None] = msgspec.field(default_factory=dict)


class Finding(Struct, frozen=True, kw_only=True):
    """One kind of fault in one model, with every layer that has it.

    ``path``, ``channels`` and ``evidence`` are those of the first layer (``path`` is ``None`` where the finding is of
    the model as a whole); ``layers`` has all of them. The numbers of ``evidence`` bear the names of the fields of
    :class:`StatsLayer` where they are such fields. ``told`` says them in words. ``explained_by`` are the codes of other
    findings that this one follows from: it goes away with them.
    """

    code: str
    name: str
    severity: Severity
    path: str | None = None
    channels: tuple[int, ...] | None = None
    message: str
    told: str = ""
    evidence: dict[str, float | int | None] = msgspec.field(default_factory=dict)
    why: str = ""
    fix: str
    layers: tuple[Place, ...] = ()
    explained_by: tuple[str, ...] = ()


class Silent(Struct, frozen=True, kw_only=True):
    """A rule that could not be applied, and why; ``layers`` are those it passed over, none: it did not look at all.

    ``needs`` is what it would take, such as ``"--batch SOURCE"``; ``None`` where nothing that is given would help.
    """

    code: str
    name: str
    reason: str
    layers: tuple[str, ...] = ()
    needs: str | None = None


class CheckReport(Struct, frozen=True, kw_only=True):
    """What :func:`bninspect.check` returns: findings by severity, then code.

    ``rules`` are the codes that were asked for; ``silent`` are those of them that could not look. ``layers`` are
    all that were judged, in the order of the model.
    """

    schema: Literal["bninspect.check"] = "bninspect.check"
    schema_version: int = 1
    tool: Tool
    source: Source
    num_layers: int
    num_images: int | None = None
    rules: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    silent: tuple[Silent, ...] = ()
    layers: tuple[Judged, ...] = ()
    notes: tuple[str, ...] = ()
