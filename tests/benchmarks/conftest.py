"""How benchmarks measure: CPU time in pairs with a baseline, in turn, and the median of the ratios."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def report(capsys):
    """Print a figure beside its bound, and fail where it is passed."""

    def show(what, ratio, bound):
        with capsys.disabled():
            print(f"\n  {what}: {ratio:.3f} (bound {bound})", end="")
        assert ratio <= bound

    return show


def process(arguments):
    """CPU seconds and peak memory (MiB) of a whole process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    code = (
        "import resource, subprocess, sys\n"
        "done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(done.returncode, used.ru_utime + used.ru_stime, used.ru_maxrss)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, sys.executable, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    returncode, seconds, kilobytes = done.stdout.split()
    return int(returncode), float(seconds), int(kilobytes) / 1024


@pytest.fixture(scope="session")
def against():
    """Median ratios of CPU time and of peak memory of one command against another, run in turn."""

    def compare(command, baseline, runs=5, code=0):
        process(command), process(baseline)
        ours, theirs = [], []
        for _ in range(runs):
            ours.append(process(command))
            theirs.append(process(baseline))
        assert {result[0] for result in ours} == {code}
        cpu = statistics.median(a[1] / b[1] for a, b in zip(ours, theirs, strict=True))
        memory = statistics.median(a[2] / b[2] for a, b in zip(ours, theirs, strict=True))
        return cpu, memory

    return compare


@pytest.fixture
def peak():
    return lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
