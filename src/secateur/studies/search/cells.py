"""Cells: trials of the search, then each candidate on other images."""

from __future__ import annotations

from typing import ClassVar

from secateur.experiments import Cell
from secateur.studies.search.settings import OPTIMISED, SearchStudySettings

TRY, MEASURE = "search", "measure"
"""Stages."""


class SearchCell(Cell):
    """A cell of the study."""


class TrialCell(SearchCell):
    """One setting that is tried.

    Attributes:
        number: 0, 1, ...; which setting it is follows from the trials that it needs.
    """

    stage: ClassVar[str] = TRY

    number: int

    def __str__(self) -> str:
        return f"trial {self.number}"

    def needed(self, together: int) -> range:
        """Numbers of the trials that it is proposed from: all before those that run side by side with it."""
        return range(self.number // together * together)


class MeasureCell(SearchCell):
    """A candidate, measured.

    Attributes:
        candidate: a criterion, or ``optimised``.
        per_class: reference samples of each class; None: as the candidate or the settings say.
        seed: of the reference samples, and of the classes where some are drawn.
        found_by: trials that ``optimised`` is the best of; 0 for others.
    """

    stage: ClassVar[str] = MEASURE

    candidate: str
    per_class: int | None
    seed: int
    found_by: int = 0

    def __str__(self) -> str:
        samples = "" if self.per_class is None else f", {self.per_class} samples of each class"
        return f"{self.candidate}{samples}, seed {self.seed}"


class ShowCell(SearchCell):
    """Heatmaps under the settings that are best.

    Attributes:
        images: how many, of the measurement's.
        found_by: trials that the settings are the best of.
    """

    stage: ClassVar[str] = MEASURE

    images: int
    found_by: int

    def __str__(self) -> str:
        return "heatmaps"


def search_cells(settings: SearchStudySettings, trials: int) -> list[SearchCell]:
    """All cells; ``trials``: how many there are, a grid may have fewer than are asked for."""
    asked = settings.measure
    wanted: list[tuple[str, int | None]] = [(name, None) for name in (OPTIMISED, *asked.criteria)]
    wanted += [(name, samples) for samples in asked.samples for name in asked.sampled]
    cells: list[SearchCell] = [TrialCell(number=number) for number in range(trials)]
    for name, samples in wanted:
        found_by = trials if name == OPTIMISED else 0
        cells += [MeasureCell(candidate=name, per_class=samples, seed=seed, found_by=found_by) for seed in asked.seeds]
    if asked.images:
        cells.append(ShowCell(images=asked.images, found_by=trials))
    return cells
