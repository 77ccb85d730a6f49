"""Cells: a trained network for each seed, and each way to prune it to each share of its MACs."""

from __future__ import annotations

from typing import ClassVar

from secateur.experiments import Cell
from secateur.studies.prototypes.settings import VariantSettings

TRAIN, PRUNE = "train", "prune"
"""Stages."""

UNPRUNED = "none"
"""Way and criterion of the unpruned network."""


class PrototypeCell(Cell):
    """A network of one seed, unpruned.

    Attributes:
        seed: of weights, order, reference samples.
    """

    stage: ClassVar[str] = TRAIN

    seed: int

    @property
    def keys(self) -> dict[str, str | int | float | bool]:
        """The columns that follow from it."""
        return {"way": UNPRUNED, "backbone": UNPRUNED, "prunes_prototypes": False, "budget": 1.0, "seed": self.seed}


class PrunedCell(PrototypeCell):
    """That network, pruned one way.

    Attributes:
        way: its name.
        backbone: criterion; None: the backbone stays.
        prototypes: whether they go.
        macs: share of the unpruned network's that stays, if the backbone is pruned; 1 otherwise.
    """

    stage: ClassVar[str] = PRUNE

    way: str
    backbone: str | None
    prototypes: bool
    macs: float

    def __str__(self) -> str:
        share = "" if self.backbone is None else f", {self.macs:.0%} of the MACs"
        return f"{self.way}{share}, seed {self.seed}"

    @property
    def trained(self) -> PrototypeCell:
        """The unpruned network."""
        return PrototypeCell(seed=self.seed)

    @property
    def keys(self) -> dict[str, str | int | float | bool]:
        """The columns that follow from it."""
        return {
            "way": self.way,
            "backbone": self.backbone or UNPRUNED,
            "prunes_prototypes": self.prototypes,
            "budget": self.macs,
            "seed": self.seed,
        }


def prototype_cells(variants: VariantSettings) -> list[PrototypeCell]:
    """All cells, seed by seed."""
    found = [PrototypeCell(seed=seed) for seed in variants.seeds]
    for seed in variants.seeds:
        for way in variants.ways:
            for macs in variants.macs if way.backbone is not None else (1.0,):
                found.append(
                    PrunedCell(way=way.name, backbone=way.backbone, prototypes=way.prototypes, macs=macs, seed=seed)
                )
    return found
