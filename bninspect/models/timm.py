"""Models of timm, as ``timm:NAME[.TAG]``. Names are read from timm's files, so a wrong one costs no import."""

from __future__ import annotations

import difflib
import re
from functools import partial
from typing import TYPE_CHECKING, Any

from bninspect.errors import SourceError
from bninspect.models import LiveModel, ModelOptions, _timm
from bninspect.models._downloads import fetched
from bninspect.models._hub import Repository
from bninspect.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

SCHEME = "timm"
_REGISTERED = re.compile(r"^@register_model\b.*\n(?:@.*\n)*def (\w+)", re.MULTILINE)
_RENAMED = re.compile(r"^\s+['\"](\w+)['\"]\s*:\s*['\"](\w+(?:\.\w+)?)['\"]", re.MULTILINE)


def accepts(text: str) -> bool:  # noqa: ARG001
    """Never without its scheme: many of timm's names are torchvision's too, and other networks."""
    return False


def names(shown: str = "timm") -> tuple[list[str], dict[str, str]]:
    """All names that timm registers, sorted, and its former names with the present ones; timm is not imported.

    Raises:
        SourceError: timm is not installed.
    """
    files = sorted((_timm.folder(shown) / "models").glob("*.py"))
    texts = [file.read_text(encoding="utf-8") for file in files]
    known = {name for text in texts for name in _REGISTERED.findall(text)}
    pairs = (pair for text in texts for pair in _RENAMED.findall(text))
    return sorted(known), {old: new for old, new in pairs if new.partition(".")[0] in known and old not in known}


def load(value: str, options: ModelOptions) -> LiveModel:
    """The model of that name, to be built later.

    Raises:
        SourceError: timm is not installed, has no such model, or the model no such weights.
    """
    shown = f"timm:{printable(value)}"
    known, renamed = names(shown)
    name = renamed.get(value, value)
    architecture, _, tag = name.partition(".")
    if architecture not in known:
        raise SourceError(_unknown(value, known))
    config = _configuration(architecture, tag, options.weights) if tag or options.weights else None
    remarks = [f"{shown} is by now called timm:{name}"] if name != value else []
    build = partial(_build, shown, name, options, remarks)
    alone = ", its tag alone does not" if tag else ""
    random = f"{shown} has random weights: --weights DEFAULT loads trained ones{alone}"
    return LiveModel(
        name=f"timm:{value}",
        kind="timm",
        build=partial(build, config if options.weights else None),
        outline=partial(build, None),
        transforms=partial(_transforms, architecture, config),
        input_size=partial(_input_size, architecture, config),
        weights=_name_of(config) if options.weights else None,
        notes=() if options.weights else (random,),
        remarks=remarks,
    )


def _unknown(value: str, known: list[str]) -> str:
    architecture = value.partition(".")[0]
    near = difflib.get_close_matches(architecture.lower(), known, 5, 0.6)
    hint = (
        f"did you mean {', '.join(f'timm:{name}' for name in near)}?" if near else f"it has {', '.join(known[:5])} ..."
    )
    own = " (a repository of the Hugging Face hub is hf-hub:ORG/NAME)" if "/" in value or ":" in value else ""
    return f"timm has no model '{printable(architecture)}': {hint}{own}"


def _configuration(architecture: str, tag: str, wanted: str | None) -> Any:
    """The entry for the tag of the name, or for the weights that are wanted: ``DEFAULT``, a tag, or a whole name."""
    entries, default = _entries(architecture)
    if tag and tag not in entries:
        raise SourceError(f"timm's {architecture} has no tag '{printable(tag)}': it has {', '.join(entries) or 'none'}")
    if wanted is None:
        return entries[tag]
    choice = wanted.removeprefix(f"{architecture}.")
    if choice == "DEFAULT":
        choice = tag or default
    trained = [known for known, entry in entries.items() if entry.has_weights]
    if choice not in trained:
        raise SourceError(
            f"timm has no weights '{printable(wanted)}' of {architecture}: it has {', '.join(trained) or 'none'}"
        )
    if tag and choice != tag:
        raise SourceError(
            f"timm:{architecture}.{tag} and --weights {printable(wanted)} name different weights: give one"
        )
    return entries[choice]


def _entries(architecture: str) -> tuple[dict[str, Any], str]:
    """What timm has on the trained weights of an architecture, by tag, and the tag that it takes by default."""
    models = _timm.imported().models
    tagged = models.list_models(f"{architecture}.*", include_tags=True)
    entries = {name.partition(".")[2]: models.get_pretrained_cfg(name) for name in tagged}
    default = models.get_pretrained_cfg(architecture)
    if default and not default.tag:
        entries[""] = default
    return entries, (default and default.tag) or ""


def _name_of(config: Any) -> str:
    return f"{config.architecture}.{config.tag}" if config.tag else str(config.architecture)


def _build(shown: str, name: str, options: ModelOptions, remarks: list[str], config: Any) -> nn.Module:
    """The model, with the weights of ``config`` where there is one."""
    if config is None:
        return _timm.create(shown, name, options.arguments, remarks)
    trained, what = _name_of(config), f"the file of the weights {_name_of(config)} of {shown}"
    if config.hf_hub_id:
        repository = Repository(config.hf_hub_id)
        with repository.reached(f"{what} ({repository.name} on the Hugging Face hub)"):
            file = repository.weights(config.to_dict())
    else:
        file = fetched(what, config.url, offline=options.offline, say=options.say)
    return _timm.create(shown, trained, options.arguments, remarks, file)


def _input_size(architecture: str, config: Any) -> tuple[str, tuple[int, ...]]:
    """The same of the shape that an image has then."""
    config = config or _timm.imported().models.get_pretrained_cfg(architecture)
    return f"timm:{_name_of(config)}", tuple(config.input_size)


def _transforms(architecture: str, config: Any) -> tuple[str, Callable[[Any], Tensor]]:
    """Those of ``config``, or of the weights that timm takes by default: even without them it was made for these."""
    config = config or _timm.imported().models.get_pretrained_cfg(architecture)
    shown = f"timm:{_name_of(config)}"
    return shown, _timm.transforms(shown, config.to_dict())
