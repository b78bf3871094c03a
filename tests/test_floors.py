"""The architecture, read from the syntax tree: who may import whom, in which direction, and how long a file may be."""

from __future__ import annotations

import ast
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "bninspect"
FILES = sorted(ROOT.rglob("*.py"))
FLOOR_0 = {"errors", "text", "layers", "containers", "_plugins", "_imports", "_collector", "report", "codec", "writing"}
TORCH_ROOMS = {"moments", "observe"}
ROOMS_1 = {"files", "moments", "observe", "models", "batches", "rules", "render"}
OWN = {  # beside floor 0 and itself
    "files": set(),
    "moments": set(),
    "observe": {"moments"},
    "models": {"files"},
    "batches": {"files"},
    "rules": set(),
    "render": set(),
    "inspection": ROOMS_1 - {"render", "models", "batches"},
    "pytest_plugin": {"inspection", "render"},
    "integrations": {"inspection"},
    "demo": {"inspection"},
    "cli": ROOMS_1 | {"inspection", "demo"},
}
OUTSIDE = {
    "floor 0": {"msgspec", "numpy"},
    "files": {"msgspec", "numpy"},
    "pytest_plugin": {"pytest", "msgspec"},
    "moments": {"torch", "numpy"},
    "observe": {"torch", "numpy"},
    "models": {"torch", "torchvision", "timm", "huggingface_hub", "msgspec", "numpy"},
    "batches": {"torch", "torchvision", "numpy", "safetensors", "msgspec", "PIL"},
    "rules": {"numpy", "msgspec"},
    "render": {"numpy", "msgspec"},
    "inspection": {"torch", "numpy", "msgspec", "safetensors"},
    "integrations": {"lightning", "transformers"},
    "demo": {"torch"},
    "cli": {"click", "rich", "torch", "msgspec"},
}
ALONE = {"rich": ("render/table.py", "cli/"), "triton": ("moments/triton.py",), "jinja2": ("render/html/",)}
WITHOUT_TORCH = {  # what `check FILE`, `diff FILE FILE`, `stats FILE` and `summary FILE` load
    *(f"inspection/{name}/__init__.py" for name in ("summary", "stats", "check", "diff", "snapshot")),
    "inspection/__init__.py",
    "inspection/_header.py",
    "inspection/summary/stored.py",
    "inspection/stats/stored.py",
    "inspection/stats/figures.py",
    "inspection/stats/arrange.py",
    "inspection/snapshot/file.py",
    *(f"inspection/watch/{name}.py" for name in ("__init__", "alarms", "figures", "history", "journal", "locks")),
    *(f"inspection/watch/{name}.py" for name in ("reading", "segments", "sinks")),
    *(f"inspection/diff/{name}.py" for name in ("distance", "entries", "layers", "pairs")),
}
HEAVY = {"torch", "torchvision", "safetensors", "timm", "huggingface_hub", "triton"}


def name_of(file):
    return str(file.relative_to(ROOT))


def room(file):
    """The folder of the first level that a file lies in; of those at the top, its own name or floor 0."""
    first = file.relative_to(ROOT).with_suffix("").parts[0]
    return "floor 0" if first in {*FLOOR_0, "__init__", "__main__"} else first


@cache
def tree(file):
    return ast.parse(file.read_text(encoding="utf-8"))


@cache
def imports(file, *, typing=True, top_level_only=False):
    """Full names that a file imports: modules, and what is taken from them."""
    found = set()

    def visit(node):
        unused = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        if unused and not typing:
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module and node.module != "__future__":
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        if top_level_only and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree(file))
    return found


@cache
def file_of(name):
    """The file of our own that an imported name comes from: a module, or the module that the name stands in."""
    if name.split(".")[0] != "bninspect":
        return None
    for dotted in (name, name.rpartition(".")[0]):
        path = ROOT.joinpath(*dotted.split(".")[1:])
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file in FILES:
                return file
    return None


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_imports_go_down(file):
    here = room(file)
    used = {room(found) for found in map(file_of, imports(file, typing=False)) if found}
    allowed = {"floor 0"} if here == "floor 0" else {"floor 0", here} | OWN[here]
    if name_of(file) == "__main__.py":
        allowed |= {"cli"}
    if name_of(file) == "__init__.py":  # the public functions, by a lazy __getattr__
        allowed |= {"inspection"}
    assert used <= allowed


def test_no_imports_in_a_circle():
    """Not even for types: what two files say of each other belongs into one, or into a third below both."""
    graph = {
        file: {found for found in map(file_of, imports(file)) if found and found != file}
        for file in FILES
        if name_of(file) != "__init__.py"
    }
    done, path = set(), []

    def visit(file):
        assert file not in path, " -> ".join(map(name_of, [*path[path.index(file) :], file]))
        if file in done or file not in graph:
            return
        path.append(file)
        for found in sorted(graph[file]):
            visit(found)
        path.pop()
        done.add(file)

    for file in graph:
        visit(file)
    assert len(done) == len(FILES) - 1


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_outside_packages_are_those_of_the_floor(file):
    outside = {name.split(".")[0] for name in imports(file, typing=False)} - set(sys.stdlib_module_names)
    special = {package for package, places in ALONE.items() if name_of(file).startswith(places)}
    assert outside - {"bninspect"} <= (OUTSIDE[room(file)] - set(ALONE)) | special


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_torch_is_imported_on_top_only_where_it_is_borne(file):
    heavy = {name.split(".")[0] for name in imports(file, typing=False, top_level_only=True)} & HEAVY
    bears = room(file) in TORCH_ROOMS or (room(file) == "inspection" and name_of(file) not in WITHOUT_TORCH)
    bears |= name_of(file) == "demo/net.py"  # the file that is put into a folder of the user
    assert heavy <= ({"torch"} if bears else set())


def test_the_list_of_what_loads_no_torch_is_of_files():
    assert set(map(name_of, FILES)) >= WITHOUT_TORCH


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_a_file_has_one_idea_and_at_most_400_lines(file):
    assert ast.get_docstring(tree(file))
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 400
