"""``bninspect check``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from bninspect import _plugins
from bninspect.cli import _config as config
from bninspect.cli import _options as options
from bninspect.cli._forward import asked, find_forward, forward_option, is_asked, key_option
from bninspect.cli._output import conclude, emit, shows_channels

if TYPE_CHECKING:
    from bninspect.inspection.snapshot import Snapshot

SECTION = "Find what is wrong, and put it right"
EPILOG = """\b
Examples:
  bninspect check vgg16_bn --select BN3
  bninspect check resnet50 --weights DEFAULT
  bninspect check hf-hub:timm/resnet18.a1_in1k
  bninspect check best.pt
  bninspect check nets.py:model --batch images.npy --batch-size 32
  bninspect check nets.py:model --batch data.py:loader --forward steps.py:step
  bninspect check nets.py:model --input 3,224,224 --format github
\b
Settings may stand in pyproject.toml:
  [tool.bninspect]
  select = ["BN1", "BN2"]
  ignore = ["BN204"]
  fail-on = "error"
"""


@click.command(epilog=EPILOG, short_help="What is wrong with the layers, and what to do about it.")
@click.argument("model")
@click.option("--batch", metavar="SOURCE", help="Real data, prepared as for evaluation: a file, images, a loader.")
@key_option
@forward_option
@click.option(
    "--batch-size", type=click.IntRange(1), help="Images in one training step; the batch runs in such pieces."
)
@click.option("--transforms", metavar="NAME", help="Of images: as ResNet50_Weights.DEFAULT; default the model's own.")
@click.option("--workers", type=click.IntRange(0), default=0, show_default=True, help="Processes that read images.")
@click.option("--max-batches", type=click.IntRange(1), metavar="K", help="Stop a loader or a folder after K pieces.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of random weights.")
@options.input_options
@click.option("--device", metavar="DEVICE", help="cpu, cuda or cuda:K; default cpu.")
@click.option("--select", metavar="CODE", multiple=True, help="Only these rules: BN203, or a beginning such as BN2.")
@click.option("--ignore", metavar="CODE", multiple=True, help="Not these rules; repeatable, as --select is.")
@click.option("--fail-on", type=click.Choice(config.FAIL_ON), help="Exit 1 from this severity on; default warning.")
@click.option("--exit-zero", is_flag=True, help="Exit 0 whatever is found.")
@options.model_options
@options.output_options("bninspect.check")
@options.snapshot_options("bninspect.check")
def check(
    model: str, batch: str | None, fmt: str, *, output: str | None, color: str, snapshot: Snapshot | None, **given: Any
) -> int:
    """What is wrong with the BatchNorm layers of MODEL, and what to do about it.

    Rules on stored values need MODEL alone, rules on the graph also the shape of an input, rules on data a real batch.
    `bninspect rule` lists them. Exit code 1: there are findings; with --snapshot: they are not those of the snapshot.
    """
    from bninspect.render._check import silences

    settings = {**given, **config.settings(), **_said(given)}
    renderer = _plugins.formats("bninspect.check")[fmt]
    settings["channels"] = shows_channels(renderer)
    report = _check(model, batch, settings, hashed=snapshot is not None)
    if snapshot is not None:
        return conclude(report, snapshot, renderer, output=output, color=color, vectors=False)
    emit(report, renderer, output=output, color=color)
    for line in silences(report):
        options.say(settings["verbose"], line)
    return _exit_code(report, settings)


def _said(given: dict[str, Any]) -> dict[str, Any]:
    """What the command line says beside the settings file; a list there replaces the file's."""
    said = {"select": _codes(given["select"]), "ignore": _codes(given["ignore"]), "fail-on": given["fail_on"]}
    return {name: value for name, value in {**said, "exit-zero": given["exit_zero"]}.items() if value}


def _codes(values: tuple[str, ...]) -> list[str]:
    return [code.strip() for value in values for code in value.split(",")]


def _check(model: str, batch: str | None, settings: dict[str, Any], *, hashed: bool) -> Any:
    import msgspec

    import bninspect
    from bninspect.inspection.check import chosen

    rules = {"select": settings.get("select", ()), "ignore": settings.get("ignore", ())}
    chosen(**rules)
    rules["channels"] = settings["channels"]
    found: Any = options.find_model(model, settings)
    options.say(settings["verbose"], f"{found.kind} model {found.name}")
    if options.is_stored(found):
        if batch is not None or settings["shapes"]:
            options.refuse_to_run(found, "--batch" if batch is not None else "--input")
        if is_asked(settings):
            options.refuse_to_run(found, asked(settings))
        size = settings["batch_size"]
        report = bninspect.check(found.layers, batch_size=size, source=options.source_of(found), **rules)
    else:
        report = _live(found, batch, settings, rules, hashed=hashed)
    return options.with_remarks(msgspec.structs.replace(report, notes=(*report.notes, *found.notes)), found)


def _live(found: Any, batch: str | None, settings: dict[str, Any], rules: dict[str, Any], *, hashed: bool) -> Any:
    import msgspec

    import bninspect

    forward = find_forward(settings, batch)
    data = options.find_batch(batch, settings, found) if batch else None
    mark = options.fingerprint(data.data) if data and hashed else None
    report = bninspect.check(
        options.build(found, settings["seed"]),
        mark.data if mark else data.data if data else None,
        input_size=settings["shapes"] or None,
        batch_size=settings["batch_size"],
        device=settings["device"],
        forward=forward,
        source=msgspec.structs.replace(options.source_of(found, data), options=_words(settings)),
        **rules,
    )
    source = msgspec.structs.replace(report.source, batch_sha256=mark.digest if mark else None)
    return msgspec.structs.replace(report, source=source)


def _words(settings: dict[str, Any]) -> tuple[str, ...]:
    """What another command has to be told as well, to find the same model and batch."""
    given = [("--model-arg", pair) for pair in settings["model_args"]]
    given += [(f"--{name}", settings[name]) for name in ("transforms", "forward")] + [("--batch-key", settings["key"])]
    words = [word for option, value in given if value is not None for word in (option, value)]
    filled = settings["checkpoint"] is not None and not settings["strict"]
    return (*words, "--no-strict") if filled else tuple(words)


def _exit_code(report: Any, settings: dict[str, Any]) -> int:
    """1 where a finding is at least as grave as ``--fail-on`` says."""
    least = settings.get("fail-on", "warning")
    if settings.get("exit-zero") or least == "never":
        return 0
    grave = config.FAIL_ON[: config.FAIL_ON.index(least) + 1]
    return int(any(finding.severity in grave for finding in report.findings))
