"""Cells of a comparison: one criterion, subset of classes, seed and strategy at all budgets; and the times of these."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from secateur.experiments import Cell
from secateur.pipeline import CompareSettings, PruneSettings, SubsetSettings
from secateur.pipeline.compare_settings import WHOLE

MEASURE, TIME = "measure", "time"
"""Stages: networks are pruned and measured side by side, and timed alone when all else is done."""

UNPRUNED = "none"
"""Criterion of the unpruned network."""


class CompareCell(Cell):
    """What is worked out as a whole: the networks for all budgets.

    Attributes:
        variant: how to prune; None: nothing is removed.
        subset: of the classes; None: all of them.
        criterion: text, or name of a weight mask, or ``none``.
        seed: of the reference samples.
        scored_on: ``subset`` or ``all``.
        structured: False for masks of single weights.
        published: whether the variant is the published protocol.
    """

    stage: ClassVar[str] = MEASURE

    variant: PruneSettings | None
    subset: SubsetSettings | None
    criterion: str
    seed: int
    scored_on: Literal["subset", "all"] = "subset"
    structured: bool = True
    published: bool = False

    @property
    def subset_name(self) -> str:
        """For the table."""
        return WHOLE if self.subset is None else self.subset.name

    @property
    def strategy(self) -> str:
        """For the table."""
        if self.variant is not None:
            return self.variant.label
        return "unpruned" if self.structured else "masked weights"

    def __hash__(self) -> int:
        return hash((self.stage, self.subset_name, self.criterion, self.seed, self.scored_on, self.strategy))

    def __str__(self) -> str:
        classes = "" if self.subset is None else f" on {self.subset.name}"
        scored = ", class-blind" if self.scored_on == "all" else ""
        return f"{self.stage} {self.criterion}{scored}{classes}, {self.strategy}, seed {self.seed}"


class TimeCell(CompareCell):
    """The times of a cell's networks.

    Attributes:
        exported: whether they are timed in ONNX Runtime, too.
    """

    stage: ClassVar[str] = TIME

    exported: bool = False

    @property
    def timed(self) -> CompareCell:
        """Whose networks are timed."""
        return CompareCell(**{name: getattr(self, name) for name in CompareCell.model_fields})


def compare_cells(settings: CompareSettings, prune: PruneSettings) -> list[CompareCell]:
    """All cells, in the order of the table: of each subset the unpruned network and all that is pruned; then times."""
    subsets: list[SubsetSettings | None] = list(settings.variants.subsets) or [None]
    measured = [cell for subset in subsets for cell in _of_subset(settings, prune, subset)]
    return [*measured, *_timed(settings, measured, subsets)]


def variants_of(settings: CompareSettings, prune: PruneSettings) -> list[tuple[PruneSettings, bool]]:
    """Ways to prune, each with whether it is the published one."""
    found = [(PruneSettings.published(**_carried(prune)), True)] if settings.variants.published else []
    if settings.variants.default and prune not in [variant for variant, _ in found]:
        found.append((prune, False))
    return found


def _of_subset(settings: CompareSettings, prune: PruneSettings, subset: SubsetSettings | None) -> list[CompareCell]:
    asked = settings.variants
    found = [CompareCell(variant=None, subset=subset, criterion=UNPRUNED, seed=0)]
    for variant, published in variants_of(settings, prune):
        for seed in asked.seeds:
            common: dict[str, Any] = {"variant": variant, "subset": subset, "seed": seed, "published": published}
            found += [CompareCell(criterion=text, **common) for text in asked.criteria]
            found += [CompareCell(criterion=text, scored_on="all", **common) for text in asked.blind]
    for seed in asked.seeds:
        found += [
            CompareCell(variant=None, subset=subset, criterion=name, seed=seed, structured=False)
            for name in asked.unstructured
        ]
    return found


def _timed(
    settings: CompareSettings, measured: list[CompareCell], subsets: list[SubsetSettings | None]
) -> list[TimeCell]:
    if not settings.timing.repeats:
        return []
    seeds = settings.variants.seeds[: settings.timed.seeds]
    chosen = subsets[: settings.timed.subsets]
    return [
        TimeCell(
            **{name: getattr(cell, name) for name in CompareCell.model_fields},
            exported=bool(settings.timing.onnx_budgets) and cell.subset == subsets[0],
        )
        for cell in measured
        if cell.structured and cell.subset in chosen and (cell.criterion == UNPRUNED or cell.seed in seeds)
    ]


def _carried(prune: PruneSettings) -> dict[str, Any]:
    """What the published protocol takes over: what is left alone, whether the stream is, and the size of a pass."""
    names = ("batch_size", "stream", "protect", "skip_first_layers", "spare_block_outputs", "min_keep")
    return {name: getattr(prune, name) for name in names}
