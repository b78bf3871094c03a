"""The report: each layer's distance to the data before and after, and what became of the predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bninspect.inspection.recalibrate.predictions import compared
from bninspect.inspection.recalibrate.trial import settled
from bninspect.report import How, LeftLayer, RecalibratedChannels, RecalibratedLayer, RecalibrateReport

if TYPE_CHECKING:
    from bninspect.inspection.recalibrate.hows import Estimate
    from bninspect.inspection.recalibrate.trial import Pass, Statistics
    from bninspect.report import StatsLayer


def report(
    how: How, before: Pass, estimate: Estimate, paths: tuple[str, ...], left: tuple[LeftLayer, ...]
) -> RecalibrateReport:
    """Everything that was found out."""
    old, new = before.layers(paths), estimate.after.layers(paths)
    layers = tuple(_layer(old[path], new[path], estimate.values.get(path)) for path in old)
    return RecalibrateReport(
        tool=before.report.tool,
        source=before.report.source,
        how=how,
        passes=estimate.passes,
        converged=settled(new.values()),
        num_images=before.report.num_images or 0,
        num_pieces=before.report.num_pieces or 0,
        layers=layers,
        left=left,
        predictions=compared(before.seen, estimate.after.seen),
        notes=estimate.after.report.notes,
    )


def _layer(old: StatsLayer, new: StatsLayer, values: Statistics | None) -> RecalibratedLayer:
    a, b = old.channels, new.channels
    assert a is not None
    assert b is not None
    assert a.running_mean is not None
    assert a.running_var is not None
    mean, var = values or (a.running_mean.astype(np.float64), a.running_var.astype(np.float64))
    return RecalibratedLayer(
        path=old.path,
        kind=old.kind,
        num_features=old.num_features,
        count=new.count or 0,
        num_images=new.num_images or 0,
        calls=new.calls or 0,
        d_max_before=old.d_max,
        r_min_before=old.r_min,
        r_max_before=old.r_max,
        nonfinite_before=old.nonfinite,
        d_max=new.d_max,
        r_min=new.r_min,
        r_max=new.r_max,
        channels=RecalibratedChannels(
            running_mean_before=a.running_mean,
            running_var_before=a.running_var,
            running_mean=mean,
            running_var=var,
            d_before=a.d,
            r_before=a.r,
            d=b.d,
            r=b.r,
        ),
    )
