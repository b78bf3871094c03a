"""The record of a training run, a line for each event, and the report that is made of it."""

from __future__ import annotations

from typing import Literal

import msgspec

from bninspect.report.check import Finding, Place, Severity  # noqa: TC001  # msgspec reads the types of a struct
from bninspect.report.header import Struct, Tool

Figures = tuple[float | None, ...]


class WatchedLayer(Struct, frozen=True, kw_only=True):
    """What does not change of a layer, or is told as it was at the beginning."""

    path: str
    kind: str
    num_features: int
    eps: float | None
    momentum: float | None
    affine: bool | None


class WatchHeader(Struct, frozen=True, kw_only=True, tag_field="event", tag="header"):
    """The first line, and one where a run goes on: what made it, the model, and the settings.

    Attributes:
        schema_version: of the lines that follow.
        time: seconds since 1970.
        step: steps that were done before.
        every: steps from one record to the next.
        accumulation: batches in a step.
        rank: of the process, where there are several.
        layers: in the order of all figures.
    """

    schema: Literal["bninspect.watch.run"] = "bninspect.watch.run"
    schema_version: int = 1
    tool: Tool
    model: str
    time: float
    step: int
    every: int
    accumulation: int
    rank: int | None = None
    layers: tuple[WatchedLayer, ...]
    notes: tuple[str, ...] = ()


class WatchColumns(Struct, frozen=True, kw_only=True):
    """Figures of all layers at one step, each over the layers of the header; unknown is null.

    NaN and infinite channels are passed over, and counted in ``nonfinite_state``.

    Attributes:
        training: in train mode.
        updates: of the statistics, since the last record.
        d_median: median over channels of ``|d|``, ``d = (mean - running_mean) / sqrt(running_var + eps)``: the batch of
            the step against the statistics before it; null without an update in the step.
        d_max: the most.
        r_median: of ``r = sqrt((var + eps) / (running_var + eps))``, with the unbiased variance of the batch.
        r_min: the least; r_max the most.
        speed: the root mean square over channels of what a step adds to ``running_mean``, in running deviations; the
            mean over the steps since the last record.
        weight_min: the least ``|weight|``; weight_rms the root mean square.
        weight_grad: the norm of the gradient of weight; bias_grad that of bias.
        nonfinite_state: NaN and infinite entries of weight, bias, running_mean and running_var.
    """

    training: tuple[bool, ...]
    updates: tuple[int, ...]
    d_median: Figures
    d_max: Figures
    r_median: Figures
    r_min: Figures
    r_max: Figures
    running_mean_min: Figures
    running_mean_max: Figures
    running_var_min: Figures
    running_var_max: Figures
    speed: Figures
    weight_min: Figures
    weight_rms: Figures
    weight_grad: Figures
    bias_grad: Figures
    nonfinite_state: tuple[int, ...]


class WatchRecord(Struct, frozen=True, kw_only=True, tag_field="event", tag="record"):
    """What was seen at one step; ``scalars`` are those that the loop gave."""

    step: int
    time: float
    layers: WatchColumns
    scalars: dict[str, float | None] = msgspec.field(default_factory=dict)


class Alarm(Struct, frozen=True, kw_only=True, tag_field="event", tag="alarm"):
    """Something went wrong at a step; each layer is told once for each code.

    The fields are those of a :class:`Finding`; without ``layers`` it is of the model as a whole.
    """

    step: int
    code: str
    name: str
    severity: Severity
    message: str
    told: str = ""
    fix: str
    evidence: dict[str, float | int | None] = msgspec.field(default_factory=dict)
    layers: tuple[Place, ...] = ()


class WatchProbe(Struct, frozen=True, kw_only=True, tag_field="event", tag="probe"):
    """What ``check`` found at a step, on the batch that was given as a probe."""

    step: int
    time: float
    findings: tuple[Finding, ...]


class WatchEnd(Struct, frozen=True, kw_only=True, tag_field="event", tag="end"):
    """The end of the block; ``error`` is what it was left by."""

    step: int
    time: float
    error: str | None = None


WatchLine = WatchHeader | WatchRecord | Alarm | WatchProbe | WatchEnd


class WatchLayer(Struct, frozen=True, kw_only=True):
    """One layer at the last record; the figures are those of :class:`WatchColumns`, ``alarms`` codes so far."""

    path: str
    kind: str
    num_features: int
    training: bool | None = None
    updates: int | None = None
    d_median: float | None = None
    d_max: float | None = None
    r_median: float | None = None
    r_min: float | None = None
    r_max: float | None = None
    running_mean_min: float | None = None
    running_mean_max: float | None = None
    running_var_min: float | None = None
    running_var_max: float | None = None
    speed: float | None = None
    weight_min: float | None = None
    weight_rms: float | None = None
    weight_grad: float | None = None
    bias_grad: float | None = None
    nonfinite_state: int | None = None
    alarms: tuple[str, ...] = ()


class WatchReport(Struct, frozen=True, kw_only=True):
    """Where a run stands, read from its record.

    Attributes:
        run: the file.
        state: ``running``; ``ended``, by the end of the block; ``failed``, by an error; ``cut``: the process is gone,
            and did not say why.
        error: that the block was left by.
        step: of the last line.
        recorded: the step that the figures are of.
        seconds: from the beginning to the last line, without the time between two parts of a run that was continued.
        steps_per_second: between the last two records.
        layers: those with alarms first, then by ``d_max``.
        probed: the step of the last probe, whose findings are ``findings``.
    """

    schema: Literal["bninspect.watch"] = "bninspect.watch"
    schema_version: int = 1
    tool: Tool
    run: str
    model: str
    state: Literal["running", "ended", "failed", "cut"]
    error: str | None = None
    step: int
    recorded: int | None = None
    every: int
    accumulation: int
    seconds: float
    steps_per_second: float | None = None
    layers: tuple[WatchLayer, ...]
    scalars: dict[str, float | None] = msgspec.field(default_factory=dict)
    alarms: tuple[Alarm, ...] = ()
    probed: int | None = None
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
