"""All hostile files by name, and what is expected: ``refuse``, ``read`` (the honest layer in it), or ``either``."""
# ruff: noqa: E501 - one case, one line

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from hostile import arrays, build, containers, modules, pickles

if TYPE_CHECKING:
    from collections.abc import Iterator

_EITHER = (
    "code-dropped", "graph-huge-key", "legacy-constructor", "kind-refuse-constructor", "export-size", "export-negative",
    "export-stride-0", "kind-refuse-complex", "kind-refuse-quantized-plain",
)  # fmt: skip


def files(canary: str) -> Iterator[tuple[str, bytes, str]]:
    """Name, bytes and expectation of every file; code in them would create ``canary``."""
    groups = (
        (pickles.code(canary), "read"), (pickles.storages(), "refuse"),
        (pickles.shapes_of_graph(), "read"), (pickles.names(), "read"), (containers.zips(), "refuse"), (containers.repacked(), "read"),
        (containers.legacies(), "refuse"), (containers.tensors(), "refuse"), (containers.indices(), "refuse"),
        (containers.exports(), "refuse"), (containers.cuts(), "refuse"), (containers.others(), "refuse"),
        (pickles.bombs(), "refuse"), (pickles.alignments(), "read"), (modules.modules(), "either"), (modules.scripts(canary), "read"), (modules.numbers(), "read"),
    )  # fmt: skip
    for group, expected in groups:
        for name, raw in group.items():
            yield name, raw, "either" if name in _EITHER else expected
    for name, raw in pickles.kinds().items():
        kind = f"kind-{name}"
        yield kind, raw, "either" if kind in _EITHER else name.partition("-")[0]


def batches(canary: str) -> Iterator[tuple[str, bytes, str]]:
    """The same of files that are only ever given as a batch."""
    for group in (arrays.arrays(), arrays.zipped(), arrays.pickled()):
        for name, raw in group.items():
            yield name, raw, "refuse"
    for name, raw in arrays.honest(canary).items():
        yield name, raw, "read"


def places(folder: Path) -> dict[str, str]:
    """Paths that are no readable regular file: all refused."""
    made = {
        "folder": folder / "folder", "pipe": folder / "pipe", "zero": Path("/dev/zero"), "null": Path("/dev/null"),
        "nowhere": folder / "nowhere", "loop": folder / "loop-a", "below-file": folder / "file" / "x", "to-folder": folder / "link",
        "to-nowhere": folder / "dangling", "socket": folder / "socket", "long": folder / ("x" * 5000), "tty": Path("/dev/tty"),
        "unreadable": folder / "unreadable", "sparse": folder / "sparse",
    }  # fmt: skip
    made["folder"].mkdir()
    os.mkfifo(made["pipe"])
    (folder / "loop-a").symlink_to(folder / "loop-b")
    (folder / "loop-b").symlink_to(folder / "loop-a")
    (folder / "file").write_bytes(b"x")
    made["to-folder"].symlink_to(made["folder"])
    made["to-nowhere"].symlink_to(made["nowhere"])
    os.mknod(made["socket"], stat.S_IFSOCK | 0o600)
    made["unreadable"].write_bytes(containers.GOOD)
    made["unreadable"].chmod(0)
    with made["sparse"].open("wb") as file:
        file.write(b"PK\3\4")
        file.truncate(1 << 40)
    for name in ("folder", "pipe", "loop-a", "dangling", "socket", "unreadable", "sparse"):
        shard = folder / f"to-{name}.json"
        shard.write_text(json.dumps({"weight_map": {f"{build.LAYER}.{field}": name for field in build.FIELDS}}))
        made[f"shard-{name}"] = shard
    return {f"place-{name}": str(path) for name, path in made.items()} | {"place-empty": ""}
