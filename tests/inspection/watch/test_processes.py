"""Two real processes: their training is the same to the bit, and what differs between them is told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("processes.py")


@pytest.fixture(scope="module")
def printed(tmp_path_factory, python):
    """The folder of their record, and what each printed, by phase."""
    folder = tmp_path_factory.mktemp("processes")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [*python, str(SCRIPT), str(rank), str(folder)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    texts = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], texts
    return folder, [text.splitlines() for text in texts]


def test_training_is_the_same_to_the_bit_and_nothing_is_told_of_healthy_processes(printed):
    folder, texts = printed
    for lines in texts:
        assert lines[:2] == ["same True []", "apart []"]
    assert '"rank":0' in (folder / "run.jsonl").read_text().splitlines()[0]


def test_a_process_with_other_data_is_told_in_each(printed):
    """Also where the first process's statistics are put into the other at each forward, and alone would not tell."""
    for lines in printed[1]:
        assert lines[2:] == ["bright [('BN505', 20, ['0.1'])]", "apart and bright [('BN505', 20, ['0.1'])]"]
