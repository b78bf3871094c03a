"""Options that several commands share, each declared once, and how models and batches are found from them."""

from __future__ import annotations

import functools
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from bninspect import _plugins
from bninspect.cli import _forward
from bninspect.cli._forward import forward_option, key_option
from bninspect.errors import InputError
from bninspect.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bninspect.batches import Batch
    from bninspect.inspection.snapshot import Snapshot
    from bninspect.models import Model
    from bninspect.report import Source


class ShapeType(click.ParamType):  # type: ignore[type-arg]  # generic in newer clicks alone
    """``3,224,224`` or ``3x224x224``: positive integers, without the batch dimension."""

    name = "C,H,W"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Parse the shape of one input."""
        if isinstance(value, tuple):
            return value
        parts = re.split("[,x×]", str(value).lower())
        if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
            self.fail(f"{value!r} is no shape: give positive integers without the batch, such as 3,224,224", param, ctx)
        return tuple(int(part) for part in parts)


def output_options(schema: str, *, file: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``--format``, ``--output`` and ``--color`` for a command whose reports have this schema.

    Without ``file`` there is no ``--output``: the command writes something else to a file.
    """
    known = _plugins.formats(schema)
    choices = click.Choice(sorted(known))

    def usable(_: click.Context, __: click.Parameter, name: str) -> str:
        getattr(known[name], "require", lambda: None)()
        if getattr(known[name], "FOR_A_FILE", False) and sys.stdout.isatty() and not (file and _has_output()):
            raise click.UsageError(f"--format {name} is not for a terminal: add {'-o' if file else '>'} page.{name}")
        return name

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in (
            click.option("-v", "--verbose", is_flag=True, help="Say on standard error what is being done."),
            click.option(
                "--color",
                type=click.Choice(["auto", "always", "never"]),
                default="auto",
                show_default=True,
                envvar="BNINSPECT_COLOR",
                help="Colours; auto obeys NO_COLOR and FORCE_COLOR.",
            ),
            *([click.option("-o", "--output", metavar="FILE", help="Write to a file, whole or not at all.")] * file),
            click.option(
                "--format",
                "fmt",
                type=choices,
                default="table",
                show_default=True,
                envvar="BNINSPECT_FORMAT",
                callback=usable,
                help="How to write the report.",
            ),
        ):
            command = option(command)
        return command

    return decorate


def _has_output() -> bool:
    return any(word.startswith(("-o", "--output")) for word in _arguments())


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What says more about MODEL than its name; :func:`find_model` takes them all."""
    command = click.option(
        "--offline",
        is_flag=True,
        envvar="BNINSPECT_OFFLINE",
        callback=_go_offline,
        help="Download nothing: weights come from the local caches, or not at all.",
    )(command)
    command = click.option(
        "--allow-pickle",
        is_flag=True,
        help="Run the code of a file given as MODEL, to get the module pickled in it. That code can do anything that "
        "you can: only for files that you trust.",
    )(command)
    command = click.option(
        "--model-arg",
        "model_args",
        metavar="NAME=VALUE",
        multiple=True,
        help="An argument for the function that builds the model; repeatable.",
    )(command)
    command = click.option(
        "--strict/--no-strict",
        default=True,
        show_default=True,
        help="Refuse a --checkpoint whose keys or shapes are not the model's; or load what fits.",
    )(command)
    command = click.option(
        "--checkpoint", metavar="FILE", help="Fill MODEL with the values of a file; nothing in it is run."
    )(command)
    return click.option(
        "--weights",
        metavar="NAME",
        help="Trained weights of a torchvision or timm model: DEFAULT, IMAGENET1K_V1, a1_in1k ...",
    )(command)


def _go_offline(context: click.Context, _: click.Parameter, wanted: bool) -> bool:  # noqa: FBT001
    if wanted:
        from bninspect.cli._offline import offline

        context.with_resource(offline())
    return wanted


def input_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--input`` and ``--input-dtype``."""
    command = click.option(
        "--input-dtype",
        "dtypes",
        metavar="DTYPE",
        multiple=True,
        help="A torch dtype; one for all inputs, or one for each. Default: that of MODEL; float32 for a random batch.",
    )(command)
    return click.option(
        "--input",
        "shapes",
        type=ShapeType(),
        multiple=True,
        help="Shape of an input without the batch dimension; repeatable, for models of several inputs.",
    )(command)


def batch_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What says more about SOURCE than its name; :func:`find_batch` takes them all."""
    for option in (
        click.option("--device", metavar="DEVICE", help="cpu, cuda or cuda:K; default cpu."),
        input_options,
        click.option("--seed", type=int, default=0, show_default=True, help="Of random batches and random weights."),
        click.option("--max-batches", type=click.IntRange(1), metavar="K", help="Stop a loader or a folder after K."),
        click.option(
            "--workers", type=click.IntRange(0), default=0, show_default=True, help="Processes that read images."
        ),
        click.option(
            "--transforms", metavar="NAME", help="Of images: as ResNet50_Weights.DEFAULT; default the model's."
        ),
        forward_option,
        key_option,
    ):
        command = option(command)
    return command


tolerance_option = click.option(
    "--tolerance",
    default="default",
    show_default=True,
    metavar="strict|default|loose|MEAN,VAR",
    help="How far means (in standard deviations) and variances (relative) may be apart: default is 1e-3,1e-2.",
)


def snapshot_options(schema: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``--snapshot``, ``--update`` and ``--tolerance``; the command gets the opened snapshot, or ``None``."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def opened(*, snapshot: str | None, update: bool, tolerance: str, **settings: Any) -> Any:
            opened = _open_snapshot(snapshot, schema, update=update, tolerance=tolerance, settings=settings)
            return command(snapshot=opened, **settings)

        for option in (
            tolerance_option,
            click.option("--update", is_flag=True, help="Write the snapshot where it is missing or differs."),
            click.option("--snapshot", metavar="FILE", help="Compare with a stored report; exit 1 on a difference."),
        ):
            opened = option(opened)
        return opened

    return decorate


def _open_snapshot(
    path: str | None, schema: str, *, update: bool, tolerance: str, settings: dict[str, Any]
) -> Snapshot | None:
    """The snapshot, read before any work is done."""
    if path is None:
        if update:
            raise click.UsageError("--update writes a snapshot: say which by --snapshot FILE")
        return None
    known = _plugins.formats("bninspect.diff")
    if settings["fmt"] not in known:
        raise click.UsageError(f"--snapshot prints differences, as {', '.join(known)}; not as {settings['fmt']}")
    if settings["output"] is not None and Path(settings["output"]).absolute() == Path(path).absolute():
        raise click.UsageError("--output and --snapshot are the same file: the snapshot is written by --update")
    from bninspect.inspection.snapshot import Snapshot

    how = f"write it with: bninspect {shlex.join(_arguments())} --update"
    return Snapshot(Path(path), schema, update=update, tolerance=tolerance, how=how)


def fingerprint(batch: Any) -> Any:
    """The batch, to be hashed as it is read."""
    from bninspect.inspection.snapshot.fingerprint import Fingerprint

    return Fingerprint(batch)


def _arguments() -> list[str]:
    """The command line as it was typed."""
    typed = click.get_current_context().find_root().obj
    return list(typed) if isinstance(typed, list) else sys.argv[1:]


def find_model(text: str, settings: Mapping[str, Any]) -> Model:
    """The model that MODEL names, with the values of ``--checkpoint`` if one was given.

    Args:
        text: ``[scheme:]value`` as the user wrote it.
        settings: the values of :func:`model_options`, and maybe others.
    """
    from bninspect import models

    source, value = models.find(text, _plugins.plugins("models", "SCHEME"))
    if settings["allow_pickle"] and source.SCHEME != "file":
        raise click.UsageError(f"--allow-pickle runs the code of a file, and {printable(text)} is none: leave it out")
    wanted = models.ModelOptions(
        weights=settings["weights"],
        arguments=_pairs(settings["model_args"]),
        offline=settings["offline"],
        say=_tell if settings["verbose"] or sys.stderr.isatty() else None,
        allow_pickle=settings["allow_pickle"],
    )
    found: Model = source.load(value, wanted)
    return found if settings["checkpoint"] is None else _filled(found, settings)


def _pairs(texts: tuple[str, ...]) -> dict[str, str]:
    arguments = {}
    for pair in texts:
        name, equals, argument = pair.partition("=")
        if not equals or not name.isidentifier():
            raise InputError(f"--model-arg {pair!r} is not of the form name=value")
        arguments[name] = argument
    return arguments


def _filled(model: Model, settings: Mapping[str, Any]) -> Model:
    from bninspect.models import LiveModel
    from bninspect.models.checkpoint import with_values

    if not isinstance(model, LiveModel):
        raise click.UsageError(f"--checkpoint fills a model that can run, and {printable(model.name)} is a file")
    if settings["weights"]:
        raise click.UsageError("--weights and --checkpoint both fill the model: give one of them")
    return with_values(model, settings["checkpoint"], strict=settings["strict"], which=settings.get("which"))


def with_remarks(report: Any, model: Model) -> Any:
    """The report with what was found out about the model while it was built, but for what a finding says itself."""
    import msgspec

    found = any(finding.code == "BN116" for finding in getattr(report, "findings", ()))
    remarks = remarks_of(model, missing=not found)
    return msgspec.structs.replace(report, notes=(*report.notes, *dict.fromkeys(remarks)))


def remarks_of(model: Any, *, missing: bool = True) -> tuple[str, ...]:
    """What was found out about a model while it was built; on keys that a file lacks as well, or not."""
    return (*getattr(model, "remarks", ()), *(getattr(model, "missing", ()) if missing else ()))


def is_stored(model: Model | None) -> bool:
    """Whether a model is a file's stored values, which cannot be run."""
    return model is not None and model.evidence != "module"


def refuse_to_run(model: Any, option: str) -> NoReturn:
    """Say that ``option`` needs a model that can run, and how a file's values or its module become one."""
    name = printable(model.name)
    filled = f"MODEL --checkpoint {name}"
    if model.pickled:
        raise click.UsageError(
            f"{option} is for a model that can run, and the module in {name} is looked at without running its code: "
            f"leave it out, or fill a model of your own ({filled}). If you trust whoever made the file, "
            "--allow-pickle runs its code, which can do anything that you can."
        )
    raise click.UsageError(
        f"{option} is for a model that can run, and {name} holds values alone ({model.kind}): leave it out, or name "
        f"the model that they belong to: {filled}"
    )


def find_batch(text: str, settings: dict[str, Any], model: Any) -> Batch:
    """The batch that SOURCE names; images get the model's own transforms, unless others are named."""
    from bninspect import batches

    source, value = batches.find(text, _plugins.plugins("batches", "SCHEME"))
    names = ("key", "shapes", "dtypes", "seed", "transforms", "workers", "max_batches")
    own = model.transforms if model else None
    wanted = batches.BatchOptions(
        **{name: settings[name] for name in names},
        size=settings["batch_size"],
        own=own,
        labels=settings.get("labels", False),
        share=settings.get("share"),
        as_given=_forward.is_asked(settings),
    )
    found: Batch = source.load(value, wanted)
    return found


def source_of(model: Model | None, batch: Batch | None = None) -> Source:
    """The report's words for where the model and the batch came from."""
    from bninspect.report import Source

    return Source(
        model=model.name if model else "BatchNorm",
        model_kind=model.kind if model else None,
        evidence=model.evidence if model else "module",
        weights=getattr(model, "weights", None),
        missing_keys=tuple(dict.fromkeys(getattr(model, "unfilled", ()))),
        averaged=bool(getattr(model, "counters", ())),
        batch=batch.name if batch else None,
        batch_kind=batch.kind if batch else None,
        batch_element=batch.element if batch else None,
        synthetic=batch.synthetic if batch else False,
    )


def say(verbose: bool, text: str) -> None:  # noqa: FBT001
    """A line on standard error, where ``-v`` asked for it."""
    if verbose:
        _tell(text)


def _tell(text: str) -> None:
    click.echo(printable(text, 2000), err=True)


def build(found: Any, seed: int) -> Any:
    """The model, with random weights (where it has no others) that are the same every time."""
    if found is None:
        return None
    import torch

    torch.manual_seed(seed)
    return found.build()
