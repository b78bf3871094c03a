"""Snapshots in pytest: the fixture ``bn_snapshot``. Nothing but pytest is imported until a test uses it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from bninspect.report import DiffReport, Report

_FOLDER = "bn_snapshots"
_LINES = 40  # of a message; what is cut can be seen by `bninspect diff`
_written = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--bn-update``."""
    parser.getgroup("bninspect").addoption(
        "--bn-update", action="store_true", help="write the BatchNorm snapshots that are missing or differ"
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Name what was written."""
    for path in config.stash.get(_written, []):
        terminalreporter.write_line(f"bninspect: wrote {path}")


@pytest.fixture
def bn_snapshot(request: pytest.FixtureRequest) -> BatchNormSnapshot:
    """Hold the BatchNorm layers of a model against a snapshot beside the test."""
    return BatchNormSnapshot(request)


class BatchNormSnapshot:
    """The snapshots of one test: ``bn_snapshots/<module>.<test>.json`` beside it, numbered where it has several.

    Both methods leave the model as they found it, and fail the test where a snapshot is missing or differs;
    ``pytest --bn-update`` writes it.
    """

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._request = request
        self._update: bool = request.config.getoption("--bn-update")
        self._unnamed = 0

    def check(
        self,
        model: Any,
        batch: Any,
        *,
        name: str | None = None,
        tolerance: str | tuple[float, float] = "default",
        channels: bool = False,
        **settings: Any,
    ) -> None:
        """Compare what ``batch`` does in every BatchNorm layer of ``model``.

        Args:
            model: a module.
            batch: as :func:`bninspect.stats` takes it; it has to be the same to the bit each time.
            name: of the snapshot, for a test that has several.
            tolerance: as :func:`bninspect.diff` takes it.
            channels: store the channel vectors too, and not their ranges alone.
            settings: ``mode``, ``batch_size``, ``device``, ``layer``, ``forward`` of :func:`bninspect.stats`.
        """
        __tracebackhide__ = True
        import msgspec

        import bninspect
        from bninspect.inspection.snapshot.fingerprint import Fingerprint

        snapshot = self._open("bninspect.stats", name, tolerance)
        mark = Fingerprint(batch)
        report = bninspect.stats(model, mark.data, **settings)
        source = msgspec.structs.replace(report.source, batch_sha256=mark.digest)
        self._settle(snapshot, msgspec.structs.replace(report, source=source), vectors=channels)

    def check_structure(self, model: Any, input_size: Any, *, name: str | None = None, **settings: Any) -> None:
        """Compare the shapes, sizes and settings of every BatchNorm layer of ``model``.

        Args:
            model: a module, or a function that builds one.
            input_size: shape of one input without its batch dimension, or several.
            name: of the snapshot, for a test that has several.
            settings: ``mode``, ``dtypes``, ``all_layers`` of :func:`bninspect.summary`.
        """
        __tracebackhide__ = True
        import bninspect

        snapshot = self._open("bninspect.summary", name, "default")
        self._settle(snapshot, bninspect.summary(model, input_size, **settings), vectors=False)

    def _open(self, schema: str, name: str | None, tolerance: Any) -> Any:
        __tracebackhide__ = True
        from bninspect.errors import SourceError
        from bninspect.inspection.snapshot import Snapshot

        how = f"write it with: pytest --bn-update {self._request.node.nodeid!r}"
        try:
            return Snapshot(self._path(name), schema, update=self._update, tolerance=tolerance, how=how)
        except SourceError as error:
            raise AssertionError(str(error)) from None

    def _settle(self, snapshot: Any, report: Report, *, vectors: bool) -> None:
        __tracebackhide__ = True
        from bninspect.errors import InputError

        snapshot.path.parent.mkdir(exist_ok=True)
        try:
            outcome = snapshot.settle(report, vectors=vectors)
        except InputError as error:
            raise AssertionError(f"{error}, in pytest --bn-update") from None
        if outcome.written:
            self._request.config.stash.setdefault(_written, []).append(str(snapshot.path))
        elif outcome.report is not None and not outcome.report.equal:
            raise AssertionError(_message(outcome.report, snapshot.path, self._request.node.nodeid))

    def _path(self, name: str | None) -> Path:
        """Beside the test, by the test's name; a name that is no file's has a hash added."""
        path = self._request.path
        parts = self._request.node.nodeid.split("::")[1:]
        if name is None:
            self._unnamed += 1
            parts += [str(self._unnamed)] if self._unnamed > 1 else []
        else:
            parts.append(name)
        return path.parent / _FOLDER / f"{path.stem}.{_file_name('.'.join(parts))}.json"


def _file_name(text: str) -> str:
    import hashlib

    plain = re.sub(r"[^\w.=-]+", "_", text, flags=re.ASCII)[:100].strip("_")
    return plain if plain == text else f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _message(found: DiffReport, path: Path, test: str) -> str:
    """The table of differences, and what to do."""
    from bninspect.render import table

    lines = table.render(found, color=False, width=None).splitlines()
    if len(lines) > _LINES:
        lines = [*lines[:_LINES], f"... and {len(lines) - _LINES} lines more"]
    head = f"{len(found.differences)} differences from the snapshot {path}"
    return "\n".join([head, *lines, f"If they are meant: pytest --bn-update {test!r}"])
