"""What every command returns: frozen structs of plain numbers and numpy vectors.

A report is at once the result of the Python function, the content of ``--format json`` and a snapshot. ``None`` means
unknown or not applicable. Channel vectors are numpy arrays of shape ``[num_features]``.
"""

from __future__ import annotations

from bninspect.report.check import CheckReport, Finding, Place, Severity, Silent
from bninspect.report.diff import Difference, DiffReport, Tolerance
from bninspect.report.header import (
    Float64,
    FunctionalCall,
    LayerRef,
    LeftLayer,
    Mode,
    Shape,
    Shapes,
    Source,
    Struct,
    Tool,
    Vector,
)
from bninspect.report.noise import NoiseChannels, NoiseLayer, NoisePredictions, NoiseReport, ScaledNoise
from bninspect.report.recalibrate import How, Predictions, RecalibratedChannels, RecalibratedLayer, RecalibrateReport
from bninspect.report.stats import Channels, StatsLayer, StatsReport
from bninspect.report.summary import SummaryLayer, SummaryReport, SummaryTotals, Trainable
from bninspect.report.watch import (
    Alarm,
    WatchColumns,
    WatchedLayer,
    WatchEnd,
    WatchHeader,
    WatchLayer,
    WatchLine,
    WatchProbe,
    WatchRecord,
    WatchReport,
)

__all__ = [
    "Alarm", "Channels", "CheckReport", "DiffReport", "Difference", "Finding", "Float64", "FunctionalCall", "How",
    "LayerRef", "LeftLayer", "Mode", "NoiseChannels", "NoiseLayer", "NoisePredictions", "NoiseReport", "Place",
    "Predictions", "RecalibrateReport", "RecalibratedChannels", "RecalibratedLayer", "Report", "ScaledNoise",
    "Severity", "Shape", "Shapes", "Silent", "Source", "StatsLayer", "StatsReport", "Struct", "SummaryLayer",
    "SummaryReport", "SummaryTotals", "Tolerance", "Tool", "Trainable", "Vector", "WatchColumns",
    "WatchEnd", "WatchHeader", "WatchLayer", "WatchLine", "WatchProbe", "WatchRecord", "WatchReport", "WatchedLayer",
]  # fmt: skip

Report = SummaryReport | StatsReport | CheckReport | DiffReport | RecalibrateReport | NoiseReport | WatchReport
