"""Repositories of the Hugging Face hub: one try where it does not answer, then its cache."""

from __future__ import annotations

import re
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bninspect.errors import SourceError
from bninspect.models._timm import brief, quiet
from bninspect.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

_PATIENCE = 10.0  # seconds for the hub's first answer
_WEIGHTS = "pytorch_model.bin"
_SAFER = {_WEIGHTS: "model.safetensors", "open_clip_pytorch_model.bin": "open_clip_model.safetensors"}


class Repository:
    """A repository at a revision. Whether the hub can be asked for it is tried once."""

    def __init__(self, name: str, revision: str | None = None) -> None:
        self.name = name
        self.revision = revision

    @contextmanager
    def reached(self, what: str) -> Iterator[None]:
        """Within this context files of the repository are fetched, or found in the hub's cache.

        Where the hub cannot be asked, the cache answers at once; huggingface_hub's own way is to try each file six
        times, which takes close to a minute.

        Raises:
            SourceError: ``what`` is in neither.
        """
        from huggingface_hub import constants
        from huggingface_hub.errors import LocalEntryNotFoundError

        before = constants.HF_HUB_OFFLINE
        constants.HF_HUB_OFFLINE = before or self._obstacle is not None
        try:
            with quiet():
                yield
        except LocalEntryNotFoundError as error:
            place = Path(constants.HF_HUB_CACHE) / f"models--{self.name.replace('/', '--')}"
            why = self._obstacle or "it could not be downloaded"
            raise SourceError(f"{what} is not in the cache {printable(str(place))}, and {why}") from error
        except (OSError, ValueError) as error:
            raise SourceError(f"{what} could not be read: {brief(error)}") from error
        finally:
            constants.HF_HUB_OFFLINE = before

    def file(self, name: str) -> Path:
        """Where a file of the repository is; within :meth:`reached`.

        Raises:
            EntryNotFoundError: there is none; a ``LocalEntryNotFoundError`` where that is only true of the cache.
        """
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(self.name, name, revision=self.revision))

    def weights(self, config: dict[str, Any]) -> Path:
        """The file that timm would take for this configuration, of safetensors before a pickle; as :meth:`file`."""
        from huggingface_hub.errors import EntryNotFoundError

        name = str(config.get("hf_hub_filename") or _WEIGHTS)
        try:
            return self.file(_SAFER.get(name) or re.sub(r"\.bin$", ".safetensors", name))
        except EntryNotFoundError:
            return self.file(name)

    @cached_property
    def _obstacle(self) -> str | None:
        """Why nothing can be fetched from the repository, in words; ``None`` where nothing speaks against it."""
        from huggingface_hub import constants, errors, get_hf_file_metadata, hf_hub_url

        if constants.HF_HUB_OFFLINE:
            return "no download is allowed (--offline, or HF_HUB_OFFLINE)"
        name = printable(self.name)
        known = {
            errors.GatedRepoError: f"{name} is for those who accepted its terms and are logged in (hf auth login)",
            errors.RepositoryNotFoundError: f"the hub has no {name}, or it is private (hf auth login)",
            errors.RevisionNotFoundError: f"{name} has no revision '{printable(self.revision or 'main')}'",
        }
        try:
            with quiet():
                get_hf_file_metadata(hf_hub_url(self.name, "config.json", revision=self.revision), timeout=_PATIENCE)
        except errors.EntryNotFoundError:
            return None
        except Exception as error:
            words = next((text for kind, text in known.items() if isinstance(error, kind)), None)
            return words or f"{constants.ENDPOINT} cannot be reached ({brief(error, 160)})"
        return None
