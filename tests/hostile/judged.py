"""What must hold of every run of a command line on a stranger's file, whatever is in it."""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from typing import TYPE_CHECKING

from hostile.warm import SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hostile.warm import Ran

MEGABYTES = 300
FORMULA = ("=", "+", "-", "@", "\t", "\r")
_LONG = 2500  # characters of a refusal, of which the path may be most
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_FOREIGN = re.compile(
    r"Traceback|weights_only|internal error|enough memory|more memory|BNINSPECT_DEBUG"
    r"|\b[A-Za-z]\w*(?:Error|Exception|Interrupt|Warning)\b"
)


def faults(ran: Ran, fmt: str = "table") -> list[str]:
    """Whatever the run did that it must not, in words; ``fmt`` is the format that was asked for."""
    return [*_process(ran), *_refusal(ran), *(_report(ran, fmt) if ran.out else ())]


def _process(ran: Ran) -> Iterator[str]:
    codes = (0, 1, 2) if ran.command[0] == "check" else (0, 2)
    if ran.code not in codes:
        yield f"exit code {ran.code}"
    if ran.seconds > SECONDS:
        yield f"{ran.seconds:.1f} s"
    if ran.memory > MEGABYTES:
        yield f"{ran.memory} MB"
    if (ran.code == 2) == bool(ran.out):
        yield f"exit code {ran.code} with {len(ran.out)} characters of output"


def _refusal(ran: Ran) -> Iterator[str]:
    if (ran.code == 2) != bool(ran.err) and "-v" not in ran.command:
        yield f"exit code {ran.code} with {ran.err!r} on standard error"
    most = 4 if ran.err.startswith("Usage: ") else 2  # click's own way to refuse a command line
    lines = [line for line in ran.err.splitlines() if not line.startswith("not applied: BN")]  # with -v, one a reason
    if len(lines) > most or (ran.err and not ran.err.endswith("\n")) or len(ran.err) > _LONG:
        yield f"{len(ran.err)} characters on {len(ran.err.splitlines())} lines of standard error"
    if found := _FOREIGN.search(ran.err):
        yield f"{found[0]!r} on standard error"
    if steering := steers(ran.err):
        yield f"{steering!r} on standard error"


def _report(ran: Ran, fmt: str) -> Iterator[str]:
    if steering := steers(_COLOURS.sub("", ran.out) if fmt == "colours" else ran.out):
        yield f"{steering!r} in the {fmt}"
    if fmt == "json":
        json.loads(ran.out, parse_constant=_no_json)
    if fmt == "csv":
        rows = list(csv.reader(io.StringIO(ran.out), strict=True))
        if {len(row) for row in rows} != {len(rows[0])}:
            yield "rows of several lengths in the csv"
        yield from (f"{cell[:40]!r} in the csv" for row in rows for cell in row if _formula(cell))
    if fmt == "markdown" and (found := re.search(r"(?<!\\)(?:\\\\)*[<`\[]", ran.out)):
        yield f"{ran.out[found.start() : found.end() + 20]!r} in the markdown"


def steers(text: str) -> str:
    """The characters of ``text`` that a terminal, or whoever reads it, might take for more than text."""
    kinds = {char: unicodedata.category(char) for char in set(text)}
    return "".join(sorted(char for char, kind in kinds.items() if kind in ("Cc", "Cf", "Cs") and char != "\n"))


def _formula(cell: str) -> bool:
    """A negative number is none."""
    if not cell.startswith(FORMULA):
        return False
    try:
        float(cell)
    except ValueError:
        return True
    return False


def _no_json(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
