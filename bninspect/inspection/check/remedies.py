"""The command that a finding's "do" ends in, with the user's own words in it."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bninspect.report import Source
    from bninspect.rules._rule import Remedy

_COMMANDS: dict[Remedy, str] = {"recalibrate": "torch.optim.swa_utils.update_bn(loader, model)"}


def command(remedy: Remedy, source: Source) -> str:
    """What to type: ``{model}`` and ``{batch}`` in a command are those that were named."""
    words = {"model": source.model or "MODEL", "batch": source.batch or "SOURCE"}
    return _COMMANDS[remedy].format(**{name: shlex.quote(word) for name, word in words.items()})
