"""Snapshots on disk: written whole or not at all, read back exactly, and refused in one line where they are damaged."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from processes import ended
from torch import nn

import bninspect
from bninspect import codec, writing
from bninspect.errors import BNInspectError, SourceError
from bninspect.inspection.snapshot import file as snapshot


def report_of(seed=0, channels=6):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, channels, 3), nn.BatchNorm2d(channels), nn.ReLU(), nn.BatchNorm2d(channels))
    return bninspect.stats(model, torch.randn(4, 3, 12, 12))


def same(a, b):
    return codec.encode(a) == codec.encode(b)


# --- reading


@pytest.fixture
def stored(tmp_path):
    path = tmp_path / "bn.json"
    snapshot.save(path, report_of(), vectors=True)
    return path


def test_every_truncation_is_refused_in_one_line(stored):
    whole = stored.read_bytes()
    for length in [*range(60), *range(60, len(whole) - 2, 97), len(whole) - 2]:
        stored.write_bytes(whole[:length])
        with pytest.raises(SourceError) as caught:
            snapshot.load(stored)
        assert "\n" not in str(caught.value)
        assert "bn.json" in str(caught.value)


def edited(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda report: report.update(schema_version=2), r"written by a newer bninspect \(bninspect.stats version 2"),
        (lambda report: report.update(schema="bninspect.future"), "has the schema 'bninspect.future'"),
        (lambda report: report.update(schema=3), r"Expected `str`, got `int` - at `\$.schema`"),
        (lambda report: report.pop("layers"), "missing required field `layers`"),
        (lambda report: report.update(layers={}), "Expected `array`"),
        (
            lambda report: report["layers"][0].update(num_features="six"),
            r"got `str` - at `\$.layers\[0\].num_features`",
        ),
        (lambda report: report["layers"][0].update(channels={"mean": [1, "x"]}), "Expected an array of numbers"),
        (lambda report: report["layers"][0].update(channels={"mean": [10**30]}), "is no report"),
        (lambda report: report.update(vectors="0" * 64), "is not the one that was written with it"),
    ],
)
def test_nonsense_is_refused(stored, edit, said):
    edited(stored, edit)
    with pytest.raises(SourceError, match=said):
        snapshot.load(stored)


def test_vectors_of_another_length_are_refused(tmp_path):
    path = tmp_path / "inline.json"
    path.write_text(codec.encode(report_of()))
    edited(path, lambda report: report["layers"][0]["channels"]["mean"].pop())
    with pytest.raises(SourceError, match=r"mean of 1 has \[5\] numbers, and the layer 6 channels"):
        snapshot.load(path)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"null", b"\xff\xfe\x00", b"[" * 100_000, b'{"schema": "bninspect.stats"}', b"NaN"]
)
def test_what_is_no_report_is_refused(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(SourceError, match="is no report of bninspect"):
        snapshot.load(path)


def test_folders_pipes_and_devices_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(SourceError, match="is no regular file"):
            snapshot.load(path)


def test_random_edits_load_or_are_refused(stored):
    """No edit of a byte ends in anything but a report or one clear error; and what loads can be compared."""
    chance = random.Random(0)
    whole = stored.read_bytes()
    loaded = 0
    for _ in range(400):
        text = bytearray(whole)
        for _ in range(chance.randrange(1, 4)):
            text[chance.randrange(len(text))] = chance.choice(b'0123456789-e.,:"[]{}nulltrue \x00\xff')
        stored.write_bytes(bytes(text))
        with contextlib.suppress(BNInspectError):
            report = snapshot.load(stored)
            assert bninspect.diff(report, report).equal
            loaded += 1
    assert 20 < loaded < 380


def test_a_field_that_a_later_version_adds_is_read_past(stored):
    edited(stored, lambda report: report.update(invented=1))
    assert same(snapshot.load(stored), report_with_vectors(stored))


def report_with_vectors(path):
    digest = json.loads(path.read_text())["vectors"]
    return msgspec.structs.replace(report_of(), vectors=digest)


def test_vectors_are_read_back_to_the_bit_with_nan_and_infinity(tmp_path):
    full = report_of()
    broken = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 5e-324])
    layer = full.layers[0]
    layer = msgspec.structs.replace(layer, channels=msgspec.structs.replace(layer.channels, running_var=broken))
    snapshot.save(tmp_path / "a.json", msgspec.structs.replace(full, layers=(layer,)), vectors=True)
    back = snapshot.load(tmp_path / "a.json").layers[0].channels.running_var
    assert back.tobytes() == broken.tobytes()


def test_inline_vectors_are_read_with_null_as_nan(tmp_path):
    full = report_of()
    path = tmp_path / "inline.json"
    path.write_text(codec.encode(full))
    assert same(snapshot.load(path), full)
    edited(path, lambda report: report["layers"][0]["channels"]["mean"].__setitem__(2, None))
    assert np.flatnonzero(np.isnan(snapshot.load(path).layers[0].channels.mean)).tolist() == [2]


# --- the companion


def test_a_missing_or_foreign_companion_is_refused(stored):
    companion = stored.with_suffix(".safetensors")
    kept = companion.read_bytes()
    companion.unlink()
    with pytest.raises(SourceError, match=r"bn.safetensors, the channel vectors of .*bn.json, is missing"):
        snapshot.load(stored)
    companion.write_bytes(kept[:-1] + b"\x00")
    with pytest.raises(SourceError, match="is not the one that was written with it"):
        snapshot.load(stored)


def test_a_checkpoint_of_that_name_is_not_overwritten(tmp_path):
    from safetensors.torch import save_file

    save_file({"weight": torch.ones(3)}, tmp_path / "model.safetensors")
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(SourceError, match="which holds something else"):
        snapshot.save(tmp_path / "model.json", report_of(), vectors=True)
    snapshot.save(tmp_path / "model.json", report_of())
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_vectors_that_are_no_more_wanted_go(stored):
    snapshot.save(stored, report_of())
    assert not stored.with_suffix(".safetensors").exists()
    assert snapshot.load(stored).layers[0].channels is None


WRITER = """
import sys, pathlib
from bninspect.inspection.snapshot import file as snapshot
first, second = (snapshot.load(pathlib.Path(name)) for name in sys.argv[2:4])
print("ready", flush=True)
while True:
    for report in (first, second):
        snapshot.save(pathlib.Path(sys.argv[1]), report, vectors=True)
"""


def test_killed_at_any_moment_the_old_or_the_new_is_whole(tmp_path):
    choices = [report_of(seed, channels=300) for seed in (0, 1)]
    for name, report in zip("ab", choices, strict=True):
        snapshot.save(tmp_path / f"{name}.json", report, vectors=True)
    target = tmp_path / "bn.json"
    chance = random.Random(0)
    seen, kills = set(), 0
    while kills < 12 or (len(seen) < 2 and kills < 60):
        kills += 1
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, target, tmp_path / "a.json", tmp_path / "b.json"],
            stdout=subprocess.PIPE,
        )
        writer.stdout.readline()
        while not target.exists():
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.03 if kills < 12 else 0.3))  # a busy machine takes longer to the second
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        found = snapshot.load(target)
        equal = [bninspect.diff(found, choice, tolerance=(0, 0)).equal for choice in choices]
        assert sum(equal) == 1
        seen.add(equal.index(True))
    assert seen == {0, 1}
    snapshot.save(target, choices[0], vectors=True)
    left = [path.name for path in tmp_path.iterdir() if path.suffix in {".tmp", ".new"}]
    assert left == []  # what the killed ones left is gone


TWICE = """
import itertools, os, pathlib, shutil, sys
from bninspect.inspection.snapshot import file as snapshot

folder = pathlib.Path(sys.argv[1])
reports = [snapshot.load(folder / f"{name}.json") for name in "abc"]
work, target = folder / "work", folder / "work" / "bn.json"

def which():
    found = snapshot.load(target)
    mean = found.layers[0].channels.mean
    matches = [i for i, each in enumerate(reports) if (mean == each.layers[0].channels.mean).all()]
    assert len(matches) == 1 and found.layers[0].mean_min == reports[matches[0]].layers[0].mean_min
    return matches[0]

def killed_at(step, report):
    child = os.fork()
    if not child:
        steps = itertools.count(1)
        def look(event, arguments):
            if event in {"open", "os.rename", "os.remove", "os.chmod"} and str(work) in str(arguments[0]):
                if next(steps) == step:
                    os._exit(9)
        sys.addaudithook(look)
        snapshot.save(target, report, vectors=True)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9

kills = 0
for first in itertools.count(1):
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    snapshot.save(target, reports[0], vectors=True)
    again = killed_at(first, reports[1])
    state = which()
    assert state in (0, 1)
    shutil.copytree(work, folder / "state", dirs_exist_ok=False)
    for second in itertools.count(1):
        shutil.rmtree(work)
        shutil.copytree(folder / "state", work)
        more = killed_at(second, reports[2])
        assert which() in (state, 2), (first, second)
        kills += more
        if not more:
            break
    shutil.rmtree(folder / "state")
    if not again:
        break
print(kills)
"""


def test_killed_at_every_step_twice_in_a_row(tmp_path):
    """The second writer finds what the first one left, wherever that was killed, and is killed at every step too."""
    for seed, name in enumerate("abc"):
        snapshot.save(tmp_path / f"{name}.json", report_of(seed), vectors=True)
    done = ended([sys.executable, "-c", TWICE, str(tmp_path)])
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 80


def test_a_reader_between_the_two_steps_finds_the_new_pair(stored):
    """As left by a writer that was killed after the JSON was put in place."""
    companion = stored.with_suffix(".safetensors")
    shutil.move(companion, companion.with_name(companion.name + ".new"))
    companion.write_bytes(b"the old vectors")
    assert snapshot.load(stored).layers[0].channels is not None


# --- writing


def test_a_full_disk_leaves_the_old_file(tmp_path):
    """A limit on the size of files, which ends a write as a full disk does."""
    path = tmp_path / "bn.json"
    path.write_text("old")
    code = (
        "import resource, signal, sys, pathlib\n"
        "from bninspect import writing\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "writing.write(pathlib.Path(sys.argv[1]), 'x' * 5000)\n"
    )
    done = ended([sys.executable, "-c", code, str(path)])
    assert "bn.json cannot be written: File too large" in done.stderr
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_mode_bits_are_kept_and_a_live_writer_is_left_alone(tmp_path):
    path = tmp_path / "bn.json"
    path.write_text("old")
    path.chmod(0o640)
    live = tmp_path / f".bn.json.{os.getppid()}-abc.tmp"
    live.write_text("of a writer that runs")
    writing.write(path, "new")
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert live.exists()
