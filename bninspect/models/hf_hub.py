"""timm models of the Hugging Face hub, as ``hf-hub:ORG/NAME[@REVISION]``, timm's own spelling.

To name a repository is to name a trained model: its weights are loaded unless only the layers are asked for.
"""

from __future__ import annotations

import json
import re
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from bninspect.errors import SourceError
from bninspect.models import LiveModel, ModelOptions, _timm
from bninspect.models._hub import Repository
from bninspect.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor, nn

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
    repository = Repository(found[1], found[2])
    configuration = cache(partial(_configuration, shown, repository))
    build = partial(_build, shown, repository, options.arguments, remarks, configuration)
    return LiveModel(
        name=f"hf-hub:{value}",
        kind="hf-hub",
        build=partial(build, pretrained=True),
        outline=partial(build, pretrained=False),
        transforms=partial(_transforms, shown, configuration),
        weights=value,
        remarks=remarks,
    )


def _build(
    shown: str,
    repository: Repository,
    arguments: dict[str, str],
    remarks: list[str],
    configuration: Callable[[], dict[str, Any]],
    *,
    pretrained: bool,
) -> nn.Module:
    revision = f"@{repository.revision}" if repository.revision else ""
    config, file = configuration(), None
    with repository.reached(f"the file of the weights of {shown}"):
        if pretrained:
            file = repository.weights(config)
        return _timm.create(shown, f"hf-hub:{repository.name}{revision}", arguments, remarks, file)


def _transforms(shown: str, configuration: Callable[[], dict[str, Any]]) -> tuple[str, Callable[[Any], Tensor]]:
    return shown, _timm.transforms(shown, configuration())


def _configuration(shown: str, repository: Repository) -> dict[str, Any]:
    """What the repository's ``config.json`` says of its trained model, of an architecture that timm has."""
    timm = _timm.imported()
    with repository.reached(f"config.json of {shown}"):
        path = _file_of(shown, repository)
    try:
        config = json.loads(path.read_bytes())
        architecture, pretrained = config["architecture"], dict(config.get("pretrained_cfg", config))
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
    return pretrained


def _file_of(shown: str, repository: Repository) -> Path:
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return repository.file("config.json")
    except LocalEntryNotFoundError:
        raise
    except EntryNotFoundError as error:
        raise SourceError(f"{shown} is no model of timm: it has no config.json") from error
