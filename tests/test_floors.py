"""The architecture, read from the syntax tree: who may import whom, and how long a file may be."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "bninspect"
FILES = sorted(ROOT.rglob("*.py"))
FLOOR_0 = {"errors", "report", "facts", "data_facts", "_plugins", "text", "_imports", "codec", "writing", "_collector"}
TORCH_BEARING = ["fingerprint", "moments", "glance", "observe", "meta", "graph"]
FOLDERS_1 = {"models", "batches", "rules", "render"}
OUTSIDE = {
    "floor 0": {"msgspec", "numpy"},
    "files": {"msgspec", "numpy"},
    "layers": {"numpy"},
    "snapshot": {"msgspec", "numpy", "safetensors"},
    "pytest_plugin": {"pytest", "msgspec"},
    "torch-bearing": {"torch", "numpy"},
    "models": {"torch", "torchvision", "timm", "huggingface_hub", "msgspec", "numpy"},
    "batches": {"torch", "torchvision", "numpy", "safetensors", "msgspec", "PIL"},
    "rules": set(),
    "render": {"numpy", "msgspec"},
    "inspection": {"torch", "numpy", "msgspec"},
    "cli": {"click", "rich", "torch", "msgspec"},
}


def place(file):
    parts = file.relative_to(ROOT).with_suffix("").parts
    if len(parts) == 1:
        name = parts[0]
        if name in FLOOR_0 or name in {"__init__", "__main__"}:
            return "floor 0"
        return "torch-bearing" if name in TORCH_BEARING else name
    return parts[0]


def imports(file, *, top_level_only=False):
    """Modules that a file imports when it runs; what stands under TYPE_CHECKING does not count."""
    found = set()

    def visit(node):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module and node.module != "__future__":
            found.update({f"{node.module}.{alias.name}" for alias in node.names} | {node.module})
        if top_level_only and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(file.read_text(encoding="utf-8")))
    return found


def own(names):
    return {name.split(".")[1] for name in names if name.startswith("bninspect.") and (ROOT / _path(name)).exists()}


def _path(name):
    second = name.split(".")[1]
    return second if (ROOT / second).is_dir() else f"{second}.py"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_go_down(file):
    here, used = place(file), own(imports(file))
    allowed = {
        "floor 0": FLOOR_0,
        "files": FLOOR_0 | {"files"},
        "layers": FLOOR_0,
        "snapshot": FLOOR_0,
        "pytest_plugin": FLOOR_0 | {"inspection", "render", "fingerprint"},
        "torch-bearing": FLOOR_0 | {"layers", *TORCH_BEARING[: _rank(file)]},
        "models": FLOOR_0 | {"files", "layers", "models"},
        "batches": FLOOR_0 | {"files", "layers", "batches"},
        "rules": FLOOR_0 | {"rules"},
        "render": FLOOR_0 | {"render"},
        "inspection": FLOOR_0 | {"layers", "snapshot", "rules", "inspection", *TORCH_BEARING},
        "cli": FLOOR_0 | {"layers", "snapshot", "inspection", "cli", *FOLDERS_1, *TORCH_BEARING},
    }[here]
    if file.name in {"__init__.py", "__main__.py"} and file.parent == ROOT:
        allowed = allowed | {"cli"}
    assert used <= allowed


def _rank(file):
    return TORCH_BEARING.index(file.stem) if file.stem in TORCH_BEARING else 0


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_outside_packages_are_those_of_the_floor(file):
    outside = {name.split(".")[0] for name in imports(file)} - set(sys.stdlib_module_names) - {"bninspect"}
    allowed = OUTSIDE[place(file)] | ({"rich"} if file.name == "table.py" else set())
    assert outside <= allowed


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_torch_is_imported_on_top_only_where_it_is_borne(file):
    heavy = {name.split(".")[0] for name in imports(file, top_level_only=True)} & {
        "torch",
        "torchvision",
        "safetensors",
        "timm",
        "huggingface_hub",
    }
    if place(file) == "torch-bearing" or file.stem in {"_calls", "_evidence", "_fold", "_watch"}:
        return
    assert not heavy


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_file_has_one_idea_and_at_most_400_lines(file):
    text = file.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) <= 400
