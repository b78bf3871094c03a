"""timm, for the two sources that build by it: found, kept quiet, not waiting long for a hub that does not answer."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bninspect._imports import parse_arguments
from bninspect.errors import SourceError
from bninspect.models._downloads import downloading
from bninspect.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

_PATIENCE = 10.0  # seconds for the hub's first answer


def folder(shown: str) -> Path:
    """Where timm is installed; it is not imported.

    Raises:
        SourceError: it is not installed.
    """
    spec = importlib.util.find_spec("timm")
    if spec is None or spec.origin is None:
        raise SourceError(f"{shown} needs timm, which is not installed: pip install 'bninspect[timm]'")
    return Path(spec.origin).parent


def imported() -> Any:
    """The package.

    Raises:
        SourceError: importing it raised.
    """
    try:
        import timm
    except Exception as error:
        raise SourceError(
            f"timm cannot be imported ({_brief(error)}): pip install --upgrade 'bninspect[timm]'; other models work "
            "without it"
        ) from error
    return timm


def create(shown: str, name: str, arguments: dict[str, str], remarks: list[str], *, pretrained: bool) -> nn.Module:
    """The model, by timm's own code; files that it reads must be fetched within :func:`from_hub`.

    Args:
        shown: what the user asked for.
        name: for timm, with a tag or as it spells a repository.
        arguments: of ``--model-arg``.
        remarks: what timm warns of is added.
        pretrained: with trained values.

    Raises:
        SourceError: timm refused.
        OSError: a file is not there.
    """
    timm = imported()
    try:
        with _quiet(remarks), downloading():
            model: nn.Module = timm.create_model(name, pretrained=pretrained, **parse_arguments(arguments))
    except (MemoryError, OSError):
        raise
    except Exception as error:
        raise SourceError(f"{shown} cannot be built: {_brief(error)}") from error
    return model


@contextmanager
def from_hub(what: str, repository: str, revision: str | None = None) -> Iterator[None]:
    """Within this context files of a hub repository are fetched, or found in the hub's cache.

    Whether the hub can be asked is tried once. Where it cannot, the cache answers at once; timm's own way is to try
    each of its files six times, which takes close to a minute.

    Raises:
        SourceError: ``what`` is in neither.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    obstacle, before = _obstacle(repository, revision), constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = obstacle is not None
    try:
        with _quiet():
            yield
    except LocalEntryNotFoundError as error:
        place = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
        why = obstacle or "it could not be downloaded"
        raise SourceError(f"{what} is not in the cache {printable(str(place))}, and {why}") from error
    except (OSError, HFValidationError) as error:
        raise SourceError(f"{what} could not be read: {_brief(error)}") from error
    finally:
        constants.HF_HUB_OFFLINE = before


def _obstacle(repository: str, revision: str | None) -> str | None:
    """Why nothing can be fetched from the repository, in words; ``None`` where nothing speaks against it."""
    from huggingface_hub import constants, errors, get_hf_file_metadata, hf_hub_url

    if constants.HF_HUB_OFFLINE:
        return "no download is allowed (--offline, or HF_HUB_OFFLINE)"
    name = printable(repository)
    known = {
        errors.GatedRepoError: f"{name} is for those who accepted its terms and are logged in (hf auth login)",
        errors.RepositoryNotFoundError: f"the hub has no {name}, or it is private (hf auth login)",
        errors.RevisionNotFoundError: f"{name} has no revision '{printable(revision or 'main')}'",
    }
    try:
        with _quiet():
            get_hf_file_metadata(hf_hub_url(repository, "config.json", revision=revision), timeout=_PATIENCE)
    except errors.EntryNotFoundError:
        return None
    except Exception as error:
        words = next((text for kind, text in known.items() if isinstance(error, kind)), None)
        return words or f"{constants.ENDPOINT} cannot be reached ({_brief(error, 160)})"
    return None


@contextmanager
def _quiet(remarks: list[str] | None = None) -> Iterator[None]:
    """Within this context neither library writes anything; what timm would warn of becomes remarks."""
    collector = _Collector([] if remarks is None else remarks)
    loggers = [logging.getLogger(name) for name in ("timm", "huggingface_hub")]
    before = [(logger.handlers, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [collector] if logger.name == "timm" else [logging.NullHandler()], False
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        for logger, (handlers, propagate) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate


class _Collector(logging.Handler):
    """Takes down warnings; they may hold names out of a stranger's file."""

    def __init__(self, remarks: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.remarks = remarks

    def emit(self, record: logging.LogRecord) -> None:
        """One line for each."""
        self.remarks.append(f"timm: {printable(record.getMessage().strip(), 300)}")


def _brief(error: BaseException, limit: int = 300) -> str:
    return f"{type(error).__name__}: {printable(str(error).strip().partition(chr(10))[0], limit)}"
