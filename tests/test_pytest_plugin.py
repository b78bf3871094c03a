"""The fixture, in a real project that a real pytest runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
from processes import ended

TEXT = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}

NETS = """
import torch
from torch import nn

def make(shift=0.0, eps=1e-5):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(6, eps=eps)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), norm, nn.ReLU(), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4))
    with torch.no_grad():
        model[0].bias += shift
    return model

def batch(seed=1):
    return torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(seed))
"""

TESTS = """
import os
import pytest
from nets import batch, make

SHIFT, SEED, EPS = (float(os.environ.get(name, usual)) for name, usual in [("SHIFT", 0), ("SEED", 1), ("EPS", 1e-5)])

def test_statistics(bn_snapshot):
    bn_snapshot.check(make(SHIFT, EPS), batch(int(SEED)))

def test_structure(bn_snapshot):
    bn_snapshot.check_structure(make(SHIFT, EPS), (3, 12, 12))

@pytest.mark.parametrize("what", ["a/b", "a:b", "plain"])
class TestSeveral:
    def test_two(self, bn_snapshot, what):
        bn_snapshot.check(make(SHIFT, EPS), batch(int(SEED)), channels=True, mode="train")
        bn_snapshot.check_structure(lambda: make(SHIFT, EPS), (3, 12, 12), all_layers=True)
        bn_snapshot.check(make(SHIFT, EPS), [batch(int(SEED))], name="named", tolerance="loose")
"""


@pytest.fixture
def project(tmp_path):
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_nets.py").write_text(TESTS)
    return tmp_path


@pytest.fixture
def pytest_in(python):
    """Run pytest in a folder; gives its exit code and what it printed."""

    def run(folder, *arguments, **environment):
        options = ["-q", "-p", "no:cacheprovider", "-p", "bninspect.pytest_plugin", *arguments]
        environment |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # of strangers; that ours is found is tested below
        return ended([*python, "-m", "pytest", *options], cwd=folder, env={**os.environ, **environment}, **TEXT)

    return run


def snapshots(project):
    return {path.name: path.read_bytes() for path in (project / "tests" / "bn_snapshots").iterdir()}


def test_written_compared_and_updated(project, pytest_in):
    done = pytest_in(project)
    assert "5 failed" in done.stdout
    assert "there is no snapshot" in done.stdout
    assert "pytest --bn-update 'tests/test_nets.py::test_statistics'" in done.stdout
    assert not (project / "tests" / "bn_snapshots").exists()  # a run that only compares writes nothing

    done = pytest_in(project, "--bn-update")
    assert "5 passed" in done.stdout, done.stdout
    assert done.stdout.count("bninspect: wrote ") == 2 + 3 * 3
    written = snapshots(project)
    assert {"test_nets.test_statistics.json", "test_nets.test_structure.json"} < set(written)
    assert len(written) == 2 + 3 * 4  # of them three with vectors beside them
    assert len({name for name in written if re.search(r"two_a_b-\w{8}\.json", name)}) == 2

    for again in (("--bn-update",), ()):
        done = pytest_in(project, *again)
        assert "5 passed" in done.stdout, done.stdout
        assert "wrote" not in done.stdout
        assert snapshots(project) == written


def test_a_difference_is_shown_where_the_test_asked(project, pytest_in):
    pytest_in(project, "--bn-update")
    written = snapshots(project)
    done = pytest_in(project, "-k", "statistics or structure", SHIFT="0.5")
    assert "1 failed, 1 passed" in done.stdout
    said = [line[1:].strip() for line in done.stdout.splitlines() if line.startswith("E ")]
    assert re.search(r"AssertionError: \d+ differences from the snapshot .*test_nets.test_statistics.json", said[0])
    assert any(re.search(r"figure +1 +mean_max .* std", line) for line in said)
    assert said[-1] == "If they are meant: pytest --bn-update 'tests/test_nets.py::test_statistics'"
    assert "bn_snapshot.check(make(SHIFT, EPS), batch(int(SEED)))" in done.stdout
    assert "pytest_plugin.py" not in done.stdout  # the user's line, not ours

    done = pytest_in(project, "-k", "structure", EPS="0.5")
    assert re.search(r"E +setting +1 +eps", done.stdout)
    assert snapshots(project) == written


def test_another_batch_and_a_damaged_snapshot_fail_in_one_line(project, pytest_in):
    pytest_in(project, "--bn-update", "-k", "statistics")
    done = pytest_in(project, "-k", "statistics", SEED="2")
    assert "made of another batch" in done.stdout
    (project / "tests" / "bn_snapshots" / "test_nets.test_statistics.json").write_text('{"schema": ')
    done = pytest_in(project, "-k", "statistics")
    assert "is no report of bninspect" in done.stdout
    assert "1 failed" in done.stdout


def test_a_snapshot_is_the_report(project, pytest_in):
    pytest_in(project, "--bn-update", "-k", "statistics")
    stored = json.loads(snapshots(project)["test_nets.test_statistics.json"])
    assert (stored["schema"], len(stored["source"]["batch_sha256"])) == ("bninspect.stats", 64)
    assert [layer["path"] for layer in stored["layers"]] == ["1", "4"]


LOOK = """
import sys

def pytest_sessionfinish(session):
    assert session.config.pluginmanager.has_plugin("bninspect")
    loaded = {name for name in sys.modules if name.partition(".")[0] in {"torch", "numpy", "msgspec", "bninspect"}}
    print("LOADED", sorted(loaded))
"""


def test_nothing_is_imported_for_tests_that_do_not_use_it(tmp_path):
    (tmp_path / "conftest.py").write_text(LOOK)
    (tmp_path / "test_plain.py").write_text("def test_plain():\n    pass\n")
    done = ended([sys.executable, "-m", "pytest", "-s", "-p", "no:cacheprovider"], cwd=tmp_path, **TEXT)
    assert "LOADED ['bninspect', 'bninspect.pytest_plugin']" in done.stdout, done.stdout + done.stderr
    assert "1 passed" in done.stdout
