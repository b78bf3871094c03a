"""timm models of the Hugging Face hub, as ``hf-hub:ORG/NAME[@REVISION]``, timm's own spelling.

To name a repository is to name a trained model: its weights are loaded unless only the layers are asked for.
"""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bninspect.errors import SourceError
from bninspect.models import LiveModel, ModelOptions, _timm
from bninspect.text import printable

if TYPE_CHECKING:
    from torch import nn

SCHEME = "hf-hub"
_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", re.ASCII)


def accepts(text: str) -> bool:  # noqa: ARG001
    """Never without its scheme: ``ORG/NAME`` might as well be a file."""
    return False


def load(value: str, options: ModelOptions) -> LiveModel:
    """The model of that repository, to be fetched and built later; no code of the repository is run.

    Raises:
        SourceError: it is no such name, timm is not installed, or other weights are asked for; ``build`` raises it
            where the repository cannot be reached, or holds no model of timm.
    """
    shown = f"hf-hub:{printable(value)}"
    found = _NAME.fullmatch(value)
    if not found:
        raise SourceError(f"{shown} is not of the form hf-hub:ORG/NAME or hf-hub:ORG/NAME@REVISION")
    _timm.folder(shown)
    if options.weights not in (None, "DEFAULT"):
        raise SourceError(
            f"{shown} has weights of its own: leave --weights out (other ones are hf-hub:ORG/NAME@REVISION)"
        )
    remarks: list[str] = []
    build = partial(_build, shown, found[1], found[2], options.arguments, remarks)
    return LiveModel(
        name=f"hf-hub:{value}",
        kind="hf-hub",
        build=partial(build, pretrained=True),
        outline=partial(build, pretrained=False),
        weights=value,
        remarks=remarks,
    )


def _build(
    shown: str,
    repository: str,
    revision: str | None,
    arguments: dict[str, str],
    remarks: list[str],
    *,
    pretrained: bool,
) -> nn.Module:
    name = f"hf-hub:{repository}@{revision}" if revision else f"hf-hub:{repository}"
    with _timm.from_hub(f"config.json of {shown}", repository, revision):
        _check(shown, repository, revision)
        if not pretrained:
            return _timm.create(shown, name, arguments, remarks, pretrained=False)
    with _timm.from_hub(f"the file of the weights of {shown}", repository, revision):
        return _timm.create(shown, name, arguments, remarks, pretrained=True)


def _check(shown: str, repository: str, revision: str | None) -> None:
    """See that the repository's ``config.json`` names an architecture of timm."""
    timm = _timm.imported()
    path = _config(shown, repository, revision)
    try:
        architecture = json.loads(path.read_bytes())["architecture"]
        known = timm.models.is_model(architecture)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SourceError(
            f"{shown} is no model of timm: its config.json names no architecture (give a model of another library as "
            "package.module:callable or nets.py:callable)"
        ) from error
    if not known:
        raise SourceError(
            f"{shown} has the architecture '{printable(str(architecture))}', which timm {timm.__version__} does not: a "
            "newer one may"
        )


def _config(shown: str, repository: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repository, "config.json", revision=revision))
    except LocalEntryNotFoundError:
        raise
    except EntryNotFoundError as error:
        raise SourceError(f"{shown} is no model of timm: it has no config.json") from error
