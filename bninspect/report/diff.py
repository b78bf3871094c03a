"""The report of ``diff``: what differs between two reports."""

from __future__ import annotations

from typing import Any, Literal

from bninspect.report.header import Source, Struct, Tool


class Tolerance(Struct, frozen=True, kw_only=True):
    """How far figures may be apart; whole numbers, names, shapes and settings are compared exactly.

    Attributes:
        mean: for means, in standard deviations of their channel; for weight and bias, in root mean squares of the
            layer's weight; for shares, as they are.
        var: for variances, relative to ``var + eps``; for the noise of batches, which are variances, to itself.
    """

    mean: float
    var: float


class Difference(Struct, frozen=True, kw_only=True):
    """One thing that differs between ``a``, the earlier report, and ``b``, the later one.

    Attributes:
        what: ``added``, ``removed`` and ``renamed`` are of layers (or of a report's other entries, which ``field``
            names); ``setting`` is compared exactly; ``figure`` is a figure of a layer; ``channels`` a vector of it.
        path: of the layer, by its name in ``b`` (where removed, in ``a``); empty: the model as a whole.
        field: what of it differs, by its name in the report.
        a: the earlier value; of a vector, that of the channel that moved most.
        b: the later one.
        distance: how far they are apart, in ``unit``; ``None`` where one of them is NaN or infinite.
        unit: ``std`` standard deviations of the channel; ``ratio`` the quotient b / a of variances with eps added;
            ``rms`` root mean squares of the layer's weight; ``of var`` parts of the variance; ``share`` as it is.
        num_channels: how many channels moved; ``num_features`` of so many.
        channel: the one that moved most.
    """

    what: Literal["added", "removed", "renamed", "setting", "figure", "channels"]
    path: str
    field: str | None = None
    a: Any = None
    b: Any = None
    distance: float | None = None
    unit: Literal["std", "ratio", "rms", "of var", "share"] | None = None
    num_channels: int | None = None
    num_features: int | None = None
    channel: int | None = None


class DiffReport(Struct, frozen=True, kw_only=True):
    """What :func:`bninspect.diff` returns; ``equal`` is true where nothing differs beyond the tolerance.

    ``statistics_only`` has the layers whose weight and bias are equal while their running statistics differ.
    ``kept_updating`` are those of them that counted more batches (num_batches_tracked) in ``b``: gamma and beta were
    frozen, and the statistics were not. The others are of ranks that were not synchronised, of a copy that a moving
    average keeps, or were estimated again.
    """

    schema: Literal["bninspect.diff"] = "bninspect.diff"
    schema_version: int = 1
    tool: Tool
    a: Source
    b: Source
    compared: str
    tolerance: Tolerance
    equal: bool
    num_layers: int
    differences: tuple[Difference, ...] = ()
    statistics_only: tuple[str, ...] = ()
    kept_updating: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
