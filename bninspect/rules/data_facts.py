"""What real data showed of a model, beside the statistics of each layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from bninspect.report import Vector


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A change of an input, and what it does to the first layer that this input reaches.

    Attributes:
        name: what is done.
        layer: path of that layer.
        place: of several inputs, which one; empty where there is one.
        before: distance of the layer from its running statistics (:meth:`LayerFacts.distance`), mean over channels.
        after: the same with the change.
        off: share of its channels that are then still off, as far as BN401 has it.
        behind: distance of the layers behind, with the change; median over channels and layers, NaN if not measured.
        fitted: its numbers are taken from the input itself, so that it serves more faults than one.
    """

    name: str
    layer: str
    place: str = ""
    before: float
    after: float
    off: float
    behind: float = float("nan")
    fitted: bool = False


class ModeChange(msgspec.Struct, frozen=True, kw_only=True):
    """How predictions of ``images`` differ between running and batch statistics, beside the noise of batches.

    ``disagreement`` is the share of differing top-1 predictions, ``change`` the root mean square change of the scores
    in units of their standard deviation over images; ``*_noise`` are the same as drawing other images makes them.
    ``values`` are the fewest per channel that a layer was given in a batch.
    """

    images: int
    batch_size: int
    disagreement: float
    change: float
    disagreement_noise: float = 0.0
    change_noise: float = 0.0
    values: float = float("inf")


class Recalibrated(msgspec.Struct, frozen=True, kw_only=True):
    """What statistics of the batch did in place of the running ones, where those do not fit.

    Attributes:
        layers: how many there are behind the first that does not fit.
        distance_before: of their inputs to their running statistics (:meth:`LayerFacts.distance`), with running
            statistics before them; median over channels and layers, NaN where there are none.
        distance_after: the same with those of the batch.
        distance_most: of the layer that is then farthest off, ``farthest``.
        decided_before: how much the predictions tell with running statistics, from 0 (all alike, or undecided) to 1;
            ``None`` where the output is no table of scores.
        decided_after: the same with those of the batch.
        sure_before: how sure they are with running statistics, from 0 to 1, even if they are all alike.
        sure_after: the same with those of the batch.
    """

    layers: int
    distance_before: float
    distance_after: float
    distance_most: float
    farthest: str
    decided_before: float | None
    decided_after: float | None
    sure_before: float | None
    sure_after: float | None


class OtherEps(msgspec.Struct, frozen=True, kw_only=True):
    """What another eps in all layers does to the distance of layers from their running statistics.

    Attributes:
        eps: the one that was tried.
        first: distance of the first layer, which no eps changes (:meth:`LayerFacts.distance`, but in units of
            running_var alone); median over channels.
        before: the same of the layer behind that is farthest off, with the eps that the model has.
        after: the same with the other one.
        changed: share of images whose top prediction changes; ``None`` where the output is no table of scores.
    """

    eps: float
    first: float
    before: float
    after: float
    changed: float | None


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
        noise_batches: in how many batches it was measured.
        modes: running against batch statistics.
        recalibrated: what statistics of the batch did in their place; ``None`` too where the running ones fit.
        other_eps: each customary eps that was tried.
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
    noise_batches: int = 0
    modes: ModeChange | None = None
    recalibrated: Recalibrated | None = None
    other_eps: tuple[OtherEps, ...] = ()
    folded: dict[str, tuple[float, float]] = {}
    padding: Padding | None = None
    candidates: tuple[Candidate, ...] | None = None
    why: dict[str, str] = {}
