"""timm, for the two sources that build by it: found, kept quiet, and never left to read a file of weights itself."""

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
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn


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
        with quiet():
            import timm
    except Exception as error:
        raise SourceError(
            f"timm cannot be imported ({brief(error)}): pip install --upgrade 'bninspect[timm]'; other models work "
            "without it"
        ) from error
    return timm


def create(
    shown: str, name: str, arguments: dict[str, str], remarks: list[str], weights: Path | str | None = None
) -> nn.Module:
    """The model, by timm's own code; a configuration of the hub must be fetched while it is reached.

    A file of weights is read without running anything of it, and its values are handed to timm, which takes them for
    the downloaded ones: it renames old keys and fits the classifier, as it does for each architecture.

    Args:
        shown: what the user asked for.
        name: for timm, with a tag or as it spells a repository.
        arguments: of ``--model-arg``.
        remarks: what timm warns of is added.
        weights: a file of trained values.

    Raises:
        SourceError: timm refused, or the file cannot be read.
    """
    timm = imported()
    if "checkpoint_path" in arguments:  # timm's reader of these has run their code
        raise SourceError(f"{shown} is filled with the values of a file by --checkpoint FILE, not by --model-arg")
    trained: dict[str, Any] = {"pretrained": weights is not None}
    if weights is not None:
        trained["pretrained_cfg_overlay"] = {"state_dict": _state(str(weights)), "source": None}
    try:
        with quiet(remarks), downloading():
            model: Any = timm.create_model(name, **trained, **parse_arguments(arguments))
    except MemoryError:
        raise
    except Exception as error:
        raise SourceError(f"{shown} cannot be built: {brief(error)}") from error
    model.pretrained_cfg.pop("state_dict", None)  # a copy, as large as the model
    made: nn.Module = model
    return made


def _state(path: str) -> dict[str, Any]:
    import torch

    from bninspect.models.stored.reading import read_all

    def tensors(values: Any) -> Any:
        held = isinstance(values, dict)
        return {key: tensors(value) for key, value in values.items()} if held else torch.from_numpy(values)

    state: dict[str, Any] = tensors(read_all(path))
    return state


def transforms(shown: str, config: dict[str, Any]) -> Callable[[Any], Tensor]:
    """What timm puts an image through before a model of this configuration, where it is evaluated.

    Raises:
        SourceError: timm cannot tell.
    """
    data = imported().data
    try:
        with quiet():
            made: Callable[[Any], Tensor] = data.create_transform(**data.resolve_data_config(pretrained_cfg=config))
    except Exception as error:
        raise SourceError(
            f"the preprocessing that {shown} names cannot be made ({brief(error)}): add --transforms NAME, such as "
            "ResNet50_Weights.DEFAULT"
        ) from error
    return made


@contextmanager
def quiet(remarks: list[str] | None = None) -> Iterator[None]:
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


def brief(error: BaseException, limit: int = 300) -> str:
    return f"{type(error).__name__}: {printable(str(error).strip().partition(chr(10))[0], limit)}"
