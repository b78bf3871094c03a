"""``MODEL --checkpoint FILE``: the architecture from MODEL, every value from FILE, without running anything in it."""

import json
import warnings

import pytest
import torch
from hostile import build
from safetensors.torch import save_file
from torch import nn

from bninspect.cli import run
from bninspect.errors import SourceError
from bninspect.models import LiveModel, checkpoint
from bninspect.models.stored.reading import read_state


class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.bn = nn.BatchNorm2d(width)
        self.register_buffer("mask", torch.tensor([True, False]))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        return self.bn(self.conv(x)) * self.scale


def trained(seed=1, width=4):
    torch.manual_seed(seed)
    net = Net(width)
    with torch.no_grad():
        for value in net.state_dict().values():
            value.copy_(torch.randint(0, 9, value.shape))
        net.conv.weight.copy_(torch.randn_like(net.conv.weight).to(memory_format=torch.channels_last))
    return net


def live(make=Net):
    return LiveModel(name="net", kind="python", build=make)


def same(net, state):
    for key, value in net.state_dict().items():
        assert value.dtype == state[key].dtype
        assert torch.equal(value, state[key]), key


def wrapped(state, prefix):
    return {prefix + key: value for key, value in state.items()}


def script(net, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(net), path)


@pytest.mark.parametrize(
    "write",
    [
        lambda net, path: torch.save(net.state_dict(), path),
        lambda net, path: torch.save(net.state_dict(), path, _use_new_zipfile_serialization=False),
        torch.save,
        lambda net, path: torch.save(nn.DataParallel(net), path),
        lambda net, path: save_file({k: v.contiguous() for k, v in net.state_dict().items()}, path),
        lambda net, path: torch.save({"epoch": 1, "state_dict": wrapped(net.state_dict(), "module.")}, path),
        lambda net, path: torch.save(wrapped(net.state_dict(), "model._orig_mod."), path),
        lambda net, path: torch.save({"ema": {"x": torch.ones(1)}, "net": net.state_dict()}, path),
        lambda net, path: torch.save(net.double().state_dict(), path),
    ],
    ids=["zip", "legacy", "module", "parallel", "safetensors", "nested", "prefixes", "several", "double"],
)  # fmt: skip
def test_all_values_arrive_bit_by_bit(tmp_path, write):
    net, path = trained(), str(tmp_path / "net")
    write(net, path)
    same(checkpoint.with_values(live(), path).build(), trained().state_dict())


def test_a_torchscript_archive_fills_a_model(tmp_path):
    net, path = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), str(tmp_path / "net")
    script(net, path)
    make = lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))  # noqa: E731
    same(checkpoint.with_values(live(make), path).build(), net.state_dict())


def test_every_view_of_several_dimensions(tmp_path):
    base = torch.arange(2000, dtype=torch.float32)
    made = {
        "a": base.view(20, 100)[3:7, ::9], "b": base.view(10, 10, 20).permute(2, 0, 1), "c": base[5:6].expand(3, 4),
        "d": torch.zeros(0, 5), "e": base[7], "f": base.view(20, 100).t()[:, 2:3],
        "g": base.view(2, 1000)[:, None, 4:8].half(),
    }  # fmt: skip
    torch.save(made, tmp_path / "net")
    values = read_state(str(tmp_path / "net"), made.keys()).values
    for key, value in made.items():
        assert values[key].shape == tuple(value.shape)
        assert values[key].tobytes() == value.contiguous().numpy().tobytes()


@pytest.fixture
def misfit(tmp_path):
    state = trained().state_dict()
    del state["bn.bias"]
    state["head.weight"] = torch.ones(2)
    state["scale"] = torch.ones(3)
    torch.save(state, tmp_path / "net")
    return str(tmp_path / "net")


def test_strict_lists_what_does_not_fit(misfit):
    with pytest.raises(SourceError) as caught:
        checkpoint.with_values(live(), misfit).build()
    text = str(caught.value)
    for part in (
        "1 missing (bn.bias)",
        "1 unexpected (head.weight)",
        "1 of another shape (scale [3] for [])",
        "--no-strict",
    ):
        assert part in text


def test_no_strict_loads_the_rest_and_says_so(misfit):
    model = checkpoint.with_values(live(), misfit, strict=False)
    net = model.build()
    assert torch.equal(net.bn.weight, trained().bn.weight)
    assert torch.equal(net.bn.bias, torch.zeros(4))
    assert sum("not loaded" in remark for remark in (*model.remarks, *model.missing)) == 3


def test_an_old_file_without_counters_fits(tmp_path):
    state = {key: value for key, value in trained().state_dict().items() if "tracked" not in key}
    torch.save(state, tmp_path / "net")
    assert checkpoint.with_values(live(), str(tmp_path / "net")).build().bn.num_batches_tracked == 0


def test_nothing_in_common_is_refused_even_loosely(tmp_path):
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "net")
    with pytest.raises(SourceError, match="does not fit"):
        checkpoint.with_values(live(), str(tmp_path / "net"), strict=False).build()


def test_code_in_the_file_is_not_run(tmp_path):
    canary = tmp_path / "canary"
    payload = build.call("os.system", build.text(f"touch {canary}"))
    (tmp_path / "net").write_bytes(build.checkpoint(build.state("bn", extra={"x": payload})))
    make = lambda: nn.ModuleDict({"bn": nn.BatchNorm1d(build.CHANNELS)})  # noqa: E731
    net = checkpoint.with_values(live(make), str(tmp_path / "net")).build()
    assert net["bn"].weight.tolist() == [1, 2, 3, 4]
    assert not canary.exists()


@pytest.mark.parametrize("lie", ["count", "stride", "sparse"])
def test_a_lie_outside_of_batchnorm_is_refused_too(tmp_path, lie):
    raw = {
        "count": build.tensor("0", count=1 << 40),
        "stride": build.tensor("0", shape=(1 << 20, 1 << 20), strides=(0, 0)),
        "sparse": build.call("torch._utils._rebuild_sparse_tensor"),
    }[lie]
    (tmp_path / "net").write_bytes(build.checkpoint(build.state("bn", extra={"scale": raw})))
    with pytest.raises(SourceError, match="cannot read"):
        read_state(str(tmp_path / "net"), ["scale", "bn.weight"])


def test_the_command_line(tmp_path, capsys, monkeypatch):
    (tmp_path / "nets.py").write_text(
        "from torch import nn\ndef make():\n    return nn.Sequential(nn.BatchNorm2d(3))\n"
    )
    net = nn.Sequential(nn.BatchNorm2d(3))
    with torch.no_grad():
        net[0].running_mean += 7
    torch.save({"model": net.state_dict()}, tmp_path / "net.pt")
    torch.save(torch.zeros(2, 3, 4, 4), tmp_path / "batch.pt")
    monkeypatch.chdir(tmp_path)
    words = ["stats", "nets.py:make", "--checkpoint", "net.pt", "--batch", "batch.pt", "--channels", "--format", "json"]
    assert run(words) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["layers"][0]["channels"]["running_mean"] == [7, 7, 7]
    assert report["source"]["weights"] == "net.pt"
    assert any("under 'model'" in note for note in report["notes"])
    assert run(["summary", "nets.py:make", "--checkpoint", "net.pt", "--input", "3,4,4"]) == 0
    assert capsys.readouterr().err == ""
    for words in (
        ["stats", "net.pt", "--checkpoint", "net.pt"],
        ["stats", "resnet18", "--checkpoint", "net.pt", "--weights", "DEFAULT", "--batch", "batch.pt"],
        ["stats", "nets.py:make", "--checkpoint", "nets.py", "--batch", "batch.pt"],
        ["summary", "nets.py:make", "--checkpoint", "nowhere.pt", "--input", "3,4,4"],
    ):
        assert run(words) == 2, words
        assert len(capsys.readouterr().err.splitlines()) <= 4
