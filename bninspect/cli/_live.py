"""What is shown on a terminal while pieces stream: a progress bar, or the table so far."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bninspect.report import StatsReport

    OnPiece = Callable[[int, Callable[[], StatsReport]], None]

_PERIOD = 0.25  # seconds between two refreshes


@contextmanager
def watching(total: int | None, *, live: bool) -> Iterator[OnPiece | None]:
    """A callback for each piece; it shows something only where standard error is a terminal, and leaves no trace."""
    if not sys.stderr.isatty():
        yield None
    elif live and sys.stdout.isatty():
        with _table() as show:
            yield show
    else:
        with _bar(total) as show:
            yield show


@contextmanager
def _table() -> Iterator[OnPiece]:
    from rich.console import Console, Group
    from rich.live import Live

    from bninspect.cli._output import ascii_only
    from bninspect.inspection.stats.arrange import arrange
    from bninspect.render._view import view
    from bninspect.render.table import parts

    console = Console(stderr=True, highlight=False, markup=False)
    drawn_plain = ascii_only(sys.stderr)  # asked first: Live puts a proxy there
    shown = 0.0
    with Live(console=console, auto_refresh=False, transient=True, vertical_overflow="ellipsis") as screen:

        def show(images: int, report: Callable[[], StatsReport]) -> None:  # noqa: ARG001
            nonlocal shown
            if time.monotonic() - shown >= _PERIOD:
                plain = arrange(report(), channels=False, sort=None, top=None)
                screen.update(Group(*parts(view(plain), console.width, ascii_only=drawn_plain)), refresh=True)
                shown = time.monotonic()

        yield show


@contextmanager
def _bar(total: int | None) -> Iterator[OnPiece]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task: Any = progress.add_task("images", total=total)

        def show(images: int, report: Callable[[], StatsReport]) -> None:  # noqa: ARG001
            progress.update(task, completed=images)

        yield show
