"""Downloads by torch.hub: where their files are kept, no endless wait, and no word of them on standard output."""

from __future__ import annotations

import socket
import sys
from contextlib import contextmanager, redirect_stdout
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlparse

from bninspect.errors import SourceError
from bninspect.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

_PATIENCE = 20.0  # seconds in which a connection must open, or the next bytes come


def cached(url: str) -> Path:
    """Where torch.hub keeps the file of ``url``."""
    import torch.hub

    return Path(torch.hub.get_dir()) / "checkpoints" / PurePosixPath(urlparse(url).path).name


def require(what: str, url: str) -> None:
    """See that the file of ``url`` is kept already.

    Raises:
        SourceError: it is not.
    """
    if not cached(url).is_file():
        raise SourceError(f"{what} ({printable(url)}) {_nowhere(url)}, and --offline allows no download")


def fetched(what: str, url: str, *, offline: bool) -> Path:
    """Where the file of ``url`` is kept; it is fetched where it is not yet.

    Raises:
        SourceError: it is not kept, and cannot or may not be fetched.
    """
    import torch.hub

    path = cached(url)
    if offline:
        require(what, url)
    elif not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with downloading():
                torch.hub.download_url_to_file(url, str(path), progress=False)
        except OSError as error:
            raise failed(what, url, error) from error
    return path


def failed(what: str, url: str, error: OSError) -> SourceError:
    """The error to raise where the file of ``url`` is not kept and could not be fetched."""
    reason = printable(str(getattr(error, "reason", error)), 160)
    return SourceError(f"{what} ({printable(url)}) {_nowhere(url)}, and cannot be downloaded: {reason}")


def _nowhere(url: str) -> str:
    return f"is not at {printable(str(cached(url)))}"


@contextmanager
def downloading() -> Iterator[None]:
    """Within this context a connection that is silent for long is an ``OSError``; torch.hub would wait for ever.

    What is printed, as torch.hub does of every file that it fetches, goes to standard error.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE if before is None else before)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        socket.setdefaulttimeout(before)
