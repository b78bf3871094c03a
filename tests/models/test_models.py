"""Where models come from: what is found, and what is said of what is not."""

from __future__ import annotations

import hashlib
import io
import json
import socket
import subprocess
import sys
import urllib.request

import pytest
import torch
from hub import serving
from torch import nn

from bninspect import _plugins, models
from bninspect.errors import SourceError
from bninspect.models import _downloads


def load(text, **options):
    source, value = models.find(text, _plugins.plugins("models", "SCHEME"))
    return source.load(value, models.ModelOptions(**options))


@pytest.fixture
def nets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "nets.py"
    path.write_text(
        "import torch\nfrom torch import nn\n"
        "model = nn.Sequential(nn.BatchNorm2d(3))\n"
        "def make(width=4, name='x'):\n    return nn.Sequential(nn.Conv2d(3, width, 1), nn.BatchNorm2d(width))\n"
        "def fails():\n    raise ValueError('no \\x1b[31mdata\\nhere')\n"
        "def number():\n    return 3\n"
        "class Holder:\n    make = staticmethod(make)\n"
        "value = 5\n"
    )
    return path


@pytest.mark.parametrize("text", ["nets.py:model", "nets:model", "py:nets.py:model", "./nets.py:model"])
def test_a_module_of_a_file_or_a_package(nets, text):
    assert isinstance(load(text).build()[0], nn.BatchNorm2d)
    sys.modules.pop("nets", None)


def test_factories_classes_and_arguments(nets):
    assert load("nets.py:make", arguments={"width": "7"}).build()[1].num_features == 7
    assert load("nets.py:Holder.make").build()[1].num_features == 4
    assert isinstance(load("torch.nn:BatchNorm2d", arguments={"num_features": "3"}).build(), nn.BatchNorm2d)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nets.py:modle", "has no 'modle'; it has model"),
        ("nets.py:zzz", "has no 'zzz'; it has model, "),
        ("missing.py:model", "there is no file missing.py"),
        ("no_such_package.x:model", "there is no module 'no_such_package'"),
        ("nets.py:value", "is of type int: give an nn.Module"),
        ("nets.py:number", "returned an object of type int"),
        ("nets.py:fails", r"raised ValueError: no \\x1b\[31mdata\\nhere"),
        ("ORG/NAME", "there is no such file: hf-hub:ORG/NAME is a model of the Hugging Face hub$"),
        ("timm/resnet18", "hf-hub:timm/resnet18 is a model of the Hugging Face hub, timm:resnet18 a model of timm"),
        ("s3://bucket/net", "is an address, and none is fetched: download the file first"),
        ("https://host/net.pt", "is an address"),
        ("GS://bucket/net.pt", "is an address"),
        ("file:https://host/net.pt", "is an address"),
        ("./net", "is no model that bninspect can find"),
        ("a model", "is no model that bninspect can find"),
        ("", "is no model"),
        ("resnet18x", "did you mean resnet18"),
        ("zzz", "torchvision has"),
    ],
)
def test_what_is_not_there_is_said(nets, text, message):
    with pytest.raises(SourceError, match=message):
        load(text).build()


def test_a_module_that_fails_to_import_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken_one.py").write_text("import not_installed_at_all\n")
    (tmp_path / "leaves.py").write_text("raise SystemExit(7)\n")
    with pytest.raises(SourceError, match=r"importing broken_one.py failed: ModuleNotFoundError: No module"):
        load("broken_one.py:model")
    with pytest.raises(SourceError, match="importing broken_one failed"):
        load("broken_one:model")
    with pytest.raises(SourceError, match="SystemExit: 7"):
        load("leaves.py:model")


def test_weights_that_do_not_exist_name_those_that_do():
    with pytest.raises(SourceError, match=r"resnet18 has no weights 'IMAGENET1K_V2': it has IMAGENET1K_V1"):
        load("resnet18", weights="IMAGENET1K_V2")
    with pytest.raises(SourceError, match="--weights is for torchvision"):
        load("nets.py:model", weights="DEFAULT")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """torch's cache of weights, in a folder of the test's own; urllib learns of proxies anew."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(urllib.request, "_opener", None)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("name", ["DEFAULT", "IMAGENET1K_V1", "ResNet18_Weights.IMAGENET1K_V1"])
def test_weights_are_loaded_by_torchvisions_own_code(hub, monkeypatch, name):
    from torchvision.models import resnet18

    torch.manual_seed(5)
    trained = resnet18(weights=None).state_dict()
    path = hub / "resnet18-f37072fd.pth"
    torch.save(trained, path)
    model = load("resnet18", weights=name)
    assert model.weights == "ResNet18_Weights.IMAGENET1K_V1"
    torch.testing.assert_close(model.build().state_dict()["bn1.weight"], trained["bn1.weight"])
    torch.testing.assert_close(model.build().state_dict()["conv1.weight"], trained["conv1.weight"])


def test_weights_that_cannot_be_downloaded(hub, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(SourceError, match=r"resnet18-f37072fd.pth\) is not at .*, and cannot be downloaded: .*refused"):
        load("resnet18", weights="DEFAULT").build()


@pytest.mark.parametrize("options", [(), ("-v",)])
def test_a_download_keeps_out_of_the_way(hub, run, monkeypatch, options):
    """Off a terminal nothing is said of it without -v, and then on standard error."""
    from torchvision.models import SqueezeNet1_1_Weights, squeezenet1_1

    buffer = io.BytesIO()
    torch.save(squeezenet1_1().state_dict(), buffer)
    name = f"net-{hashlib.sha256(buffer.getvalue()).hexdigest()[:8]}.pth"
    with serving({name: buffer.getvalue()}) as (address, asked):
        monkeypatch.setattr(SqueezeNet1_1_Weights.DEFAULT.value, "url", f"{address}/{name}")
        code, out, err = run(
            "summary", "squeezenet1_1", "--weights", "DEFAULT", "--input", "3,32,32", "--format", "json", *options
        )
    assert (code, asked) == (0, [f"GET /{name}"])
    assert json.loads(out)["source"]["weights"] == "SqueezeNet1_1_Weights.IMAGENET1K_V1"
    assert (hub / name).read_bytes() == buffer.getvalue()
    told = f"Downloading {address}/{name} to {hub / name}"
    assert told in err and "100%" in err if options else err == ""


def test_a_download_with_another_hash_is_refused(hub):
    with serving({"net-0123abcd.pth": b"values"}) as (address, _), pytest.raises(SourceError, match="invalid hash"):
        _downloads.fetched("the file", f"{address}/net-0123abcd.pth", offline=False, hashed=True)
    assert list(hub.iterdir()) == []


def test_a_network_that_says_nothing_is_not_waited_for(hub, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(_downloads, "_PATIENCE", 0.3)
        with pytest.raises(SourceError, match="cannot be downloaded: timed out"):
            load("resnet18", weights="DEFAULT").build()
    assert socket.getdefaulttimeout() is None


def test_a_wrong_name_costs_no_import():
    code = (
        "import sys\nfrom bninspect import cli\ncode = cli.run(['summary', 'resnet19', '--input', '3,8,8'])\n"
        "assert code == 2, code\nassert not {'torch', 'torchvision', 'numpy'} & set(sys.modules), 'imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "did you mean resnet18" in done.stderr


def test_a_torchvision_that_does_not_import(tmp_path, command):
    """One that was built for another torch: names are known, models are not, and own models work."""
    package = tmp_path / "torchvision"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    (package / "models" / "resnet.py").write_text("@register_model()\n@more(x=(1,\n  2))\ndef resnet18():\n    pass\n")
    (tmp_path / "nets.py").write_text("from torch import nn\nmodel = nn.Sequential(nn.BatchNorm2d(3))\n")
    broken = command("summary", "resnet18", "--input", "3,8,8")
    assert (broken.returncode, broken.stdout) == (2, "")
    assert "operator torchvision::nms does not exist" in broken.stderr
    assert "Traceback" not in broken.stderr
    own = command("summary", "nets.py:model", "--input", "3,8,8")
    assert own.returncode == 0, own.stderr
