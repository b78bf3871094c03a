"""JUnit XML, which most CI systems show: a rule is a test case, or a layer that differs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bninspect.render._check import told
from bninspect.render._diff import value, verdict
from bninspect.text import printable

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from bninspect.report import CheckReport, DiffReport

SCHEMAS = ("bninspect.check", "bninspect.diff")
_LIMIT = 2000


def render(report: Any, *, color: bool, width: int | None) -> str:  # noqa: ARG001
    """One suite: errors and warnings fail, infos are its output, rules that could not look are skipped."""
    from xml.etree import ElementTree as ET

    if report.schema == "bninspect.diff":
        suite = ET.Element("testsuite", name="bninspect diff")
        _differences(suite, report)
    else:
        suite = ET.Element("testsuite", name=printable(f"bninspect check {report.source.model or ''}".strip()))
        for code in report.rules:
            _case(suite, code, report)
    counted = {"tests": "testcase", "failures": "testcase/failure", "skipped": "testcase/skipped"}
    for name, path in counted.items():
        cases = [case for case in suite if case.find(path.partition("/")[2] or ".") is not None]
        suite.set(name, str(len(cases)))
    suite.set("errors", "0")
    ET.indent(suite)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(suite, encoding="unicode") + "\n"


def _differences(suite: Element, report: DiffReport) -> None:
    """A failing case for each place that differs; a case that passes where none does."""
    from xml.etree import ElementTree as ET

    places: dict[str, list[str]] = {}
    for found in report.differences:
        text = f"{found.what} {found.field or ''}".rstrip() + f": {value(found.a)} -> {value(found.b)}"
        places.setdefault(found.path or "(model)", []).append(text)
    if not places:
        ET.SubElement(suite, "testcase", classname="bninspect.diff", name="no difference")
    for path, texts in places.items():
        case = ET.SubElement(suite, "testcase", classname="bninspect.diff", name=printable(path))
        message = printable("; ".join(texts), _LIMIT)
        ET.SubElement(case, "failure", type="difference", message=message).text = verdict(report)


def _case(suite: Element, code: str, report: CheckReport) -> None:
    from xml.etree import ElementTree as ET

    case = ET.SubElement(suite, "testcase", classname="bninspect.check", name=code)
    for finding in (finding for finding in report.findings if finding.code == code):
        head, *lines = (printable(line, _LIMIT) for line in told(finding))
        if finding.severity == "info":
            ET.SubElement(case, "system-out").text = "\n".join([head, *lines])
        else:
            ET.SubElement(case, "failure", type=finding.severity, message=head).text = "\n".join(lines)
    for silent in (silent for silent in report.silent if silent.code == code and not silent.layers):
        if case.find("failure") is None and case.find("skipped") is None:
            ET.SubElement(case, "skipped", message=printable(silent.reason, _LIMIT))
