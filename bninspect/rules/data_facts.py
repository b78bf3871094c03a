"""What real data showed of a model, beside the statistics of each layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from bninspect.report import Vector


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A change of the input, and what it does to the distance of the first layer from its running statistics."""

    name: str
    before: float
    after: float


class ModeChange(msgspec.Struct, frozen=True, kw_only=True):
    """How predictions differ between running and batch statistics, beside how they differ between two batchings.

    ``disagreement`` is the share of differing top-1 predictions, ``change`` the root mean square change of the scores
    in units of their standard deviation over images; ``*_noise`` are the same of two groupings into batches.
    """

    batch_size: int
    disagreement: float
    change: float
    disagreement_noise: float = 0.0
    change_noise: float = 0.0


class Padding(msgspec.Struct, frozen=True, kw_only=True):
    """Constant ends of the samples at the first layer: share of positions, shortest and longest, in positions."""

    share: float
    shortest: int
    longest: int
    image: bool


class Data(msgspec.Struct, frozen=True, kw_only=True):
    """What real data showed, beside the statistics of each layer. ``None``: not measured, ``why`` says why not.

    Attributes:
        num_images: images seen.
        batches: batches as the user made them; 1 where a single tensor was given.
        square_error: by path, standard error over images of the mean square around running_mean, per channel.
        within: by path, unbiased variance within the user's batches, per channel.
        between: share of channels of the first layer whose image means depend on the batch (F test at 0.001).
        calls: by path of a layer called repeatedly, largest shift of the mean between two calls in running standard
            deviations, and largest ratio of variances; medians over channels.
        noise: by path, median over channels of the noise-to-signal ratio of batch statistics at the batch size.
        modes: running against batch statistics.
        folded: by path of a layer that can be folded into the one before, largest difference that it makes to the
            output of one image, over the output's root mean square; and the spacing of numbers at 1 in its precision.
        padding: constant ends.
        candidates: changes of the input that were tried.
    """

    num_images: int
    batches: int
    square_error: dict[str, Vector] = {}
    within: dict[str, Vector] = {}
    between: float | None = None
    calls: dict[str, tuple[float, float]] = {}
    noise: dict[str, float] | None = None
    modes: ModeChange | None = None
    folded: dict[str, tuple[float, float]] = {}
    padding: Padding | None = None
    candidates: tuple[Candidate, ...] | None = None
    why: dict[str, str] = {}
