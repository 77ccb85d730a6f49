"""Cells of the toy study: one pruning each."""

from __future__ import annotations

from itertools import product

from secateur.experiments import Cell
from secateur.studies.toy.settings import GridSettings


class ToyCell(Cell):
    """One pruning.

    Attributes:
        dataset: whose network is pruned.
        criterion: that ranks the units.
        samples_per_class: reference samples of each class.
        seed: that draws the reference samples.
    """

    dataset: str
    criterion: str
    samples_per_class: int
    seed: int


def toy_cells(grid: GridSettings) -> list[ToyCell]:
    """All combinations, in the order of the table."""
    every = product(grid.datasets, grid.criteria, grid.samples_per_class, grid.seeds)
    return [
        ToyCell(dataset=dataset, criterion=criterion, samples_per_class=count, seed=seed)
        for dataset, criterion, count, seed in every
    ]
