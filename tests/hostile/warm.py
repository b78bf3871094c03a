"""The command line, as fast as many hundred runs need it: each in a process that one with all imports done forks.

As a program, it reads a command line per line of its input (JSON), and writes what the kernel says of its process.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).parents[1]
SECONDS = 5  # of processor time
ROOM = 3 << 30  # bytes of address space that a run may take beyond those of the imports, lest it take the machine's
OWN = ("BNINSPECT_", "COLUMNS", "NO_COLOR", "FORCE_COLOR", "GITHUB_")


class Ran(NamedTuple):
    """What came of one command line.

    Attributes:
        code: the exit code, or minus the signal that ended the process.
        seconds: of processor time.
        waited: seconds from its start to its end.
        memory: megabytes at most, beyond those of an honest run of the same command.
    """

    command: tuple[str, ...]
    code: int
    seconds: float
    waited: float
    memory: int
    out: str
    err: str


class Warm:
    """A process that has run the ``honest`` command lines once, and forks for every other."""

    def __init__(self, folder: Path, honest: list[list[str]], *, torch: bool) -> None:
        self._folder = folder
        environment = {name: value for name, value in os.environ.items() if not name.startswith(OWN)}
        environment |= {"PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(folder)]), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(honest), str(int(torch))],
            cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._usual = {command[0]: self._run(command, {})[-1] for command in honest}

    def run(self, *command: str, **environment: str) -> Ran:
        """Run ``bninspect COMMAND`` with these variables set."""
        code, seconds, waited, memory = self._run(command, environment)
        out, err = ((self._folder / name).read_bytes().decode("utf-8", "surrogateescape") for name in ("out", "err"))
        return Ran(command, code, seconds, waited, (memory - self._usual[command[0]]) // 1024, out, err)

    def _run(self, command: object, environment: dict[str, str]) -> tuple[int, float, float, int]:
        assert self._process.stdin
        assert self._process.stdout
        print(json.dumps([command, environment]), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End it."""
        self._process.communicate()


def forked(command: list[str], environment: dict[str, str]) -> tuple[int, float, float, int]:
    """Run one command line in a process of its own: exit code or signal, processor seconds, seconds, kilobytes."""
    for name in ("out", "err"):  # to write anew costs milliseconds of waiting for the disk, which a new file does not
        Path(name).unlink(missing_ok=True)
    before, start = memory(), time.perf_counter()
    child = os.fork()
    if not child:
        for number, name, flags in ((0, os.devnull, os.O_RDONLY), (1, "out", _NEW), (2, "err", _NEW)):
            os.dup2(os.open(name, flags, 0o600), number)
        signal.alarm(4 * SECONDS)  # the processors may have others to serve
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
        os.environ.update(environment)
        os._exit(console(command))
    _, status, used = os.wait4(child, 0)
    waited = time.perf_counter() - start
    return os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, waited, used.ru_maxrss - before


_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL


def memory() -> int:
    """Kilobytes that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024


def console(command: list[str]) -> int:
    """What the interpreter does with the console script."""
    from bninspect.__main__ import main

    sys.argv, code = ["bninspect", *command], 1
    try:
        main()
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def serve() -> None:
    """Answer until the input ends."""
    from tests.forking import settle

    honest, torch = json.loads(sys.argv[1]), sys.argv[2] == "1"
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if not torch:
        sys.modules["torch"] = None  # whoever imports it fails
    for command in honest:
        console(command)
    sys.stdout.reconfigure(errors="strict")  # as it is when a process starts
    settle()
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, size + ROOM))
    for line in sys.stdin:
        print(json.dumps(forked(*json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    serve()
