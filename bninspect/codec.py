"""A report as JSON text, and JSON text as a report again, checked against the structs that declare it."""

from __future__ import annotations

import re
import unicodedata
from typing import Any, get_args

import msgspec
import numpy as np

from bninspect.errors import SourceError
from bninspect.report import Report
from bninspect.text import printable

_UNSAFE = re.compile(r"[^\x0a\x20-\x7e]")


class _Head(msgspec.Struct):
    schema: str
    schema_version: int


def kinds() -> dict[str, type[Report]]:
    """The reports that there are, by their schema's name."""
    return {_default(kind, "schema"): kind for kind in get_args(Report)}


def encode(report: Report) -> str:
    """Indented JSON; vectors become lists, and NaN and infinity null."""
    try:
        text = msgspec.json.encode(report, enc_hook=_plain)
    except UnicodeEncodeError:  # a name with half a character in it
        text = msgspec.json.encode(_whole(msgspec.to_builtins(report, enc_hook=_plain)))
    return _UNSAFE.sub(_escape, msgspec.json.format(text, indent=2).decode()) + "\n"


def decode(text: bytes, name: str) -> Report:
    """The report that ``text`` holds; a null in a vector is NaN.

    Args:
        text: JSON.
        name: of the file, for the error.

    Raises:
        SourceError: it is no JSON, no report, or one that a newer bninspect wrote.
    """
    try:
        head = msgspec.json.decode(text, type=_Head)
        kind = kinds().get(head.schema)
        if kind is not None and head.schema_version <= _default(kind, "schema_version"):
            report: Report = msgspec.json.decode(text, type=kind, dec_hook=_vector)
            return report
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        why = printable(str(error), 300) if text else "it is empty"
        raise SourceError(
            f"{printable(name)} is no report of bninspect, such as --format json writes: {why}"
        ) from error
    if kind is None:
        known = ", ".join(kinds())
        raise SourceError(f"{printable(name)} has the schema {printable(head.schema)!r}; bninspect knows {known}")
    raise SourceError(
        f"{printable(name)} was written by a newer bninspect ({head.schema} version {head.schema_version}; this one "
        f"reads up to {_default(kind, 'schema_version')}): pip install --upgrade bninspect"
    )


def json_schema(name: str) -> dict[str, Any]:
    """The JSON Schema of a report.

    Args:
        name: ``stats`` or ``bninspect.stats``.

    Raises:
        SourceError: there is no such report.
    """
    known = kinds()
    kind = known.get(name) or known.get(f"bninspect.{name}")
    if kind is None:
        names = ", ".join(schema.rpartition(".")[2] for schema in known)
        raise SourceError(f"there is no report {printable(name)!r}: its name is one of {names}")
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    schema |= msgspec.json.schema(kind, schema_hook=_vector_schema)
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(schema))
    return plain


def _default(kind: Any, field: str) -> Any:
    return next(info.default for info in msgspec.structs.fields(kind) if info.name == field)


def _escape(match: re.Match[str]) -> str:
    """A character that could steer a terminal, as JSON writes it; others stay."""
    char = match.group()
    if unicodedata.category(char)[0] not in "CZ":
        return char
    units = char.encode("utf-16-be")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def _whole(value: Any) -> Any:
    """The same with names that UTF-8 can hold."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {name: _whole(part) for name, part in value.items()}
    return [_whole(part) for part in value] if isinstance(value, (list, tuple)) else value


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise NotImplementedError(f"a report holds no {type(value).__name__}")


def _vector(kind: Any, value: Any) -> Any:  # noqa: ARG001  # msgspec gives it
    """An array of numbers; msgspec words a ValueError together with the place where it arose."""
    if not isinstance(value, list) or not _is_numeric(value):
        raise ValueError("Expected an array of numbers")
    whole = value and all(type(entry) is int for entry in value)
    try:
        return np.asarray(value, dtype=np.int64 if whole else np.float64)
    except OverflowError as error:
        raise ValueError("Expected numbers of 64 bits") from error


def _is_numeric(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_numeric, value))
    return value is None or type(value) in (int, float)


def _vector_schema(kind: Any) -> dict[str, Any]:
    if kind is not np.ndarray:
        raise NotImplementedError(f"a report holds no {kind}")
    return {"type": "array", "items": {"anyOf": [{"type": ["number", "null"]}, {"type": "array"}]}}
