"""``python -m bninspect`` and the console script: Ctrl-C ends it in one line, however early; streams may be closed."""

from __future__ import annotations

import io
import os
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line; its modules are imported here, where Ctrl-C is waited for already."""
    try:
        _open_streams()
        from bninspect.cli import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        sys.stderr.write("\nInterrupted.\n")
        code = 130
    sys.exit(code)


def _open_streams() -> None:
    """Where a shell closed standard output, writing is an error like any other; on standard error, nobody reads."""
    if sys.stdout is None:
        nothing = os.fdopen(os.open(os.devnull, os.O_RDONLY), "wb", 0)
        sys.stdout = io.TextIOWrapper(nothing, write_through=True)  # as of python -u
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")


if __name__ == "__main__":
    main()
