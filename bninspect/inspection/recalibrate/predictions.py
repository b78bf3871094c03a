"""What the model predicts in one pass over the data, and how two passes compare."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from bninspect.observe.outputs import scores
from bninspect.report import Predictions

if TYPE_CHECKING:
    from torch import Tensor


class Seen:
    """The top predictions of one pass, and how many of those with a label were right."""

    def __init__(self) -> None:
        self.tops: list[Tensor] = []
        self.marks: list[Any] = []
        self.labels: list[Tensor] = []
        self.labelled = self.right = 0

    def add(self, mark: Any, images: int, output: Any, labels: Tensor | None) -> None:
        """Take in the output of so many images, if it is a table of scores; they are known again by the mark."""
        table = scores(output)
        if table is None or len(table) != images:
            return
        top = table.argmax(1)
        self.tops.append(top.int())
        self.marks.append(mark)
        if labels is not None and top.shape[1] == 1:
            self.labels.append(labels.cpu())
            self.labelled += len(top)
            self.right += int((top[:, 0] == self.labels[-1]).sum())

    def accuracy(self) -> float | None:
        """Share of the labelled images that were predicted right."""
        return self.right / self.labelled if self.labelled else None


def compared(before: Seen, after: Seen) -> Predictions | None:
    """What became of the predictions; ``None`` where the output is no table of scores."""
    if not after.tops:
        return None
    same = before.marks == after.marks and None not in after.marks
    changed = sum(int((a != b).sum()) for a, b in zip(before.tops, after.tops, strict=True)) if same else 0
    given = after.labelled > 0 and not (same and _differ(before.labels, after.labels))
    return Predictions(
        num_images=sum(map(len, after.tops)),
        changed=changed / sum(top.numel() for top in after.tops) if same else None,
        num_labelled=after.labelled if given else 0,
        accuracy_before=before.accuracy() if given else None,
        accuracy=after.accuracy() if given else None,
    )


def _differ(before: list[Tensor], after: list[Tensor]) -> bool:
    """Whether what looked like labels changed for the same images: then the model made them."""
    return len(before) != len(after) or not all(map(torch.equal, before, after))
