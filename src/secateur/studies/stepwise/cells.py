"""Cells: the unpruned network, each way to prune it with all its steps, and the times of these networks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from secateur.experiments import Cell
from secateur.pipeline import PruneSettings
from secateur.studies.stepwise.settings import TimingSettings, VariantSettings

PRUNE, TIME = "prune", "time"
"""Stages: networks are pruned, trained and measured side by side, and timed alone when all else is done."""

UNPRUNED = "none"
"""Criterion and protocol of the unpruned network."""


class StepCell(Cell):
    """A network that is pruned step by step.

    Attributes:
        protocol: its name; ``none``: nothing is pruned.
        criterion: text, or ``none``.
        seed: of the reference samples, of chance and of fine-tuning.
        prune: strategy and repair.
        per_class: reference samples of each class; None: all training images.
    """

    stage: ClassVar[str] = PRUNE

    protocol: str = UNPRUNED
    criterion: str = UNPRUNED
    seed: int = 0
    prune: PruneSettings | None = None
    per_class: int | None = None

    def __hash__(self) -> int:
        return hash((self.stage, self.protocol, self.criterion, self.seed))

    def __str__(self) -> str:
        what = "unpruned" if self.criterion == UNPRUNED else f"{self.criterion}, {self.protocol}, seed {self.seed}"
        return f"{self.stage} {what}"

    @property
    def keys(self) -> dict[str, str | int]:
        """The columns that follow from it."""
        return {"protocol": self.protocol, "criterion": self.criterion, "seed": self.seed}


class TimeCell(StepCell):
    """The times of a cell's networks."""

    stage: ClassVar[str] = TIME

    @property
    def timed(self) -> StepCell:
        """Whose networks are timed."""
        return StepCell(**{name: getattr(self, name) for name in StepCell.model_fields})


def step_cells(variants: VariantSettings, timing: TimingSettings) -> list[StepCell]:
    """All cells, in the order of the table."""
    pruned = list(_pruned(variants))
    timed = [cell for cell in pruned if cell.seed == variants.seeds[0]] if timing.repeats else []
    return [StepCell(), *pruned, *(TimeCell(**{n: getattr(c, n) for n in StepCell.model_fields}) for c in timed)]


def _pruned(variants: VariantSettings) -> Iterator[StepCell]:
    for protocol in variants.protocols:
        for criterion in protocol.criteria:
            for seed in variants.seeds:
                yield StepCell(
                    protocol=protocol.name,
                    criterion=criterion,
                    seed=seed,
                    prune=protocol.prune,
                    per_class=protocol.per_class,
                )
