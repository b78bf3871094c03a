"""Downloads by torch.hub: where their files are kept, no endless wait, and no word of them but to who waits."""

from __future__ import annotations

import io
import socket
from contextlib import contextmanager, redirect_stdout
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlparse

from bninspect.errors import SourceError
from bninspect.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PATIENCE = 20.0  # seconds in which a connection must open, or the next bytes come


def cached(url: str) -> Path:
    """Where torch.hub keeps the file of ``url``."""
    import torch.hub

    return Path(torch.hub.get_dir()) / "checkpoints" / PurePosixPath(urlparse(url).path).name


def fetched(
    what: str, url: str, *, offline: bool, say: Callable[[str], object] | None = None, hashed: bool = False
) -> Path:
    """Where the file of ``url`` is kept; it is fetched where it is not yet.

    Args:
        what: what an error calls it.
        url: its address.
        offline: whether it may not be fetched.
        say: told in a sentence that it is being fetched; there is a bar, too, then.
        hashed: whether its name has the beginning of its hash.

    Raises:
        SourceError: it is not kept, and cannot or may not be fetched.
    """
    import torch.hub

    path = cached(url)
    if not path.is_file():
        if offline:
            raise SourceError(f"{what} ({printable(url)}) {_nowhere(url)}, and --offline allows no download")
        if say:
            say(f"Downloading {url} to {path}")
        found = torch.hub.HASH_REGEX.search(path.name) if hashed else None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with downloading():
                torch.hub.download_url_to_file(url, str(path), found and found[1], progress=say is not None)
        except (OSError, RuntimeError) as error:  # the latter for another hash
            raise failed(what, url, error) from error
    return path


def failed(what: str, url: str, error: OSError | RuntimeError) -> SourceError:
    """The error to raise where the file of ``url`` is not kept and could not be fetched."""
    reason = printable(str(getattr(error, "reason", error)), 160)
    return SourceError(f"{what} ({printable(url)}) {_nowhere(url)}, and cannot be downloaded: {reason}")


def _nowhere(url: str) -> str:
    return f"is not at {printable(str(cached(url)))}"


@contextmanager
def downloading() -> Iterator[None]:
    """Within this context a connection that is silent for long is an ``OSError``; torch.hub would wait for ever.

    What torch.hub prints of a file that it fetches is left out.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE if before is None else before)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(before)
