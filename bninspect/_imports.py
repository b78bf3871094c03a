"""Objects that the user names by ``package.module:name`` or ``file.py:name``; to name one is to run its module."""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from bninspect.errors import SourceError
from bninspect.text import printable


def looks_like_object(text: str) -> bool:
    """Whether ``text`` is spelled ``package.module:name`` or ``file.py:name``."""
    module, colon, name = text.rpartition(":")
    return bool(colon) and all(part.isidentifier() for part in name.split(".")) and _is_module(module)


def _is_module(text: str) -> bool:
    return text.endswith(".py") or all(part.isidentifier() for part in text.split("."))


def load_object(text: str) -> Any:
    """The object that ``text`` names.

    Raises:
        SourceError: the module or the name does not exist, or importing the module raised.
    """
    where, _, name = text.rpartition(":")
    found: Any = _module(where)
    for part in name.split("."):
        if not hasattr(found, part):
            public = _own(found)
            near = difflib.get_close_matches(part, public, 3, 0.5) or public[:5]
            raise SourceError(
                f"{printable(where)} has no {printable(part)!r}; it has {', '.join(map(printable, near)) or 'nothing'}"
            )
        found = getattr(found, part)
    return found


def _own(found: Any) -> list[str]:
    """Public names in an object, but for the modules that it imported."""
    names = vars(found) if hasattr(found, "__dict__") else {}
    return [name for name, value in names.items() if not name.startswith("_") and not isinstance(value, ModuleType)]


def _module(where: str) -> ModuleType:
    try:
        return _from_file(Path(where)) if where.endswith(".py") else _from_name(where)
    except SourceError:
        raise
    except (Exception, SystemExit) as error:
        raise SourceError(
            f"importing {printable(where)} failed: {type(error).__name__}: {printable(str(error), 300)}"
        ) from error


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise SourceError(f"there is no file {printable(str(path))}")
    if (path.parent / "__init__.py").is_file():
        return _of_package(path.resolve())
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    registered = sys.modules.setdefault(path.stem, module) is module
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        if registered:
            del sys.modules[path.stem]  # half a module must not be found by the next import
        raise
    return module


def _of_package(path: Path) -> ModuleType:
    """A module of a package by its full name, so that its relative imports work."""
    names, folder = [path.stem], path.parent
    while (folder / "__init__.py").is_file():
        names.insert(0, folder.name)
        folder = folder.parent
    name = ".".join(names)
    sys.path.insert(0, str(folder))
    module = importlib.import_module(name.removesuffix(".__init__"))
    if module.__file__ is None or Path(module.__file__).resolve() != path:
        raise SourceError(f"{printable(str(path))} is {printable(name)}, and another module of that name was found")
    return module


def _from_name(name: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise SourceError(
                f"there is no module {printable(error.name)!r}: it is looked for in the current folder and where "
                "bninspect is installed"
            ) from error
        raise


def parse_arguments(pairs: dict[str, str]) -> dict[str, Any]:
    """Values of ``--model-arg k=v``: Python literals where they read as such, else text."""
    return {name: _literal(value) for name, value in pairs.items()}


def _literal(value: str) -> Any:
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value
