"""Settings of a project: ``[tool.bninspect]`` in the nearest pyproject.toml, from the working folder upwards."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any

from bninspect.errors import InputError
from bninspect.text import printable

FAIL_ON = ("error", "warning", "info", "never")
_KINDS: dict[str, type] = {"select": list, "ignore": list, "fail-on": str, "exit-zero": bool}


def settings(start: Path | None = None) -> dict[str, Any]:
    """The table's entries, checked; empty where there is none.

    Raises:
        InputError: the file is no TOML, or the table has an unknown key or a value of the wrong kind.
    """
    folder = (start or Path.cwd()).resolve()
    file = next((path / "pyproject.toml" for path in (folder, *folder.parents) if _exists(path)), None)
    if file is None:
        return {}
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8")).get("tool", {}).get("bninspect", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{printable(str(file))} cannot be read: {printable(str(error))}") from error
    for key, value in table.items():
        _check(key, value, file)
    return dict(table)


def _exists(folder: Path) -> bool:
    return (folder / "pyproject.toml").is_file()


def _check(key: str, value: Any, file: Path) -> None:
    where = f"[tool.bninspect] of {printable(str(file))}"
    if key not in _KINDS:
        near = difflib.get_close_matches(key, _KINDS, 1, 0.4)
        hint = f"did you mean {near[0]}?" if near else f"it may have {', '.join(_KINDS)}"
        raise InputError(f"{where} has an unknown key {printable(key)!r}: {hint}")
    kind = _KINDS[key]
    fits = isinstance(value, kind)
    if isinstance(value, list):
        fits = fits and all(isinstance(entry, str) for entry in value)
    if not fits or (key == "fail-on" and value not in FAIL_ON):
        wanted = {list: 'a list of codes such as ["BN1"]', bool: "true or false", str: f"one of {', '.join(FAIL_ON)}"}
        raise InputError(f"{where}: {key} must be {wanted[kind]}")
