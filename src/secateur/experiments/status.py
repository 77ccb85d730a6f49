"""How far a run is, and what failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WAITING, FINISHED, FAILED = "waiting", "finished", "failed"
"""States of a cell."""


@dataclass(frozen=True)
class Failure:
    """A cell whose work failed.

    Attributes:
        identity: of the cell.
        cell: as text.
        error: in one line.
    """

    identity: str
    cell: str
    error: str


@dataclass(frozen=True)
class Working:
    """Cells that a run took at the same time, and works on.

    Times are by the clock of the database, which is one for all hosts.

    Attributes:
        cells: their identities, with the cells as text.
        host: where the run is.
        process: its number there.
        since: when it took them, UTC; "" where an older version did, which did not keep it.
        ended: None while the run renews its lease, else why the cells are free for the next run.
    """

    cells: Sequence[tuple[str, str]]
    host: str
    process: int
    since: str = ""
    ended: str | None = None

    def __str__(self) -> str:
        (name, cell), more = self.cells[0], len(self.cells) - 1
        since = f", since {self.since}" if self.since else ""
        cells = f"{name[:12]} ({cell}){f' and {more:,} more' if more else ''}"
        free = f"; {self.ended}: the next run takes it over" if self.ended else ""
        return f"{'left' if self.ended else 'worked on'} by {self.host}, process {self.process}{since}: {cells}{free}"


@dataclass(frozen=True)
class Status:
    """How far the last run of a store is.

    Attributes:
        study: name.
        counts: number of cells by stage, then by state.
        started: when the last run began, UTC, by the clock of the database.
        finished_at: when the last cell was finished, by the clock of the host that worked on it; "" for none.
        command: of the last run.
    """

    study: str
    counts: Mapping[str, Mapping[str, int]]
    started: str = ""
    finished_at: str = ""
    command: str = ""

    def total(self, state: str) -> int:
        """Cells in a state, of all stages."""
        return sum(states.get(state, 0) for states in self.counts.values())
