"""Reads every file of the corpus in a process of its own, and says on stdout what came of each, as JSON lines.

Twice: as models, which never imports torch, and as batches.
"""

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bninspect.batches import BatchOptions, tensors
from bninspect.errors import SourceError
from bninspect.models._files import read
from hostile import build, corpus

if TYPE_CHECKING:
    from collections.abc import Callable


def memory(field: str) -> int:
    """Megabytes, now (``VmRSS``) or at most since the last reset (``VmHWM``)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) // 1024


def model(path: str) -> object:
    return [layer.path for layer in read(path).layers]


def batch(path: str) -> object:
    """The shape of the tensor under the name of a layer's field, or of the one that is chosen."""
    try:
        found = tensors.load(path, BatchOptions(key=f"{build.LAYER}.running_var"))
    except SourceError as error:
        if "--batch-key" not in str(error) and "holds no tensor" not in str(error):
            raise
        found = tensors.load(path, BatchOptions())
    return list(found.data.shape)


def outcome(path: str, look: "Callable[[str], object]") -> dict:
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    start = time.perf_counter()
    try:
        result = {"outcome": "read", "found": look(path)}
    except SourceError as error:
        result = {"outcome": "refuse", "text": str(error)}
    except BaseException as error:
        result = {"outcome": f"{type(error).__name__}: {error!s:.200}"}
    return result | {"seconds": time.perf_counter() - start, "memory": memory("VmHWM") - before}


def main(folder: Path) -> None:
    cases = folder / "cases"
    cases.mkdir()
    (folder / "places").mkdir()
    names = []
    for name, raw, expected in corpus.files(str(folder / "canary")):
        (cases / name).write_bytes(raw)
        names.append(name)
        print(json.dumps({"name": name, "expected": expected} | outcome(str(cases / name), model)))
    places = corpus.places(folder / "places")
    for name, path in places.items():
        expected = "either" if name == "place-unreadable" else "refuse"  # root may read all
        print(json.dumps({"name": name, "expected": expected} | outcome(path, model)))
    print(json.dumps({"name": "end", "torch": "torch" in sys.modules}))
    as_batches(folder, names, places)


def as_batches(folder: Path, names: list[str], places: dict[str, str]) -> None:
    import torch  # noqa: F401 - its own memory is no file's

    paths = {name: (str(folder / "cases" / name), "either") for name in names}
    paths |= {name: (path, "either" if name == "place-unreadable" else "refuse") for name, path in places.items()}
    for name, raw, expected in corpus.batches(str(folder / "canary")):
        (folder / "cases" / name).write_bytes(raw)
        paths[name] = (str(folder / "cases" / name), expected)
    for name, (path, expected) in paths.items():
        print(json.dumps({"name": f"as-batch-{name}", "expected": expected} | outcome(path, batch)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
