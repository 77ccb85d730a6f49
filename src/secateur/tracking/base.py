"""What a tracker is: a run that takes metrics, tables and files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Value = bool | float | str | None
"""A cell of a table."""


@dataclass(frozen=True)
class Run:
    """The run that a tracker is to open.

    Attributes:
        project: that runs are filed under.
        name: of this run; another one may have the same.
        settings: configuration, plain values, nested as it likes.
        folder: where runs are kept that are not sent anywhere.
        identity: of the run that an earlier process opened, to go on with; None: a new one.
    """

    project: str
    name: str
    settings: Mapping[str, Any]
    folder: Path
    identity: str | None = None


class Tracker(ABC):
    """One run at one tracker, open from its construction to `close`.

    Whatever a method raises ends the logging to this tracker, and nothing else; see `Tracking`.

    Attributes:
        identity: what another process finds the run by.
        last_step: the highest step that the run has already; -1: none.

    Example:
        >>> class Printing(Tracker):
        ...     def __init__(self, run: Run) -> None:
        ...         self.identity = run.name
        ...     def log(self, values, step, line):
        ...         print(step, dict(values))
        ...     def table(self, name, rows):
        ...         print(name, len(rows))
        ...     def file(self, path):
        ...         print(path.name)
        ...     def close(self, failed):
        ...         return "standard output"
        >>> Printing(Run("secateur", "first", {}, Path("."))).log({"loss": 0.5}, 0, "")
        0 {'loss': 0.5}
    """

    identity: str
    last_step: int = -1

    @abstractmethod
    def __init__(self, run: Run) -> None:
        """Open the run, and log its settings unless it is resumed."""

    @abstractmethod
    def log(self, values: Mapping[str, float], step: int, line: str) -> None:
        """Log one point of several curves.

        Args:
            values: finite numbers, by metric.
            step: never lower than in the call before.
            line: which of several curves of these metrics; "": there is one.
        """

    @abstractmethod
    def table(self, name: str, rows: Sequence[Mapping[str, Value]]) -> None:
        """Log a table.

        Args:
            name: of the table.
            rows: columns in the order of first appearance; all have the same.
        """

    @abstractmethod
    def file(self, path: Path) -> None:
        """Log a file under its own name."""

    @abstractmethod
    def close(self, failed: bool) -> str:
        """End the run.

        Args:
            failed: the work was broken off.

        Returns:
            Where to look: an address, or a command that shows the run.
        """


def metric_name(name: str, line: str) -> str:
    """Both in one, for trackers whose runs have no parts."""
    return f"{name}/{line}" if line else name
