"""``bninspect recalibrate``: the file that it writes is the one that it read, but for the statistics; and refusals."""

from __future__ import annotations

import struct
import sys
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

pytestmark = pytest.mark.usefixtures("one_thread")
NETS = """
import torch
from torch import nn

def make():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))

def loader():
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        yield torch.randn(8, 3, 6, 6, generator=generator) * 3 + 1, torch.randint(0, 5, (8,), generator=generator)

class Once:
    def __init__(self):
        self.pieces = iter(list(loader()))
    def __iter__(self):
        return self.pieces

once = iter(list(loader()))
"""
STATISTICS = [f"{path}.{name}" for path in ("1", "4") for name in ("running_mean", "running_var")]
GO = ("recalibrate", "nets.py:make", "--batch", "nets.py:loader")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(NETS)
    namespace = {}
    exec(NETS, namespace)
    return tmp_path, namespace


@pytest.fixture
def training(folder):
    """What a training script saves: a model, its average, the optimiser, an epoch."""
    path, nets = folder
    model = nets["make"]()
    average = AveragedModel(model, use_buffers=False)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(4, 3, 6, 6)).sum().backward()
    optimizer.step()
    average.update_parameters(model)
    held = {
        "epoch": 3,
        "model": model.state_dict(),
        "model_ema": average.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    torch.save(held, path / "best.pt")
    return path, held


def flat(value, prefix=""):
    if isinstance(value, dict):
        return {key: leaf for name, part in value.items() for key, leaf in flat(part, f"{prefix}{name}.").items()}
    return {prefix[:-1]: value}


def differing(a, b):
    """The places of a record, by its name, or of the zip's own fields, where two files are not the same."""
    assert len(a) == len(b)
    return [position for position, (x, y) in enumerate(zip(a, b, strict=True)) if x != y]


def allowed(path, records):
    """The bytes of these records, and of their checksums behind them and in the directory."""
    raw, places = path.read_bytes(), set()
    with zipfile.ZipFile(path) as archive:
        directory = archive.start_dir
        for info in archive.infolist():
            name, extra, comment = struct.unpack_from("<3H", raw, directory + 28)
            if info.filename.partition("/")[2] in records:
                lengths = struct.unpack_from("<2H", raw, info.header_offset + 26)
                start = info.header_offset + 30 + sum(lengths)
                places |= {*range(start, start + info.file_size)}
                places |= {*range(start + info.file_size + 4, start + info.file_size + 8)}
                places |= {*range(directory + 16, directory + 20)}
            directory += 46 + name + extra + comment
    return places


def checksums(path):
    """Of each record: what the directory, the header before it and the descriptor behind it say; 0 where none is."""
    raw, found = path.read_bytes(), []
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            (before,) = struct.unpack_from("<I", raw, info.header_offset + 14)
            start = info.header_offset + 30 + sum(struct.unpack_from("<2H", raw, info.header_offset + 26))
            magic, behind = struct.unpack_from("<4sI", raw, start + info.file_size)
            found.append((info.CRC, before, behind if magic == b"PK\x07\x08" else 0))
    return found


@pytest.mark.parametrize("writer", ["torch", "zipfile"])
def test_every_copy_of_a_checksum_is_the_new_one(run, training, writer):
    """torch writes them behind each record, Python's zipfile before it, and both in the directory."""
    path, _ = training
    if writer == "zipfile":
        rezipped(path, zipfile.ZIP_STORED)
    assert run(*GO, "--checkpoint", "best.pt", "--set", "model", "-o", "new.pt")[0] == 0
    old, new = checksums(path / "best.pt"), checksums(path / "new.pt")
    assert sum(a != b for a, b in zip(old, new, strict=True)) == 4
    place = 2 if writer == "torch" else 1
    assert all(crc == (crc, *others)[place] for crc, *others in new)


def records_of(path, prefix):
    """The names of the records that hold statistics: they are there in the order of the tensors."""
    order = {}
    with zipfile.ZipFile(path) as archive:
        held = torch.load(path, weights_only=True)
        contents = {name: archive.read(name) for name in archive.namelist() if "/data/" in name}
    for key, value in flat(held).items():
        if isinstance(value, torch.Tensor) and key.startswith(prefix):
            raw = value.contiguous().view(torch.uint8).numpy().tobytes() if value.dim() else b""
            order[key] = [name.partition("/")[2] for name, content in contents.items() if content == raw]
    return order


@pytest.mark.parametrize(("chosen", "prefix"), [("model", "model."), ("ema", "model_ema.module.")])
def test_only_the_statistics_of_one_set_and_their_checksums_change(run, training, chosen, prefix):
    path, held = training
    code, out, err = run(*GO, "--checkpoint", "best.pt", "--set", chosen, "-o", "new.pt")
    assert (code, err) == (0, "")
    assert "Written to new.pt" in out
    old, new = flat(held), flat(torch.load("new.pt", weights_only=True))
    changed = {key for key in old if isinstance(old[key], torch.Tensor) and not torch.equal(old[key], new[key])}
    assert changed == {prefix + key for key in STATISTICS}
    assert {key: new[key] for key in new if key not in changed and not isinstance(new[key], torch.Tensor)} == {
        key: old[key] for key in old if key not in changed and not isinstance(old[key], torch.Tensor)
    }
    with zipfile.ZipFile("new.pt") as archive:
        assert archive.testzip() is None
    places = differing((path / "best.pt").read_bytes(), (path / "new.pt").read_bytes())
    numbers = records_of(path / "new.pt", prefix)
    records = {record for key in STATISTICS for record in numbers[prefix + key]}
    assert set(places) <= allowed(path / "new.pt", records)
    assert len(records) == 4


def test_the_values_are_those_that_the_model_gets(run, training, folder):
    import bninspect

    _, nets = folder
    net = nets["make"]()
    net.load_state_dict(training[1]["model"])
    pieces = [x for x, _ in nets["loader"]()]
    bninspect.recalibrate(net, pieces, how="sequential")
    run(*GO, "--checkpoint", "best.pt", "--set", "model", "-o", "new.pt", "--how", "sequential")
    state = torch.load("new.pt", weights_only=True)["model"]
    for key in STATISTICS:
        assert torch.equal(state[key], net.state_dict()[key])


def test_accuracy_is_that_of_the_loaders_labels(run, training):
    _, out, _ = run(*GO, "--checkpoint", "best.pt", "--set", "model")
    assert "Accuracy on 24 labelled images: " in out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_safetensors_of_any_type(run, folder, dtype):
    path, nets = folder
    state = {key: value.to(dtype) if value.dim() else value for key, value in nets["make"]().state_dict().items()}
    save_file(state, path / "a.safetensors", metadata={"format": "pt", "by": "me"})
    code, _, err = run(*GO, "--checkpoint", "a.safetensors", "-o", "b.safetensors")
    assert (code, err) == (0, "")
    new = load_file(path / "b.safetensors")
    assert {key for key in state if not torch.equal(state[key], new[key])} == set(STATISTICS)
    assert all(new[key].dtype == state[key].dtype for key in state)
    a, b = (path / "a.safetensors").read_bytes(), (path / "b.safetensors").read_bytes()
    size = 2 * (4 + 6) * state["1.running_mean"].itemsize
    assert 0 < len(differing(a, b)) <= size
    assert a[: 8 + int.from_bytes(a[:8], "little")] == b[: 8 + int.from_bytes(b[:8], "little")]


@pytest.mark.parametrize("form", ["legacy", "no checksums", "strided", "one storage", "module"])
def test_other_forms_of_a_checkpoint(run, folder, form):
    path, nets = folder
    net = nets["make"]()
    state = net.state_dict()
    extra = ()
    if form == "strided":
        for key in STATISTICS:
            state[key] = torch.stack([state[key], torch.full_like(state[key], 9.0)], 1).flatten()[::2]
    if form == "one storage":
        whole = torch.cat([value.flatten().float() for value in state.values()])
        parts = whole.split([value.numel() for value in state.values()])
        state = {
            key: part.view_as(value) if value.dim() else value
            for (key, value), part in zip(state.items(), parts, strict=True)
        }
    if form == "no checksums":
        torch.serialization.set_crc32_options(False)
    try:
        torch.save({"state_dict": state}, path / "a.pt", _use_new_zipfile_serialization=form != "legacy")
    finally:
        torch.serialization.set_crc32_options(True)
    old = torch.load(path / "a.pt", weights_only=True)["state_dict"]
    code, _, err = run(*GO, "--checkpoint", "a.pt", "-o", "b.pt", *extra)
    assert (code, err) == (0, "")
    new = torch.load(path / "b.pt", weights_only=True)["state_dict"]
    assert {key for key in old if not torch.equal(old[key], new[key])} == set(STATISTICS)
    assert all(old[key].stride() == new[key].stride() for key in old)
    if form == "strided":  # what lies between the elements is another's
        storage = torch.frombuffer(bytearray(new["1.running_mean"].untyped_storage().tolist()), dtype=torch.float32)
        assert storage[1::2].tolist() == [9.0] * 4


def test_a_pickled_module_stays_one(run, folder, monkeypatch):
    path, _ = folder
    monkeypatch.syspath_prepend(str(path))
    torch.save(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), path / "whole.pt")
    code, _, err = run("recalibrate", "whole.pt", "--allow-pickle", "--batch", "nets.py:loader", "-o", "new.pt")
    assert (code, err) == (0, "")
    old, new = torch.load("whole.pt", weights_only=False), torch.load("new.pt", weights_only=False)
    changed = {key for key, value in old.state_dict().items() if not torch.equal(value, new.state_dict()[key])}
    assert changed == {"1.running_mean", "1.running_var"}


@pytest.mark.parametrize("name", ["new.pt", "new.safetensors"])
def test_without_a_checkpoint_a_state_dict_is_written(run, folder, name):
    code, _, err = run(*GO, "-o", name)
    assert (code, err) == (0, "")
    state = torch.load(name, weights_only=True) if name.endswith("pt") else load_file(name)
    folder[1]["make"]().load_state_dict(state)
    assert int(state["1.num_batches_tracked"]) == 3
    assert run("stats", "nets.py:make", "--checkpoint", name, "--batch", "nets.py:loader")[0] == 0


def shared_ema(path, held):
    """An average that was saved with the model's own buffers."""
    for key in STATISTICS:
        held["model_ema"]["module." + key] = held["model"][key]
    torch.save(held, path / "best.pt")


def without_statistics(path, held):
    held["model"] = {key: value for key, value in held["model"].items() if key not in STATISTICS}
    torch.save(held, path / "best.pt")


def rezipped(path, method):
    with zipfile.ZipFile(path / "best.pt") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path / "best.pt", "w", method) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def deflated(path, _):
    rezipped(path, zipfile.ZIP_DEFLATED)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (None, ("-o", "new.pt"), "it holds 2 sets of weights: say which by --set, one of 'model', 'model_ema'"),
        (None, ("--set", "swa", "-o", "new.pt"), "no set of weights 'swa', but 'model', 'model_ema'"),
        (shared_ema, ("--set", "ema", "-o", "new.pt"), "are the same values in it"),
        (
            without_statistics,
            ("--no-strict", "--set", "model", "-o", "new.pt"),
            "it holds no 1.running_mean and 3 more",
        ),
        (deflated, ("--set", "model", "-o", "new.pt"), "its values are compressed"),
        (None, ("--set", "model", "-o", "best.pt"), "is the file that the values came from"),
        (None, ("--set", "model", "-o", "no/new.pt"), "there is no folder no"),
        (None, ("--set", "model", "-o", "."), "it is a folder"),
    ],
)
def test_what_cannot_be_written_is_said_and_nothing_is_lost(run, training, *, change, options, message):
    path, held = training
    if change:
        change(path, held)
    before = (path / "best.pt").read_bytes()
    code, out, err = run(*GO, "--checkpoint", "best.pt", *options)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert (path / "best.pt").read_bytes() == before
    assert not (path / "new.pt").exists()


def test_the_input_is_replaced_by_force(run, training):
    path, _ = training
    code, _, err = run(*GO, "--checkpoint", "best.pt", "--set", "model", "-o", "best.pt", "--force")
    assert (code, err) == (0, "")
    assert [file.name for file in path.iterdir() if file.name.startswith(".")] == []
    code, out, _ = run(*GO, "--checkpoint", "best.pt", "--set", "model")
    assert "those of the data already, and were not changed" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("recalibrate", "best.pt", "--batch", "nets.py:loader"), "recalibrate is for a model that can run"),
        ((*GO, "-o", "new.bin"), "must end in one of .pt, .pth, .safetensors"),
        (("recalibrate", "nets.py:make", "--batch", "random", "--input", "3,6,6", "-o", "new.pt"), "is made up"),
        ((*GO, "--set", "ema"), "--set names a set of weights in --checkpoint"),
        (("recalibrate", "nets.py:make", "--batch", "nets.py:once"), "can be gone through once"),
        (("recalibrate", "nets.py:make", "--batch", "batch.pt", "-o", "batch.pt"), "is the batch"),
        (("recalibrate", "nets.py:make", "--batch", "batch.pt"), "holds 1,296 NaN or infinite values"),
    ],
)
def test_usage(run, training, arguments, message):
    torch.save(torch.full((9, 3, 14, 5), torch.nan), "batch.pt")
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in err.replace("\n", " ")


@pytest.mark.skipif(sys.platform == "win32", reason="modes of POSIX")
def test_the_new_file_has_the_modes_of_a_new_file(run, training):
    path, _ = training
    (path / "best.pt").chmod(0o600)
    run(*GO, "--checkpoint", "best.pt", "--set", "model", "-o", "best.pt", "--force")
    assert (path / "best.pt").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("form", ["table", "json", "csv", "markdown"])
def test_every_format_tells_the_same(run, folder, form):
    code, out, err = run(*GO, "--format", form)
    assert (code, err) == (0, "")
    assert "bn" not in out or "running" not in out or form != "csv"
    for name in ("1", "4"):
        assert name in out


def test_every_report_has_a_view():
    from bninspect import codec
    from bninspect.render._view import EVERY

    assert set(EVERY) == set(codec.kinds())
