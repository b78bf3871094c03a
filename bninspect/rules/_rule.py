"""What a rule is: a function whose name is its code and name, whose docstring is its page."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bninspect.report import Severity
    from bninspect.rules.facts import Facts, Hit, Silence
    from bninspect.rules.step_facts import StepFacts

    Body = Callable[..., Iterator[Hit | Silence]]

Remedy = Literal["recalibrate"]
SECTIONS = ("Why", "Do", "Hit", "Miss")


@dataclass(frozen=True)
class Rule:
    """One rule. ``severity`` is the gravest it can have; ``needs`` are fields of a layer, ``graph`` or ``data``.

    A need that ends in ``?`` is looked at where it is there, and not missed where it is not; a rule that needs
    ``steps`` is applied while a model trains. ``explains`` are the codes of findings that follow from one of this
    rule, where they begin in the same layer or behind it. ``remedy`` names the command that "do" ends in.
    """

    body: Body
    severity: Severity
    needs: tuple[str, ...]
    explains: tuple[str, ...] = ()
    remedy: Remedy | None = None

    def __call__(self, facts: Facts | StepFacts) -> Iterator[Hit | Silence]:
        return self.body(facts)

    @property
    def in_training(self) -> bool:
        """Whether it looks at the steps of a training loop, and not at a model."""
        return "steps" in self.needs

    @property
    def code(self) -> str:
        """``BN101``: the first word of the function's name."""
        return self.body.__name__.partition("_")[0].upper()

    @property
    def name(self) -> str:
        """``non-finite-state``: the rest of it."""
        return self.body.__name__.partition("_")[2].replace("_", "-")

    @property
    def page(self) -> str:
        """The docstring: what, why, what to do, a hit and a miss."""
        return inspect.getdoc(self.body) or ""

    @property
    def title(self) -> str:
        """The first line of the page."""
        return self.page.partition("\n")[0].rstrip(".")

    def section(self, name: str) -> str:
        """A paragraph of the page that starts with ``name:``, on one line; empty if there is none."""
        for paragraph in self.page.split("\n\n"):
            if paragraph.startswith(f"{name}: "):
                return " ".join(paragraph.removeprefix(f"{name}: ").split())
        return ""

    @property
    def thresholds(self) -> dict[str, float]:
        """The defaults of the function's keywords."""
        parameters = inspect.signature(self.body).parameters.values()
        return {item.name: item.default for item in parameters if item.kind is item.KEYWORD_ONLY}


def rule(
    severity: Severity, *needs: str, explains: tuple[str, ...] = (), remedy: Remedy | None = None
) -> Callable[[Body], Rule]:
    """Make a rule of a function ``bnXnn_its_name(facts, *, thresholds)`` that yields hits, or a silence."""

    def made(body: Body) -> Rule:
        return Rule(body, severity, needs, explains, remedy)

    return made
