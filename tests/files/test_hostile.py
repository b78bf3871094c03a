"""Every file that a stranger might send, at the command line: its layers or a sentence of our own; nothing is run."""

import json
import os
import random
import shutil
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hostile import build, containers, corpus, judged, modules
from hostile.names import NAMES
from hostile.warm import Warm
from processes import without_privileges

FORMATS = {
    "summary": ("table", "csv", "markdown", "ordereddict", "json"),
    "stats": ("table", "csv", "markdown", "json"),
    "check": ("table", "json", "csv", "markdown", "github", "junit"),
}
GROUPS = (
    "code", "lie", "graph", "name", "zip", "legacy", "safetensors", "index", "export", "cut", "other", "bomb",
    "alignment", "module", "script", "value", "kind",
)  # fmt: skip
BATCH_GROUPS = ("npy", "npz", "batch", "honest")
CASES, BATCHES, TURN = {}, {}, {}  # by name; filled where the files are written
PLACES = [
    *("folder", "pipe", "zero", "null", "nowhere", "loop", "below-file"),
    *("to-folder", "to-nowhere", "socket", "long", "tty", "sparse"),
    *(f"shard-{name}" for name in ("folder", "pipe", "loop-a", "dangling", "socket", "sparse")), "empty",
]  # fmt: skip
HEAVY = ("bomb-steps", "bomb-deflated-pickle", "bomb-deflated-records", "bomb-dicts", "bomb-lists", "legacy-deep")
KEY = f"{build.LAYER}.running_var"
FILE_NAMES = {
    **{kind: name for kind, name in NAMES.items() if "\0" not in name and "\ud800" not in name and len(name) < 200},
    "no-text": "\udcff\udcfe", "new-line-only": "\n", "long": "y" * 240, "hub": "hf-hub:a/b",
}  # fmt: skip
NETS = f"""
from torch import nn
def net():
    inner = nn.Module()
    inner.bn1 = nn.BatchNorm2d({build.CHANNELS})
    net = nn.Sequential()
    net.layer1 = nn.Sequential(inner)
    inner.forward = inner.bn1
    return net
"""


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """All files of the corpus, honest ones beside them, and a module whose very import leaves a trace."""
    made = tmp_path_factory.mktemp("hostile")
    canary = str(made / "canary")
    for files, expectations in ((corpus.files(canary), CASES), (corpus.batches(canary), BATCHES)):
        for name, raw, expectations[name] in files:
            (made / name).write_bytes(raw)
            TURN.setdefault(name, len(TURN))
    (made / "shard").write_bytes(build.good_safetensors())
    (made / "good.pt").write_bytes(containers.GOOD)
    (made / "nets.py").write_text(NETS)
    (made / "evil.py").write_text(f"open({canary!r}, 'w')")
    np.save(made / "good.npy", np.arange(8, dtype="f4").reshape(2, 4, 1, 1))
    (made / "places").mkdir()
    yield made
    assert not (made / "canary").exists(), "code in a file was run"


@pytest.fixture(scope="session")
def stored(folder):
    """The command line where torch cannot be imported."""
    honest = [[command, "good.pt", "--format", fmt] for command, formats in FORMATS.items() for fmt in formats]
    honest += [["diff", "good.pt", "good.pt"], ["stats", "--batch", "good.pt"]]  # the latter up to where it wants torch
    warm = Warm(folder, honest, torch=False)
    yield warm
    warm.close()


@pytest.fixture(scope="session")
def live(folder):
    """The command line with torch imported."""
    honest = [["--batch", "good.npy"], ["--batch", "good.pt", "--batch-key", KEY]]
    honest += [
        ["nets.py:net", "--checkpoint", "good.pt", "--batch", "good.npy", "--format", fmt] for fmt in FORMATS["stats"]
    ]
    warm = Warm(folder, [["stats", *words] for words in honest], torch=True)
    yield warm
    warm.close()


@pytest.fixture(scope="session")
def places(folder):
    return corpus.places(folder / "places")


def look(warm, command, *words, fmt, expected="either", **environment):
    """Run a command, and hold what it did against all that must hold; "colours" is a table on a terminal of 80."""
    shown = ["--format", "table", "--color", "always"] if fmt == "colours" else ["--format", fmt]
    environment |= {"COLUMNS": "80"} if fmt == "colours" else {}
    return held(warm.run(command, *shown, *words, **environment), fmt, expected)


def held(ran, fmt, expected):
    assert not judged.faults(ran, fmt), (ran.command, judged.faults(ran, fmt), ran.err)
    assert expected == "either" or (ran.code == 2) == (expected == "refuse"), ran
    return ran


def look_at_batch(stored, live, *words, fmt, expected="either"):
    """Without torch, which a refusal should not have waited for; with it where it is then needed."""
    asked = ("stats", "--format", fmt, "--batch", *words)
    ran = stored.run(*asked)
    return held(live.run(*asked) if "ModuleNotFoundError" in ran.err else ran, fmt, expected)


def turn(name, choices):
    """Another of the choices for each case."""
    return choices[TURN[name] % len(choices)]


def test_the_corpus_is_large(folder):
    assert len(CASES) >= 550
    assert len(BATCHES) >= 90
    assert {name.partition("-")[0] for name in CASES} == set(GROUPS)
    assert {name.partition("-")[0] for name in BATCHES} == set(BATCH_GROUPS)


@pytest.mark.parametrize("group", GROUPS)
def test_a_hostile_file_is_read_or_refused(stored, group):
    for name in _of(group, CASES):
        whole = CASES[name] != "refuse" and name not in HEAVY  # a refusal comes from the reader that all share
        for command in FORMATS if whole else [turn(name, list(FORMATS))]:
            fmt = "json" if command == "stats" else turn(name, FORMATS[command])
            ran = look(stored, command, f"./{name}", fmt=fmt, expected=CASES[name])
            if ran.code == 2:
                assert ran.err.startswith(f"Error: cannot read './{name}': ")
                assert len(ran.err) < 400
            elif command == "stats" and CASES[name] == "read":
                wanted = NAMES.get(name.removeprefix("name-"), build.LAYER)
                paths = [layer["path"] for layer in json.loads(ran.out)["layers"]]
                assert paths[:1] == [wanted.encode("utf-8", "backslashreplace").decode()]


def _of(group, names):
    return [name for name in names if name.partition("-")[0] == group]


@pytest.mark.parametrize("group", GROUPS)
def test_a_hostile_file_given_as_a_batch(stored, live, group):
    for name in (name for name in _of(group, CASES) if name not in HEAVY):
        words, fmt = (f"./{name}", "--batch-key", KEY), turn(name, FORMATS["stats"])
        if CASES[name] == "read":
            look(live, "stats", "--batch", *words, fmt=fmt)
        else:
            look_at_batch(stored, live, *words, fmt=fmt)


@pytest.mark.parametrize("group", BATCH_GROUPS)
def test_a_hostile_batch_is_read_or_refused(stored, live, group):
    for name in _of(group, BATCHES):
        ask = (
            partial(look, live, "stats", "--batch") if BATCHES[name] == "read" else partial(look_at_batch, stored, live)
        )
        ran = ask(f"./{name}", fmt="json", expected=BATCHES[name])
        if ran.code == 0:
            assert json.loads(ran.out)["layers"][0]["num_features"] == 3


@pytest.mark.parametrize("group", ["name", "kind", "lie"])
def test_a_hostile_checkpoint_of_a_model(live, group):
    for name in _of(group, CASES)[::2]:
        expected = CASES[name] if CASES[name] == "refuse" else "either"
        words = ("nets.py:net", "--checkpoint", name, "--batch", "good.npy")
        look(live, "stats", *words, fmt=turn(name, FORMATS["stats"]), expected=expected)


@pytest.mark.parametrize("fmt", sorted({*sum(FORMATS.values(), ()), "colours"}))
def test_layers_of_hostile_names_look_like_layers_of_tame_names(folder, stored, fmt):
    names = list(NAMES.values())
    (folder / "names").write_bytes(modules.all_names(names))
    (folder / "tame").write_bytes(modules.all_names([f"l{k}" for k in range(len(names))]))
    for command, formats in FORMATS.items():
        for more in ((), ("--channels",)) if command == "stats" else ((),):
            if fmt in (*formats, "colours"):
                hostile, tame = (look(stored, command, f"./{file}", *more, fmt=fmt) for file in ("names", "tame"))
                assert hostile.code == tame.code == (command == "check")
                if fmt != "colours":  # a terminal's width folds long ones
                    assert hostile.out.count("\n") == tame.out.count("\n")


def test_a_hostile_file_name_is_shown_as_text(folder, stored, live):
    for number, (kind, text) in enumerate(FILE_NAMES.items()):
        path = Path("files", kind, name := f"{text}.pt")  # a name with slashes is folders
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(containers.GOOD)
        for command, formats in FORMATS.items():
            look(stored, command, "-v", str(path), fmt=formats[number % len(formats)], expected="read")
        (folder / path).write_bytes(b"nope")
        for words in ((str(path),), ("good.pt", name), (f"-{name}",), ("good.pt", "--snapshot", str(path))):
            look(stored, "summary", *words, fmt="table", expected="refuse")
        look(stored, "stats", "--batch", str(path), fmt="table", expected="refuse")
        if number % 4 == 0:
            words = ("nets.py:net", "--checkpoint", str(path), "--batch", "good.npy")
            look(live, "stats", *words, fmt="table", expected="refuse")


@pytest.mark.parametrize("name", PLACES)
def test_what_is_no_regular_file_is_refused_at_once(stored, live, places, name):
    path = places[f"place-{name}"]
    runs = [look(stored, command, path, fmt="table", expected="refuse") for command in ("summary", "stats", "check")]
    runs += [
        look(stored, "diff", *pair, fmt="table", expected="refuse") for pair in ((path, "good.pt"), ("good.pt", path))
    ]
    runs += [look(stored, "summary", "good.pt", "--snapshot", path, fmt="table", expected="refuse")]
    runs += [look_at_batch(stored, live, path, fmt="table", expected="refuse")]
    assert all(ran.waited - ran.seconds < 1 for ran in runs)


@pytest.mark.parametrize("name", ["place-unreadable", "place-shard-unreadable", "inner/good.pt"])
def test_what_may_not_be_read_is_refused(folder, places, name):
    inner = folder / "inner"
    inner.mkdir(exist_ok=True)
    shutil.copy(folder / "good.pt", inner)
    inner.chmod(0)
    words = [*without_privileges(), sys.executable, "-m", "bninspect", "summary", places.get(name, name)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    ran = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60)
    inner.chmod(0o700)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "ermission denied" in ran.stderr
    assert ran.stderr.count("\n") == 1
    assert "Errno" not in ran.stderr


def test_a_file_that_changes_while_it_is_read(folder, stored, live):
    path, done, whole = folder / "changing.pt", threading.Event(), containers.GOOD
    path.write_bytes(whole)

    def change():
        while not done.is_set():
            os.truncate(path, random.randrange(len(whole)))
            with path.open("r+b") as file:
                file.write(whole)

    writer = threading.Thread(target=change)
    writer.start()
    try:
        codes = {look(stored, "stats", "changing.pt", fmt="json").code for _ in range(40)}
        codes |= {look(live, "stats", "--batch", "changing.pt", "--batch-key", KEY, fmt="json").code for _ in range(5)}
    finally:
        done.set()
        writer.join()
    assert codes <= {0, 2}
