"""Which finding follows from which: rules say what they explain, and the layers where it begins have to agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from bninspect.rules import catalogue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bninspect.report import Finding
    from bninspect.rules.facts import Facts


def with_causes(findings: Sequence[Finding], facts: Facts) -> list[Finding]:
    """The findings, each with the codes of those that explain it."""
    able = [finding for finding in findings if finding.severity != "info" and _acts(finding, facts)]
    found = []
    for finding in findings:
        codes = {cause.code for cause in able if finding.code in catalogue()[cause.code].explains}
        found.append(msgspec.structs.replace(finding, explained_by=tuple(sorted(codes))))
    return found


def _acts(cause: Finding, facts: Facts) -> bool:
    """Whether what data show may begin where the cause is: a cause of the whole model is everywhere."""
    return not cause.layers or facts.begins({place.path for place in cause.layers})
