"""Weights of timm and of the hub: their files are read as any stranger's, and filled in as timm would."""

from __future__ import annotations

import io

import hub
import pytest
import safetensors.torch
import timm
import torch
from hub import load, same

from bninspect.errors import SourceError
from bninspect.models import _downloads

FILES = ["model.safetensors", "pytorch_model.bin"]
BATCH = ("--batch", "random", "--input", "3,32,32")
ADDRESS = "gcvit_xxtiny"  # a model that timm has no repository for


class Code:
    """What is run by whoever unpickles it: it leaves a file."""

    def __init__(self, canary):
        self.canary = str(canary)

    def __reduce__(self):
        return open, (self.canary, "w")


def saved(held):
    file = io.BytesIO()
    torch.save(held, file)
    return file.getvalue()


def laid_out(cache, data, file="pytorch_model.bin", config=None):
    hub.lay_out(cache, "me/net", {"config.json": config or hub.config(), file: data})


@pytest.mark.parametrize("file", FILES)
def test_no_other_reader_opens_them(cache, monkeypatch, file):
    net = hub.trained(num_classes=10)
    laid_out(cache, hub.weights(net) if file == FILES[0] else saved(net.state_dict()), file)
    monkeypatch.setattr(torch, "load", None)
    monkeypatch.setattr(safetensors.torch, "load_file", None)
    made = load("hf-hub:me/net").build()
    same(made, net)
    assert "state_dict" not in made.pretrained_cfg


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("model", ["hf-hub:me/net", "timm:test_resnet"])
def test_code_in_them_is_not_run(run, cache, tmp_path, file, model):
    data = saved(Code(tmp_path / "canary"))
    laid_out(cache, data, file)
    hub.lay_out(cache, "timm/test_resnet.r160_in1k", {file: data})
    code, out, err = run("stats", model, *BATCH, "--weights", "DEFAULT")
    assert (code, out) == (2, "")
    assert err.startswith("Error: cannot read '")
    assert err.endswith(f"{file}': it holds no tensors\n")
    assert not (tmp_path / "canary").exists()


def test_code_beside_the_values_is_not_run_either(cache, tmp_path):
    net = hub.trained(num_classes=10)
    laid_out(cache, saved({**net.state_dict(), "fc.extra": Code(tmp_path / "canary")}))
    same(load("hf-hub:me/net").build(), net)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x08\0\0\0\0\0\0\0no json!", "it is no checkpoint"),
        (b"\x02\0\0\0\0\0\0\0{}", "it holds no tensors"),
        (saved({}), "it holds no tensors"),
        (saved({"conv1.weight": torch.zeros(3)})[:-40], "cut short|damaged|not one of torch.save"),
    ],
)
@pytest.mark.parametrize("file", FILES)
def test_damaged_weights_are_said(run, cache, data, message, file):
    laid_out(cache, data, file)
    code, out, err = run("stats", "hf-hub:me/net", *BATCH)
    assert (code, out) == (2, "")
    with pytest.raises(SourceError, match=rf"cannot read '.*/{file}': .*({message})"):
        load("hf-hub:me/net").build()
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
def test_weights_that_do_not_fit_are_refused(cache, change):
    state = hub.trained(num_classes=10).state_dict()
    state |= {"shape": {"bn1.weight": torch.ones(3)}, "unexpected": {"bn9.weight": torch.ones(3)}}.get(change, {})
    if change == "missing":
        del state["bn1.running_mean"]
    laid_out(cache, saved(state))
    with pytest.raises(SourceError, match=r"hf-hub:me/net cannot be built: RuntimeError: Error\(s\) in loading"):
        load("hf-hub:me/net").build()


def test_keys_of_other_code_are_renamed_by_timm(cache):
    net = hub.trained("levit_128s", num_classes=10)
    state = {**net.state_dict(), "blocks.attention_bias_idxs": torch.ones(2)}  # which timm leaves out
    laid_out(cache, saved({"model": state, "epoch": 3}), config=hub.config("levit_128s"))
    same(load("hf-hub:me/net").build(), net)


def test_another_classifier_keeps_its_own_values(cache):
    net = hub.trained(num_classes=10)
    laid_out(cache, saved(net.state_dict()))
    made = load("hf-hub:me/net", arguments={"num_classes": "7"}).build()
    assert made.fc.weight.shape[0] == 7
    assert torch.equal(made.bn1.running_mean, net.bn1.running_mean)


@pytest.mark.parametrize("custom", [False, "hf"])
def test_a_file_of_another_name(cache, tmp_path, custom):
    net = hub.trained(num_classes=10)
    pretrained = {"num_classes": 10, "hf_hub_filename": "best.bin", "custom_load": custom, "classifier": "fc"}
    laid_out(cache, saved(net.state_dict()), "best.bin", hub.config(pretrained_cfg=pretrained))
    same(load("hf-hub:me/net").build(), net)
    laid_out(cache, saved(Code(tmp_path / "canary")), "best.bin", hub.config(pretrained_cfg=pretrained))
    with pytest.raises(SourceError, match=r"cannot read '.*best\.bin': it holds no tensors"):
        load("hf-hub:me/net").build()
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("model", ["hf-hub:me/net", "timm:test_resnet"])
@pytest.mark.parametrize("argument", ["checkpoint_path=code.pt", "pretrained=True"])
def test_arguments_let_timm_read_nothing(run, cache, tmp_path, model, argument):
    (tmp_path / "code.pt").write_bytes(saved(Code(tmp_path / "canary")))
    laid_out(cache, saved(hub.trained(num_classes=10).state_dict()))
    hub.lay_out(cache, "timm/test_resnet.r160_in1k", {FILES[1]: saved(hub.trained().state_dict())})
    code, out, err = run("stats", model, *BATCH, "--model-arg", argument)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("name", ["../../../config.json", 3, "no/such.bin"])
def test_names_of_files_that_lead_nowhere(run, cache, name):
    laid_out(cache, b"", config=hub.config(pretrained_cfg={"num_classes": 10, "hf_hub_filename": name}))
    code, out, err = run("stats", "hf-hub:me/net", *BATCH)
    assert (code, out) == (2, "")
    assert "the file of the weights of hf-hub:me/net" in err
    assert len(err.splitlines()) == 1


def test_weights_of_an_address(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = _downloads.cached(timm.models.get_pretrained_cfg(ADDRESS).url)
    path.parent.mkdir(parents=True)
    net = hub.trained(ADDRESS)
    torch.save(net.state_dict(), path)
    same(load(f"timm:{ADDRESS}", weights="DEFAULT", offline=True).build(), net)
    path.write_bytes(saved(Code(tmp_path / "canary")))
    with pytest.raises(SourceError, match=r"cannot read '.*': it holds no tensors"):
        load(f"timm:{ADDRESS}", weights="DEFAULT").build()
    assert not (tmp_path / "canary").exists()


def test_an_address_is_fetched_once(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with hub.serving({"net.pth": b"values"}) as (address, asked):
        for offline in (False, False, True):
            path = _downloads.fetched("the file", f"{address}/net.pth", offline=offline)
            assert path.read_bytes() == b"values"
    assert asked == ["GET /net.pth"]
