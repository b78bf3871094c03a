"""Reads every file of the corpus in a process of its own, and says on stdout what came of each, as JSON lines."""

import json
import sys
import time
from pathlib import Path

from bninspect.errors import SourceError
from bninspect.models._files import read
from hostile import corpus


def memory(field: str) -> int:
    """Megabytes, now (``VmRSS``) or at most since the last reset (``VmHWM``)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) // 1024


def outcome(path: str) -> dict:
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    start = time.perf_counter()
    try:
        stored = read(path)
        result = {"outcome": "read", "paths": [layer.path for layer in stored.layers]}
    except SourceError as error:
        result = {"outcome": "refuse", "text": str(error)}
    except BaseException as error:
        result = {"outcome": f"{type(error).__name__}: {error!s:.200}"}
    return result | {"seconds": time.perf_counter() - start, "memory": memory("VmHWM") - before}


def main(folder: Path) -> None:
    for name, raw, expected in corpus.files(str(folder / "canary")):
        path = folder / "file"
        path.write_bytes(raw)
        print(json.dumps({"name": name, "expected": expected} | outcome(str(path))))
    places = folder / "places"
    places.mkdir()
    for name, path in corpus.places(places).items():
        expected = "either" if name == "place-unreadable" else "refuse"  # root may read all
        print(json.dumps({"name": name, "expected": expected} | outcome(path)))
    print(json.dumps({"name": "end", "torch": "torch" in sys.modules}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
