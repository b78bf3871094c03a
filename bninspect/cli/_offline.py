"""``--offline``: nothing is fetched from here on, whoever asks for it: a source, a library, or the user's own code."""

from __future__ import annotations

import os
import sys
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.error import URLError

if TYPE_CHECKING:
    from collections.abc import Iterator


class _Refusal(urllib.request.BaseHandler):
    """Answers before any handler that would connect; files on this machine are no download."""

    handler_order = 0

    def default_open(self, request: urllib.request.Request) -> None:
        """Refuse, as a network that is down would."""
        if request.type not in ("file", "data"):
            raise URLError("--offline allows no download")


@contextmanager
def offline() -> Iterator[None]:
    """Within this context urllib (which torch.hub downloads by) and huggingface_hub connect to nothing.

    huggingface_hub reads its variable once, when it is imported; where that was before, its constant is set as well.
    """
    constants: Any = sys.modules.get("huggingface_hub.constants")
    variable, flag = os.environ.get("HF_HUB_OFFLINE"), getattr(constants, "HF_HUB_OFFLINE", None)
    opener: Any = getattr(urllib.request, "_opener", None)
    os.environ["HF_HUB_OFFLINE"] = "1"
    urllib.request.install_opener(urllib.request.build_opener(_Refusal))
    if constants:
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        urllib.request.install_opener(opener)
        if constants:
            constants.HF_HUB_OFFLINE = flag
        if variable is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = variable
