"""How far a run is, and what failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from secateur.core.progress import duration

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


FEWEST_DONE = 3
"""Cells that were done of late, for a rate; from fewer nothing is said of the time that remains."""


@dataclass(frozen=True)
class Pace:
    """How fast cells of a stage got done lately.

    Attributes:
        stage: its name.
        done: cells that were finished, or failed, within ``seconds``; one or more.
        seconds: until now, at most those since the last run began.
        waiting: cells that are still to be worked on.

    Example:
        >>> print(Pace("measure", 150, 300.0, 600))
        30 cells per minute (150 done in the last 5 min 0 s), about 20 min 0 s for the 600 that wait
        >>> print(Pace("measure", 1, 40.0, 600))
        1 done in the last 40 s
    """

    stage: str
    done: int
    seconds: float
    waiting: int

    @property
    def per_minute(self) -> float | None:
        """Cells; None: too few were done."""
        return 60 * self.done / self.seconds if self.done >= FEWEST_DONE else None

    @property
    def remaining(self) -> float | None:
        """Seconds for those that wait, if cells go on to be done as fast; None: too few were done."""
        return self.seconds * self.waiting / self.done if self.done >= FEWEST_DONE else None

    def __str__(self) -> str:
        basis = f"{self.done:,} done in the last {duration(self.seconds)}"
        if self.per_minute is None or self.remaining is None:
            return basis
        text = f"{self.per_minute:.3g} cells per minute ({basis})"
        return f"{text}, about {duration(self.remaining)} for the {self.waiting:,} that wait" if self.waiting else text


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
