"""What a study is: settings, cells, the work on one cell, and what the table of all says."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from secateur.experiments.cells import FIRST, Cell
from secateur.experiments.question import Question
from secateur.experiments.resources import Resource, Resources
from secateur.experiments.schema import Row, Schema
from secateur.experiments.settings import StudySettings, settings_for
from secateur.experiments.writing import write_table

if TYPE_CHECKING:
    import pandas as pd

    from secateur.reports import Report
    from secateur.tracking import Tracking

S = TypeVar("S", bound=StudySettings)
C = TypeVar("C", bound=Cell)

Tables = Mapping[str, "pd.DataFrame"]
"""Frames by the name of the table, rows in the order of the cells."""


@dataclass(frozen=True)
class Result:
    """What the work on one cell gives.

    Attributes:
        rows: by table; rows have the columns of the table's schema.
        artefacts: files by name, as bytes.
    """

    rows: Mapping[str, Sequence[Row]]
    artefacts: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """A statement about the table.

    Attributes:
        text: the statement.
        holds: whether the figures bear it out; None: they cannot tell, their interval holds both.
        figures: that say so, with their intervals.
    """

    text: str
    holds: bool | None
    figures: str = ""

    def __str__(self) -> str:
        verdict = {True: "holds", False: "does not hold", None: "cannot be told"}[self.holds]
        return f"{verdict}: {self.text}" + (f" ({self.figures})" if self.figures else "")


@dataclass(frozen=True)
class TextTable:
    """A short table for the terminal.

    Attributes:
        title: above it.
        columns: their heads.
        rows: cells of each row.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


class Study(ABC, Generic[S, C]):
    """Base of all studies; a subclass is registered with `secateur.experiments.register_study`.

    A study is sent to the processes that work on its cells: it holds settings, and nothing large.

    Attributes:
        name: of the study, in commands and in stores.
        version: raised when results change, or the columns of its tables.
        summary: in one line.
        settings_type: of ``settings``.
        tables: schemas of its tables by name; the first is the main one.
        stages: of the cells, in the order in which they are worked on.
        alone: stages that are worked on in this process, one cell after another, because they take times.
        question: what `secateur study statistics` asks of its tables unless flags say otherwise; None: flags must.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    summary: ClassVar[str]
    settings_type: ClassVar[type[StudySettings]]
    tables: ClassVar[Mapping[str, Schema]]
    stages: ClassVar[tuple[str, ...]] = (FIRST,)
    alone: ClassVar[frozenset[str]] = frozenset()
    question: ClassVar[Question | None] = None

    def __init__(self, settings: S) -> None:
        self.settings = settings

    def check(self) -> None:
        """Refuse what is known to be wrong before any work.

        Raises:
            RequestError: naming it.
        """

    def dry_run(self) -> Sequence[str]:
        """What the work would be, a line each: data and networks are opened, and nothing is trained or stored.

        Raises:
            RequestError: for whatever would stop the work and can be known before it.
        """
        self.check()
        return ()

    @abstractmethod
    def cells(self) -> Sequence[C]:
        """All pieces of work, in the order of the table."""

    def shared(self) -> Sequence[Resource[Any]]:
        """Resources that are made before the cells, side by side, unless they are stored already."""
        return ()

    def inputs(self, cell: C, resources: Resources) -> Mapping[str, str]:
        """Fingerprints of what a cell's result depends on besides coordinates and settings: weights, data."""
        return {}

    def sections(self, stage: str) -> Mapping[str, Any]:
        """The settings that results of a stage depend on; by default all with `Effect.RESULTS`."""
        return settings_for(self.settings)

    def batch(self, cell: C) -> Hashable:
        """Cells with the same answer share resources: one process works on them, one after another."""
        return cell

    def needs(self, cell: C) -> Sequence[C]:
        """Cells whose results are given to the work on this one: of earlier stages, or before it in its own."""
        return ()

    @abstractmethod
    def work(self, cell: C, resources: Resources, earlier: Mapping[C, Result]) -> Result:
        """Do one piece of work; the result depends on nothing but what the identity says.

        Args:
            cell: which.
            resources: of this process.
            earlier: results of the cells that it needs.
        """

    def assemble(self, tables: Tables) -> Tables:
        """The tables as they are shown and written; by default as they are stored."""
        return tables

    def overview(self, tables: Tables) -> Sequence[TextTable]:
        """What is shown on the terminal."""
        return ()

    def log(self, tracking: Tracking, tables: Tables) -> None:
        """Log the tables to trackers."""
        for name, frame in tables.items():
            rows = [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]
            tracking.table(name, rows)

    def findings(self, tables: Tables) -> Sequence[Finding]:
        """What the tables say."""
        return ()

    @abstractmethod
    def page(self, tables: Tables) -> Report:
        """The report."""

    def figures(self, tables: Tables, folder: Path) -> Mapping[str, Path]:
        """Write the figures; by default there are none.

        Returns:
            Paths by what they show.
        """
        return {}

    def write(self, tables: Tables, folder: Path) -> Mapping[str, Path]:
        """Write tables and figures; by default each table as CSV and Parquet, and `figures`.

        Returns:
            Paths by what they hold.
        """
        written = {name: write_table(frame, folder / f"{name}.csv") for name, frame in tables.items()}
        return {**written, **self.figures(tables, folder)}
