"""A hub of the tests' own: a cache laid out as huggingface_hub does, and a server on this machine."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save

from bninspect import _plugins, models

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def load(text, **options):
    """The model that MODEL names, as the command line finds it."""
    found, value = models.find(text, _plugins.plugins("models", "SCHEME"))
    return found.load(value, models.ModelOptions(**options))


def same(net, twin):
    """See that two models have the same values."""
    for key, value in twin.state_dict().items():
        assert torch.equal(net.state_dict()[key], value), key


def config(architecture="test_resnet", **more):
    """The ``config.json`` of a timm model, as bytes."""
    pretrained = {
        "tag": "mine",
        "num_classes": 10,
        "input_size": [3, 32, 32],
        "first_conv": "conv1.0",
        "classifier": "fc",
    }
    return json.dumps(
        {"architecture": architecture, "num_classes": 10, "pretrained_cfg": pretrained, **more}
    ).encode()  # fmt: skip


def trained(architecture="test_resnet", seed=1, **arguments):
    """A model of timm with values that no initialisation gives."""
    import timm

    torch.manual_seed(seed)
    net = timm.create_model(architecture, **arguments)
    with torch.no_grad():
        for value in net.state_dict().values():
            value.copy_(torch.rand(value.shape) + 0.5 if value.is_floating_point() else torch.tensor(7))
    return net


def weights(net):
    """Its ``model.safetensors``, as bytes."""
    return save({key: value.contiguous() for key, value in net.state_dict().items()})


def lay_out(cache: Path, repository: str, files: dict[str, bytes], *, ref: str = "main", commit: str = COMMIT) -> None:
    """Put files where huggingface_hub keeps those of a repository at a revision."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / ref).write_text(commit)
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (snapshot / name).write_bytes(data)


@contextmanager
def serving(files: dict[str, bytes], refusal: str | None = None) -> Iterator[tuple[str, list[str]]]:
    """A hub that has these files in every repository, or refuses with that code: its address, and what it was asked."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self, *, body):
            asked.append(f"{self.command} {self.path}")
            data = files.get(self.path.rpartition("/")[2])
            code = refusal or (None if data is not None else "EntryNotFound")
            self.send_response(200 if code is None else 403 if code == "GatedRepo" else 404)
            if code:
                self.send_header("X-Error-Code", code)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(data or b"").hexdigest()}"')
            self.send_header("Content-Length", str(len(data or b"")))
            self.end_headers()
            if body:
                self.wfile.write(data or b"")

        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
