"""Python with torch imported already: each run is a fork of one process that has waited for it.

``python ready.py SOCKET`` is that process. ``python -SE ready.py SOCKET WORDS...`` runs what ``python WORDS...`` runs,
in a real process: its streams, folder and environment go there, signals too, and its exit code comes back.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import NoReturn, TextIO

PATIENCE = 120  # seconds, after which a run that a test has given up ends by itself


def run(path: str, words: list[str]) -> int:
    """Ask for a fork, and end as it ends."""
    with socket.socket(socket.AF_UNIX) as server, server.makefile("rw") as talk:
        server.connect(path)
        socket.send_fds(server, [b"streams"], [0, 1, 2])
        print(json.dumps([words, str(Path.cwd()), dict(os.environ)]), file=talk, flush=True)
        child = int(talk.readline())
        signal.signal(signal.SIGINT, lambda number, _: os.kill(child, number))
        code = int(talk.readline())
    if code < 0:
        with contextlib.suppress(OSError):  # SIGKILL has no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


def serve(listening: socket.socket) -> list[str]:
    """Fork for each that asks, until the tests end; return the words in each fork."""
    running: dict[int, tuple[int, TextIO]] = {}  # by a descriptor that can be read when the fork has ended
    while sys.stdin not in (ready := select.select([listening, sys.stdin, *running], [], [])[0]):
        for ended in running.keys() & ready:
            child, talk = running.pop(ended)
            with contextlib.suppress(OSError), talk:  # who asked may be gone
                print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=talk, flush=True)
            os.close(ended)
        if listening in ready:
            client, _ = listening.accept()
            _, streams, *_ = socket.recv_fds(client, len(b"streams"), 3)
            with client:
                talk = client.makefile("rw")
            words, folder, environment = json.loads(talk.readline())
            child = os.fork()
            if not child:
                become(streams, folder, environment)
                return words
            for stream in streams:
                os.close(stream)
            print(child, file=talk, flush=True)
            running[os.pidfd_open(child)] = child, talk
    sys.exit()


def become(streams: list[int], folder: str, environment: dict[str, str]) -> None:
    """Be as a new interpreter is that was started there."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:1] = [folder, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    importlib.invalidate_caches()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.alarm(PATIENCE)


def start(words: list[str]) -> None:
    """What ``python WORDS...`` runs."""
    match words:
        case ["-m", module, *_]:
            sys.argv = words[1:]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case ["-c", code, *rest]:
            sys.argv = ["-c", *rest]
            exec(code, {"__name__": "__main__"})
        case _:
            sys.argv, sys.path[0] = words, str(Path(words[0]).parent)
            runpy.run_path(words[0], run_name="__main__")


def end(words: list[str]) -> NoReturn:
    """Run them, and end as the interpreter does, but for taking the 200 MB of torch apart, one object after another."""
    code = 1
    try:
        start(words)
        code = 0
    except SystemExit as wanted:
        code = int(wanted.code or 0)
    except BaseException:
        traceback.print_exc()
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except OSError:
        traceback.print_exc()
        code = 120  # as the interpreter's
    os._exit(code)


def prepare() -> None:
    """Import pytest, torch, and the much more of it that a first forward imports; nothing of our own."""
    import pytest  # noqa: F401
    import torch
    from forking import settle

    torch.nn.BatchNorm2d(3, device="meta").eval()(torch.empty(2, 3, 4, 4, device="meta"))
    settle()


if __name__ == "__main__":
    if sys.argv[2:]:
        sys.exit(run(sys.argv[1], sys.argv[2:]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests and for the forks
    with socket.socket(socket.AF_UNIX) as here:
        here.bind(sys.argv[1])
        here.listen()
        print("listening", flush=True)
        prepare()
        asked = serve(here)
    end(asked)
