"""How far a run is, and what failed."""

from __future__ import annotations

from collections.abc import Mapping
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
class Status:
    """How far the last run of a store is.

    Attributes:
        study: name.
        counts: number of cells by stage, then by state.
        started: when the last run began, UTC.
        finished_at: when the last cell was finished; "" for none.
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
