"""A file that is cut, flipped, shrunk or unreadable, at every place: refused in our own words, or read as it was."""

import contextlib
import os
from pathlib import Path

import pytest
from hostile import arrays, build, containers

from bninspect.batches import BatchOptions, tensors
from bninspect.errors import SourceError
from bninspect.models.stored import reading

WHOLE = containers.whole()


@pytest.fixture
def path(tmp_path):
    (tmp_path / "shard").write_bytes(build.good_safetensors())
    return tmp_path / "file"


def layers(path):
    return [(one.path, one.running_mean.tolist(), one.running_var.tolist()) for one in reading.read(str(path)).layers]


@pytest.mark.parametrize("kind", WHOLE)
def test_a_file_cut_anywhere_is_refused(path, kind):
    path.write_bytes(WHOLE[kind])
    assert len(layers(path)) == 1
    for length in reversed(range(len(WHOLE[kind]))):
        os.truncate(path, length)
        with pytest.raises(SourceError, match="cannot read"):
            reading.read(str(path))


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_a_batch_cut_anywhere_is_refused(path, kind):
    raw = arrays.npy() if kind == "npy" else arrays.honest("canary")["honest-npz"]
    path.write_bytes(raw)
    assert tensors.load(str(path), BatchOptions()).data.shape == arrays.SHAPE
    for length in reversed(range(len(raw))):
        os.truncate(path, length)
        with pytest.raises(SourceError, match="cannot read"):
            tensors.load(str(path), BatchOptions())


@pytest.mark.parametrize("kind", ["zip", "deflated", "module", "export"])
def test_a_flipped_bit_is_refused_or_changes_nothing(path, kind):
    raw = WHOLE[kind]
    path.write_bytes(raw)
    honest, refused = layers(path), 0
    with path.open("r+b", buffering=0) as file:
        for place in range(0, len(raw), 3):
            os.pwrite(file.fileno(), bytes([raw[place] ^ (1 << place % 8)]), place)
            try:
                assert layers(path) == honest, place
            except SourceError:
                refused += 1
            os.pwrite(file.fileno(), raw[place : place + 1], place)
    assert refused > len(raw) // 6


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
            reading.read(str(path))


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
    assert len(reading.read(str(path)).layers) == 1
    for turn in range(len(calls)):
        left = iter([True] * turn)

        def failing(*asked, left=left):
            if next(left, False):
                return real(*asked)
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "read", failing)
        with pytest.raises(SourceError, match="Input/output error"):
            reading.read(str(path))


def test_no_handle_is_left_open(tmp_path):
    path = tmp_path / "file"
    handles = Path("/proc/self/fd")
    before = len(list(handles.iterdir()))
    for raw in (build.checkpoint(build.state()), build.legacy(build.state())[:-3], b"nope"):
        path.write_bytes(raw)
        with contextlib.suppress(SourceError):
            reading.read(str(path))
    assert len(list(handles.iterdir())) == before


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SourceError, match="it is a pipe"):
        reading.read(str(tmp_path / "pipe"))


def test_a_name_that_no_file_can_have_is_refused():
    with pytest.raises(SourceError, match="no file can have such a name"):
        reading.read("a\0b")
