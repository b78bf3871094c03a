"""Every file that a stranger might send ends in its layers or in one sentence of our own: no code, no hang."""

import contextlib
import json
import os
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import pytest
from hostile import build, corpus
from hostile.names import NAMES

from bninspect.errors import SourceError
from bninspect.models import _files

HERE = Path(__file__).parent
CASES = [name for name, _, _ in corpus.files("canary")]
BATCHES = [f"as-batch-{name}" for name in (*CASES, *(name for name, _, _ in corpus.batches("canary")))]


@pytest.fixture(scope="session")
def outcomes(tmp_path_factory):
    """What came of each file, all read in one process of their own."""
    folder = tmp_path_factory.mktemp("hostile")
    path = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(HERE / "hostile" / "child.py"), str(folder)],
        env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert not (folder / "canary").exists(), "code in a file was run"
    rows = {row["name"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert rows["end"]["torch"] is False
    return rows


def test_the_corpus_is_large():
    assert len(CASES) >= 400
    assert len(BATCHES) >= 500
    assert len(BATCHES) == len(set(BATCHES))


@pytest.mark.parametrize("name", [*CASES, *BATCHES])
def test_a_hostile_file_is_read_or_refused(outcomes, name):
    row = outcomes[name]
    assert row["outcome"] in ("read", "refuse"), row
    assert row["expected"] in ("either", row["outcome"]), row
    assert row["seconds"] < 5
    assert row["memory"] < 300
    if row["outcome"] == "refuse":
        assert "\n" not in row["text"]
        assert len(row["text"]) < 400
        assert "weights_only" not in row["text"]
        assert not [c for c in row["text"] if unicodedata.category(c) in ("Cc", "Cf", "Cs")]
        assert name in BATCHES or row["text"].startswith("cannot read '")
    elif name in BATCHES:
        assert row["found"] in ([build.CHANNELS], [2, 3, 2, 2]) or row["expected"] == "either"
    elif row["expected"] == "read" and not name.startswith("name-"):
        assert row["found"] == [build.LAYER]


@pytest.mark.parametrize("kind", NAMES)
def test_a_hostile_name_is_kept_as_data(outcomes, kind):
    assert outcomes[f"name-{kind}"]["found"] == [NAMES[kind]]


def test_what_is_no_regular_file_is_refused_at_once(outcomes):
    places = [row for name, row in outcomes.items() if name.removeprefix("as-batch-").startswith("place-")]
    assert len(places) >= 28
    for row in places:
        assert row["outcome"] == "refuse" or row["expected"] == "either", row
        assert row["seconds"] < 1


def test_a_hostile_file_name_is_shown_as_text(tmp_path):
    path = tmp_path / "\x1b[2Jmodel\n\u202e.pt"
    path.write_bytes(b"nope")
    with pytest.raises(SourceError, match=r"\\x1b\[2Jmodel\\n\\u202e\.pt") as caught:
        _files.read(str(path))
    assert str(caught.value).isprintable()


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "shrinking.pt"
    path.write_bytes(build.checkpoint(build.state()))
    real = os.read
    reads = 0

    def shrinking(handle, count):
        nonlocal reads
        reads += 1
        if reads == turn:
            os.truncate(path, 40)
        return real(handle, count)

    monkeypatch.setattr(os, "read", shrinking)
    for turn in range(1, 5):  # noqa: B007 - read by the function above
        path.write_bytes(build.checkpoint(build.state()))
        reads = 0
        with pytest.raises(SourceError, match="cut short while it was read"):
            _files.read(str(path))


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_read_that_fails_is_refused(tmp_path, monkeypatch, kind):
    raw = {
        "zip": build.checkpoint(build.state()),
        "legacy": build.legacy(build.state()),
        "safetensors": build.good_safetensors(),
    }[kind]
    path = tmp_path / "file"
    path.write_bytes(raw)
    real, calls = os.read, []
    monkeypatch.setattr(os, "read", lambda *asked: calls.append(1) or real(*asked))
    assert len(_files.read(str(path)).layers) == 1
    for turn in range(len(calls)):
        left = iter([True] * turn)

        def failing(*asked, left=left):
            if next(left, False):
                return real(*asked)
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "read", failing)
        with pytest.raises(SourceError, match="Input/output error"):
            _files.read(str(path))


def test_no_handle_is_left_open(tmp_path):
    path = tmp_path / "file"
    handles = Path("/proc/self/fd")
    before = len(list(handles.iterdir()))
    for raw in (build.checkpoint(build.state()), build.legacy(build.state())[:-3], b"nope"):
        path.write_bytes(raw)
        with contextlib.suppress(SourceError):
            _files.read(str(path))
    assert len(list(handles.iterdir())) == before


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    start = time.perf_counter()
    with pytest.raises(SourceError, match="it is a pipe"):
        _files.read(str(tmp_path / "pipe"))
    assert time.perf_counter() - start < 1
