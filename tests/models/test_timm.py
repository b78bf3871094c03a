"""Models of timm and of the Hugging Face hub: names, weights from a cache, and what is said where there are none."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time

import hub
import pytest
import timm
import torch
from hub import load, same
from huggingface_hub import constants

from bninspect.errors import SourceError
from bninspect.models import timm as source

REPOSITORY = "timm/test_resnet.r160_in1k"


def test_names_are_timms_own():
    known, renamed = source.names()
    assert known == sorted(timm.list_models())
    assert renamed == timm.models.get_deprecated_models()


def test_a_name_is_never_taken_for_another_source():
    assert type(load("resnet18").build()).__module__ == "torchvision.models.resnet"
    found = load("timm:resnet18")
    assert type(found.build()).__module__ == "timm.models.resnet"
    assert (found.name, found.kind, found.weights) == ("timm:resnet18", "timm", None)
    assert found.notes == ("timm:resnet18 has random weights: --weights DEFAULT loads trained ones",)


def test_arguments_go_to_timm():
    assert load("timm:test_resnet", arguments={"num_classes": "7"}).build().fc.out_features == 7
    with pytest.raises(SourceError, match=r"timm:test_resnet cannot be built: TypeError: .*colour"):
        load("timm:test_resnet", arguments={"colour": "7"}).build()


def test_a_former_name():
    found = load("timm:tf_efficientnet_b0_ns")
    assert found.remarks == ["timm:tf_efficientnet_b0_ns is by now called timm:tf_efficientnet_b0.ns_jft_in1k"]


@pytest.mark.parametrize(
    ("text", "weights", "message"),
    [
        ("timm:resnet18x", None, r"timm has no model 'resnet18x': did you mean timm:resnet18,"),
        ("timm:ResNet18", None, r"did you mean timm:resnet18,"),
        ("timm:zzzzzz", None, r"timm has no model 'zzzzzz': it has "),
        ("timm:", None, r"timm has no model ''"),
        ("timm:timm/resnet18", None, r"did you mean timm:resnet18, .*repository of the Hugging Face hub is hf-hub:"),
        ("timm:a\x1b[2J", None, r"timm has no model 'a\\x1b"),
        ("timm:resnet18.a9", None, r"timm's resnet18 has no tag 'a9': it has a1_in1k, a2_in1k"),
        ("timm:resnet18", "IMAGENET1K_V1", r"no weights 'IMAGENET1K_V1' of resnet18: it has a1_in1k"),
        ("timm:resnet18.a1_in1k", "a2_in1k", r"resnet18.a1_in1k and --weights a2_in1k name different weights"),
        ("timm:cs3sedarknet_xdw", "DEFAULT", r"no weights 'DEFAULT' of cs3sedarknet_xdw: it has none"),
        ("hf-hub:resnet18", None, r"hf-hub:resnet18 is not of the form hf-hub:ORG/NAME"),
        ("hf-hub:https://huggingface.co/timm/resnet18", None, r"is not of the form"),
        ("hf-hub:timm/resnet18", "a1_in1k", r"has weights of its own: leave --weights out"),
    ],
)
def test_what_is_not_there_is_said(text, weights, message):
    with pytest.raises(SourceError, match=message):
        load(text, weights=weights)


def test_a_wrong_name_costs_no_import():
    code = (
        "import sys\nfrom bninspect import cli\ncode = cli.run(['summary', 'timm:resnet19', '--input', '3,8,8'])\n"
        "assert code == 2, code\nassert not {'torch', 'timm', 'numpy'} & set(sys.modules), 'imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "did you mean timm:resnet18" in done.stderr


@pytest.mark.parametrize("text", ["timm:resnet18", "hf-hub:timm/resnet18"])
def test_without_the_extra(run, monkeypatch, text):
    monkeypatch.setitem(sys.modules, "timm", None)  # as good as not installed, to every import
    code, out, err = run("summary", text, "--input", "3,8,8")
    assert (code, out) == (2, "")
    assert err == f"Error: {text} needs timm, which is not installed: pip install 'bninspect[timm]'\n"


def test_a_timm_that_does_not_import(tmp_path, command):
    (tmp_path / "timm" / "models").mkdir(parents=True)
    (tmp_path / "timm" / "__init__.py").write_text("raise RuntimeError('built for another torch')\n")
    (tmp_path / "timm" / "models" / "resnet.py").write_text("@register_model\ndef resnet18():\n    pass\n")
    done = command("summary", "timm:resnet18", "--input", "3,8,8")
    assert (done.returncode, done.stdout) == (2, "")
    assert "timm cannot be imported (RuntimeError: built for another torch)" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("wanted", ["DEFAULT", "r160_in1k", "test_resnet.r160_in1k"])
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_weights_are_found_where_timm_keeps_them(cache, tmp_path, wanted, file):
    net = hub.trained()
    torch.save(net.state_dict(), tmp_path / "net")
    data = hub.weights(net) if file == "model.safetensors" else (tmp_path / "net").read_bytes()
    hub.lay_out(cache, REPOSITORY, {file: data})
    found = load("timm:test_resnet", weights=wanted)
    assert (found.weights, found.notes) == ("test_resnet.r160_in1k", ())
    same(found.build(), net)


def test_a_tag_alone_loads_nothing(cache):
    found = load("timm:test_resnet.r160_in1k")
    assert not found.build().state_dict()["bn1.running_mean"].any()
    assert found.weights is None
    assert "its tag alone does not" in found.notes[0]


def test_the_layers_of_trained_weights_need_no_file(run, cache):
    code, out, _ = run("summary", "timm:test_resnet", "--weights", "DEFAULT", "--input", "3,32,32", "--offline")
    assert code == 0
    assert "BatchNorm layers: 15" in out


def test_weights_that_are_not_there_are_named_with_their_place(run, cache):
    words = ("stats", "timm:test_resnet", "--weights", "DEFAULT", "--batch", "random", "--input", "3,32,32")
    code, out, err = run(*words, "--offline")
    assert (code, out) == (2, "")
    place = cache / "models--timm--test_resnet.r160_in1k"
    assert f"weights test_resnet.r160_in1k of timm:test_resnet ({REPOSITORY} on the Hugging Face hub)" in err
    assert f"is not in the cache {place}, and no download is allowed (--offline, or HF_HUB_OFFLINE)" in err
    assert len(err.splitlines()) == 1


def test_weights_that_lie_at_an_address(run, tmp_path, monkeypatch):
    """A model that timm has no repository for."""
    import urllib.request

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(urllib.request, "_opener", None)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    words = ("stats", "timm:gcvit_xxtiny", "--weights", "DEFAULT", "--batch", "random", "--input", "3,32,32")
    code, out, err = run(*words, "--offline")
    assert (code, out) == (2, "")
    assert f"is not at {tmp_path / 'hub' / 'checkpoints'}" in err
    assert "and --offline allows no download" in err
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert "and cannot be downloaded: [Errno 111] Connection refused" in err


def test_what_timm_warns_of_is_a_note(run, cache, caplog):
    net = hub.trained(num_classes=10)
    net.register_buffer("x\x1b[2J", torch.ones(2))
    hub.lay_out(cache, "me/net", {"config.json": hub.config(), "model.safetensors": hub.weights(net)})
    words = ("--batch", "random", "--input", "3,32,32", "--model-arg", "num_classes=7")  # which is why it is not strict
    code, out, err = run("stats", "hf-hub:me/net", *words)
    assert (code, err, caplog.records) == (0, "", [])
    assert r"Note: timm: Unexpected keys (x\x1b[2J) found while loading pretrained weights" in out
    before = logging.getLogger("timm")
    assert before.propagate
    assert not before.handlers


def test_a_repository_is_a_trained_model(run, cache):
    net = hub.trained(num_classes=10)
    hub.lay_out(cache, "me/net", {"config.json": hub.config(), "model.safetensors": hub.weights(net)})
    found = load("hf-hub:me/net")
    assert (found.name, found.kind, found.weights) == ("hf-hub:me/net", "hf-hub", "me/net")
    same(found.build(), net)
    same(load("hf-hub:me/net", weights="DEFAULT").build(), net)
    code, out, _ = run("diff", "hf-hub:me/net", "hf-hub:me/net", "--format", "json", "--offline")
    assert code == 0
    assert json.loads(out)["num_layers"] == 15


def test_revisions(cache):
    old, new = hub.trained(seed=1, num_classes=10), hub.trained(seed=2, num_classes=10)
    other = hub.COMMIT[::-1]
    for net, ref, commit in ((old, "v1", other), (new, "main", hub.COMMIT)):
        files = {"config.json": hub.config(), "model.safetensors": hub.weights(net)}
        hub.lay_out(cache, "me/net", files, ref=ref, commit=commit)
    same(load("hf-hub:me/net").build(), new)
    same(load("hf-hub:me/net@v1").build(), old)
    same(load(f"hf-hub:me/net@{other}").build(), old)
    with pytest.raises(SourceError, match=r"config.json of hf-hub:me/net@v3 is not in the cache"):
        load("hf-hub:me/net@v3").build()


def test_layers_and_other_values_need_the_configuration_alone(run, cache, tmp_path):
    net = hub.trained(num_classes=10)
    hub.lay_out(cache, "me/net", {"config.json": hub.config()})
    torch.save(net.state_dict(), tmp_path / "best.pt")
    assert "BatchNorm layers: 15" in run("summary", "hf-hub:me/net", "--input", "3,32,32")[1]
    batch = ("--batch", "random", "--input", "3,32,32")
    code, out, _ = run("stats", "hf-hub:me/net", "--checkpoint", "best.pt", *batch, "--format", "json", "--channels")
    assert code == 0
    layer = json.loads(out)["layers"][0]
    assert layer["channels"]["running_mean"] == net.state_dict()[f"{layer['path']}.running_mean"].tolist()
    code, _, err = run("stats", "hf-hub:me/net", *batch)
    assert code == 2
    assert "the file of the weights of hf-hub:me/net is not in the cache" in err


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "its config.json names no architecture"),
        (b"\xff\xfe", "its config.json names no architecture"),
        (b"[" * 100_000, "its config.json names no architecture"),
        (b'{"architectures": ["ResNetForImageClassification"]}', "its config.json names no architecture"),
        (b'["architecture"]', "its config.json names no architecture"),
        (b'{"architecture": {}}', "its config.json names no architecture"),
        (hub.config("nothing\x1b[2J"), r"the architecture 'nothing\x1b[2J', which timm"),
        (hub.config(model_args={"colour": 1}), "cannot be built: TypeError"),
        (hub.config(model_args={"block": "os.system"}), "cannot be built: "),
        (hub.config(pretrained_cfg={"pretrained": 1}), "cannot be built: TypeError"),
    ],
)
def test_configurations_of_strangers(run, cache, data, message):
    hub.lay_out(cache, "me/net", {"config.json": data})
    code, out, err = run("summary", "hf-hub:me/net", "--input", "3,32,32")
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert "\x1b" not in err


@pytest.mark.parametrize("text", ["hf-hub:me/ne--t", "hf-hub:me/..", "hf-hub:-me/net"])
def test_names_that_no_repository_can_have(run, cache, text):
    code, out, err = run("summary", text, "--input", "3,32,32")
    assert (code, out) == (2, "")
    assert text in err
    assert len(err.splitlines()) == 1


def to(monkeypatch, address):
    """Let the hub be at another address."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")


def test_a_hub_that_answers(run, cache, monkeypatch):
    net = hub.trained(num_classes=10)
    with hub.serving({"config.json": hub.config(), "model.safetensors": hub.weights(net)}) as (address, asked):
        to(monkeypatch, address)
        same(load("hf-hub:me/net").build(), net)
        assert "GET /me/net/resolve/main/model.safetensors" in asked
        asked.clear()
        same(load("hf-hub:me/net").build(), net)
        assert not [line for line in asked if line.startswith("GET")]  # the cache has it
        asked.clear()
        assert run("diff", "hf-hub:me/net", "hf-hub:me/net", "--offline")[0] == 0
        assert asked == []


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        ("RepoNotFound", "the hub has no me/net, or it is private"),
        ("GatedRepo", "me/net is for those who accepted its terms and are logged in"),
        ("RevisionNotFound", "me/net has no revision 'v9'"),
    ],
)
def test_a_hub_that_refuses(run, cache, monkeypatch, refusal, message):
    with hub.serving({}, refusal) as (address, _):
        to(monkeypatch, address)
        code, out, err = run("summary", "hf-hub:me/net@v9", "--input", "3,32,32")
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_repository_of_something_else(run, cache, monkeypatch):
    with hub.serving({"README.md": b"hello"}) as (address, _):
        to(monkeypatch, address)
        code, _, err = run("summary", "hf-hub:me/net", "--input", "3,32,32")
    assert code == 2
    assert "hf-hub:me/net is no model of timm: it has no config.json" in err


@pytest.mark.parametrize("kept", [False, True])
def test_a_hub_that_is_not_there_is_not_waited_for(run, cache, monkeypatch, kept):
    if kept:
        files = {"config.json": hub.config(), "model.safetensors": hub.weights(hub.trained(num_classes=10))}
        hub.lay_out(cache, "me/net", files)
    to(monkeypatch, "http://127.0.0.1:9")
    begin = time.monotonic()
    code, _, err = run("diff", "hf-hub:me/net", "hf-hub:me/net")
    assert time.monotonic() - begin < 20  # timm's own way takes 50 seconds
    assert code == (0 if kept else 2)
    assert constants.HF_HUB_OFFLINE is False
    if not kept:
        assert "and http://127.0.0.1:9 cannot be reached (ConnectError: " in err
        assert len(err.splitlines()) == 1


def test_the_environment_of_a_process_of_its_own(tmp_path, command):
    """HF_HOME and --offline as a user sets them: one side is in the cache, the other is not."""
    files = {"config.json": hub.config(), "model.safetensors": hub.weights(hub.trained(num_classes=10))}
    hub.lay_out(tmp_path / "home" / "hub", "me/net", files)
    done = command("diff", "hf-hub:me/net", "hf-hub:me/other", "--offline", env={"HF_HOME": str(tmp_path / "home")})
    assert (done.returncode, done.stdout) == (2, "")
    assert f"hf-hub:me/other is not in the cache {tmp_path / 'home' / 'hub' / 'models--me--other'}" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_report_says_which_timm(run, tmp_path):
    words = ("stats", "timm:test_resnet", "--batch", "random", "--input", "3,32,32")
    assert f", timm {timm.__version__}, device cpu" in run(*words)[1]
    snapshot = ("--snapshot", "bn.json")
    assert run(*words, *snapshot, "--update")[0] == 0
    stored = json.loads((tmp_path / "bn.json").read_text())
    assert stored["tool"]["timm"] == timm.__version__
    stored["tool"]["timm"] = "1.0.0"
    (tmp_path / "bn.json").write_text(json.dumps(stored))
    assert f"made with timm 1.0.0, and compared with one made with timm {timm.__version__}" in run(*words, *snapshot)[1]
    del stored["tool"]["timm"]  # as older versions wrote it
    (tmp_path / "bn.json").write_text(json.dumps(stored))
    code, out, _ = run(*words, *snapshot)
    assert code == 0
    assert "timm 1" not in out


def test_a_report_without_timm_names_none(command, tmp_path):
    torch.save(torch.zeros(2, 3, 4, 4), tmp_path / "batch.pt")
    report = json.loads(command("stats", "--batch", "batch.pt", "--format", "json").stdout)
    assert (report["tool"]["timm"], report["tool"]["torch"]) == (None, torch.__version__)
