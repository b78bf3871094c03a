"""``--offline``: nothing is fetched by anybody, what lies in a cache is used, and the process is put back as it was."""

from __future__ import annotations

import http.server
import os
import threading
import urllib.request

import pytest
import torch

NETS = """
import os, urllib.request
from torch import nn

def fetches(address):
    urllib.request.urlopen(address).read()
    return nn.Sequential(nn.BatchNorm2d(3))

def reads(path):
    urllib.request.urlopen(f"file://{path}").read()
    return nn.Sequential(nn.BatchNorm2d(3))

def tells():
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    return nn.Sequential(nn.BatchNorm2d(3))
"""


@pytest.fixture
def server():
    """A server on this machine, and the paths that it was asked for."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}", asked
        listening.shutdown()


@pytest.fixture
def nets(run, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    (tmp_path / "nets.py").write_text(NETS)
    return tmp_path


SUMMARY = ("--input", "3,8,8")


def test_code_of_the_user_fetches_nothing_either(run, nets, server):
    address, asked = server
    words = ("summary", "nets.py:fetches", "--model-arg", f"address={address}/net", *SUMMARY)
    code, _, err = run(*words, "--offline")
    assert (code, asked) == (2, [])
    assert "--offline allows no download" in err
    assert len(err.splitlines()) == 1
    assert run(*words)[0] == 0
    assert asked == ["/net"]
    assert run("summary", "nets.py:reads", "--model-arg", f"path={nets / 'nets.py'}", *SUMMARY, "--offline")[0] == 0


@pytest.mark.parametrize("before", [None, "0"])
def test_the_hub_is_told_and_all_is_put_back(run, nets, monkeypatch, before):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    if before:
        monkeypatch.setenv("HF_HUB_OFFLINE", before)
    opener = urllib.request._opener
    assert run("summary", "nets.py:tells", *SUMMARY, "--offline")[::2] == (0, "")
    assert os.environ.get("HF_HUB_OFFLINE") == before
    assert urllib.request._opener is opener
    assert run("summary", "nets.py:tells", *SUMMARY)[0] == 2


@pytest.mark.parametrize("command", ["summary", "stats", "check", "diff"])
def test_weights_that_are_not_there_are_named_with_their_place(run, nets, command):
    rest = {"summary": SUMMARY, "stats": ("--batch", "random", *SUMMARY), "check": (), "diff": ("resnet18",)}
    code, out, err = run(command, "resnet18", *rest[command], "--weights", "DEFAULT", "--offline")
    assert (code, out) == (2, "")
    assert "https://download.pytorch.org/models/resnet18-f37072fd.pth" in err
    assert f"is not at {nets / 'torch' / 'hub' / 'checkpoints' / 'resnet18-f37072fd.pth'}, and --offline" in err
    assert len(err.splitlines()) == 1


def test_standard_output_is_kept_for_the_result(run, nets, monkeypatch):
    monkeypatch.setattr(urllib.request, "_opener", None)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    code, out, err = run("summary", "resnet18", *SUMMARY, "--weights", "DEFAULT")
    assert (code, out) == (2, "")
    assert "cannot be downloaded: [Errno 111] Connection refused" in err


def test_weights_that_are_there_are_used(run, nets, resnet18, monkeypatch):
    place = nets / "torch" / "hub" / "checkpoints"
    place.mkdir(parents=True)
    torch.save({**resnet18.state_dict(), "bn1.running_mean": torch.full((64,), 7.0)}, place / "resnet18-f37072fd.pth")
    monkeypatch.setenv("BNINSPECT_OFFLINE", "1")
    code, out, _ = run("stats", "resnet18", "--weights", "DEFAULT", "--batch", "random", "--input", "3,64,64",
                       "--layer", "bn1", "--channels", "--format", "csv")  # fmt: skip
    assert code == 0
    column = out.splitlines()[0].split(",").index("running_mean")
    assert {row.split(",")[column] for row in out.splitlines()[1:]} == {"7.0"}


def test_what_the_environment_may_say(run, nets, monkeypatch):
    monkeypatch.setenv("BNINSPECT_OFFLINE", "0")
    assert run("summary", "nets.py:tells", *SUMMARY)[0] == 2
    monkeypatch.setenv("BNINSPECT_OFFLINE", "perhaps")
    code, _, err = run("summary", "nets.py:tells", *SUMMARY)
    assert code == 2
    assert "'perhaps' is not a valid boolean" in err
