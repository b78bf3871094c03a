"""A snapshot and what becomes of it: read before the work, compared after it, and written where that was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from bninspect.errors import InputError, SourceError
from bninspect.inspection.diff import diff, tolerance_of
from bninspect.inspection.snapshot import file
from bninspect.text import printable

if TYPE_CHECKING:
    from pathlib import Path

    from bninspect.report import DiffReport, Report, Tolerance


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a comparison with a snapshot came to; ``report`` is ``None`` where there was none to compare with."""

    report: DiffReport | None
    written: bool


class Snapshot:
    """A snapshot file that a report is to be held against.

    Args:
        path: of its JSON.
        schema: of the report that will be made.
        update: write it where it is missing or differs.
        tolerance: as :func:`bninspect.diff` takes it.
        how: what to type to write it, for the error where it is missing.

    Raises:
        SourceError: it is missing (and not to be written), unreadable, or of another command.
        InputError: the tolerance is none.
    """

    def __init__(self, path: Path, schema: str, *, update: bool, tolerance: Any, how: str) -> None:
        self.path, self.update = path, update
        self.tolerance: Tolerance = tolerance_of(tolerance)
        self.stored = self._read(schema, how)

    def _read(self, schema: str, how: str) -> Report | None:
        if not self.path.exists():
            if self.update:
                return None
            raise SourceError(f"there is no snapshot {printable(str(self.path))}: {how}")
        stored = file.load(self.path)
        if stored.schema != schema:
            raise SourceError(
                f"{printable(str(self.path))} is a snapshot of another command: it holds a report {stored.schema}, and "
                f"{schema} was made"
            )
        return stored

    def settle(self, report: Report, *, vectors: bool = False) -> Outcome:
        """Compare a report with the snapshot, and write it where it is to be updated and differs.

        Args:
            report: of the schema that was announced.
            vectors: store the channel vectors; a snapshot that has them keeps them.

        Raises:
            InputError: it was made of another batch than the snapshot, which is not to be updated.
            BNInspectError: the snapshot cannot be written.
        """
        if self.stored is None:
            file.save(self.path, report, vectors=vectors)
            return Outcome(report=None, written=True)
        same_batch = self._same_batch(report)
        had = file.has_vectors(self.stored)
        found = diff(self.stored, file.as_stored(report, vectors=had), tolerance=self.tolerance)
        stale = not found.equal or not same_batch or (vectors and not had)
        if self.update and stale:
            file.save(self.path, report, vectors=vectors or had)
        return Outcome(report=found, written=self.update and stale)

    def _same_batch(self, report: Report) -> bool:
        assert self.stored is not None
        old, new = self.stored.source.batch_sha256, report.source.batch_sha256  # type: ignore[union-attr]
        if old is None or new is None or old == new:
            return True
        if self.update:
            return False
        raise InputError(
            f"{printable(str(self.path))} was made of another batch (SHA-256 {old[:12]}..., and now {new[:12]}...): "
            "give that batch, or write a new snapshot with --update"
        )
