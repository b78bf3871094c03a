"""What the model predicts in one pass over the data, and how two passes compare."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bninspect.observe.outputs import scores
from bninspect.report import Predictions

if TYPE_CHECKING:
    from torch import Tensor

    from bninspect.inspection.recalibrate.data import Step


class Seen:
    """The top predictions of one pass, and how many of those with a label were right."""

    def __init__(self) -> None:
        self.tops: list[Tensor] = []
        self.marks: list[Any] = []
        self.labelled = self.right = 0

    def add(self, step: Step, output: Any) -> None:
        """Take in the output of one step, if it is a table of scores."""
        table = scores(output)
        if table is None or len(table) != len(step.inputs[0]):
            return
        top = table.argmax(1)
        self.tops.append(top.int())
        self.marks.append(step.mark)
        if step.labels is not None and top.shape[1] == 1:
            self.labelled += len(top)
            self.right += int((top[:, 0] == step.labels.cpu()).sum())

    def accuracy(self) -> float | None:
        """Share of the labelled images that were predicted right."""
        return self.right / self.labelled if self.labelled else None


def compared(before: Seen, after: Seen) -> Predictions | None:
    """What became of the predictions; ``None`` where the output is no table of scores."""
    if not after.tops:
        return None
    same = before.marks == after.marks
    changed = sum(int((a != b).sum()) for a, b in zip(before.tops, after.tops, strict=True)) if same else 0
    return Predictions(
        num_images=sum(map(len, after.tops)),
        changed=changed / sum(top.numel() for top in after.tops) if same else None,
        num_labelled=after.labelled,
        accuracy_before=before.accuracy(),
        accuracy=after.accuracy(),
    )
