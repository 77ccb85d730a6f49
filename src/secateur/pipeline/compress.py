"""Pruning to one or several budgets: one-shot, re-scored, or iterative with fine-tuning."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from torch.utils.data import Dataset

from secateur.core.errors import RequestError
from secateur.core.progress import track
from secateur.criteria import Criterion, get, score
from secateur.data import ReferenceSet
from secateur.selection import STRATEGIES, Budget, Plan, select
from secateur.selection.plan import Cut
from secateur.structure import Structure, trace
from secateur.surgery import compensate, mask_and_compensate, prune, recalibrate
from secateur.surgery.prune import close
from secateur.training import TrainSettings, fit


class PruneSettings(BaseModel):
    """How to prune; the defaults are what ranked best on our benchmark (see the results page of the docs).

    ``rescored``: score, remove ``step`` of the budget's measure, score again, without training; ``one-shot``: one
    scoring pass; ``iterative``: like rescored, with fine-tuning after each step.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schedule: Literal["one-shot", "rescored", "iterative"] = "rescored"
    strategy: str = Field(default="per-cost", description=", ".join(STRATEGIES))
    step: float = Field(default=0.02, gt=0, le=1, description="share of the whole removed between two scorings")
    compensate: bool = Field(default=True, description="fold removed units' mean contribution into biases")
    centred: bool = Field(default=True, description="score deviations from a unit's mean activation")
    recalibrate: bool = Field(default=True, description="measure batch norms anew on the reference samples, unlabelled")
    order: Literal["least", "most"] = "least"
    min_keep: int = Field(default=1, ge=1)
    round_to: int = Field(default=1, ge=1)
    protect: tuple[str, ...] = ()
    batch_size: int = Field(default=64, ge=1, description="samples per scoring pass")

    @classmethod
    def published(cls, **changes: Any) -> PruneSettings:
        """One-shot, global, raw scores, no repair: the protocol of most published comparisons."""
        return cls(
            **{
                "schedule": "one-shot",
                "strategy": "global",
                "compensate": False,
                "centred": False,
                "recalibrate": False,
                **changes,
            }
        )

    @property
    def label(self) -> str:
        """Short name for tables."""
        steps = (("compensated", self.compensate), ("centred", self.centred), ("recalibrated", self.recalibrate))
        extra = "".join(f"+{name}" for name, on in steps if on)
        return f"{self.schedule}/{self.strategy}{extra}"


@dataclass(frozen=True)
class Step:
    """One scoring: shares of units, params and macs that stay after it, and the requested share."""

    requested: float
    achieved: dict[str, float]


@dataclass(frozen=True, eq=False)
class Compressed:
    """A pruned network, the plan against the original, and how it came about."""

    model: nn.Module
    plan: Plan
    history: tuple[Step, ...]


def compress(
    model: nn.Module,
    reference: ReferenceSet,
    budget: Budget,
    criterion: str | Criterion = "lrp",
    settings: PruneSettings | None = None,
    *,
    train: Dataset[Any] | None = None,
    val: Dataset[Any] | None = None,
    finetune: TrainSettings | None = None,
) -> Compressed:
    """Prune a network to a budget by the default recipe.

    Args:
        model: any network; untouched.
        reference: labelled samples the criterion looks at; the first one is the example input.
        budget: the share that stays.
        criterion: name or object.
        settings: how, see `PruneSettings`.
        train: for fine-tuning.
        val: for choosing the best epoch.
        finetune: training between the steps of an iterative schedule (needs ``train``).

    Returns:
        ``.model``, ``.plan``, ``.history``.

    Raises:
        RequestError: see `secateur.select` and `secateur.trace`.
    """
    return next(
        iter(prune_to_budgets(model, reference, [budget], criterion, settings, train=train, val=val, finetune=finetune))
    )


def prune_to_budgets(
    model: nn.Module,
    reference: ReferenceSet,
    budgets: Sequence[Budget],
    criterion: str | Criterion = "lrp",
    settings: PruneSettings | None = None,
    *,
    structure: Structure | None = None,
    train: Dataset[Any] | None = None,
    val: Dataset[Any] | None = None,
    finetune: TrainSettings | None = None,
) -> Iterator[Compressed]:
    """Networks for several budgets from one run, largest budget first; each plan contains the one before.

    One-shot schedules score once for all budgets. Arguments as in `compress`; all budgets are of one kind.
    """
    settings = settings or PruneSettings()
    chosen = get(criterion)
    if not budgets or len({b.kind for b in budgets}) != 1:
        raise RequestError("give at least one budget, all of one kind")
    ordered = sorted(budgets, key=lambda b: -b.share)
    structure = structure or trace(model, _example(model, reference))
    runner = {"one-shot": _one_shot, "rescored": _rescored, "iterative": _iterative}[settings.schedule]
    if settings.schedule == "iterative" and (train is None or finetune is None or not finetune.epochs):
        raise RequestError("an iterative schedule needs training images and fine-tuning of at least one epoch per step")
    yield from runner(model, structure, reference, ordered, chosen, settings, train, val, finetune)


def _repaired(slim: nn.Module, reference: ReferenceSet, settings: PruneSettings) -> nn.Module:
    if settings.recalibrate:
        place = next(slim.parameters()).device
        recalibrate(slim, (x for x, _ in reference.batches(_WHOLE)), device=place)
    return slim


_WHOLE = 256
"""Samples per pass where statistics are measured; a cumulative average over batches of nearly equal size."""


def _example(model: nn.Module, reference: ReferenceSet) -> torch.Tensor:
    return reference.inputs[:1].to(next(model.parameters()).device)


def _choose(scores: Any, budget: Budget, settings: PruneSettings, within: Plan | None) -> Plan:
    return select(
        scores,
        budget,
        settings.strategy,
        order=settings.order,
        min_keep=settings.min_keep,
        round_to=settings.round_to,
        protect=settings.protect,
        within=within,
    )


def _one_shot(
    model: nn.Module,
    structure: Structure,
    reference: ReferenceSet,
    budgets: Sequence[Budget],
    criterion: Criterion,
    settings: PruneSettings,
    *_: Any,
) -> Iterator[Compressed]:
    scores = score(model, structure, reference, criterion, centred=settings.centred, batch_size=settings.batch_size)
    plan: Plan | None = None
    for budget in budgets:
        plan = _choose(scores, budget, settings, plan)
        slim = prune(model, plan)
        if settings.compensate:
            compensate(slim, model, plan, reference, batch_size=settings.batch_size)
        yield Compressed(_repaired(slim, reference, settings), plan, (Step(budget.share, dict(plan.achieved)),))


def _targets(structure: Structure, budgets: Sequence[Budget], step: float) -> Iterator[tuple[Budget, bool]]:
    """Budgets to pass through, ``step`` apart, and whether each is one that was asked for."""
    at = 1.0
    for budget in budgets:
        count = max(1, round((at - budget.share) / step))
        for index in range(1, count):
            yield Budget.of(budget.kind, at - (at - budget.share) * index / count), False
        yield budget, True
        at = budget.share


def _rescored(
    model: nn.Module,
    structure: Structure,
    reference: ReferenceSet,
    budgets: Sequence[Budget],
    criterion: Criterion,
    settings: PruneSettings,
    *_: Any,
) -> Iterator[Compressed]:
    current = copy.deepcopy(model)
    plan: Plan | None = None
    steps: list[Step] = []
    passes = list(_targets(structure, budgets, settings.step))
    for budget, wanted in track(passes, f"re-scoring by {criterion.name}"):
        plan = _next(current, structure, reference, budget, criterion, settings, plan)
        steps.append(Step(budget.share, dict(plan.achieved)))
        if wanted:
            yield Compressed(_repaired(prune(current, plan), reference, settings), plan, tuple(steps))


def _next(
    current: nn.Module,
    structure: Structure,
    reference: ReferenceSet,
    budget: Budget,
    criterion: Criterion,
    settings: PruneSettings,
    plan: Plan | None,
) -> Plan:
    """Score the masked network as it stands, remove up to ``budget``, and close what goes."""
    scores = score(current, structure, reference, criterion, centred=settings.centred, batch_size=settings.batch_size)
    chosen = _choose(scores, budget, settings, plan)
    fresh = _difference(chosen, plan)
    if settings.compensate:
        mask_and_compensate(current, fresh, reference, batch_size=settings.batch_size)
    else:
        close(current, fresh)
    return chosen


def _difference(plan: Plan, before: Plan | None) -> list[Cut]:
    gone = {} if before is None else {(c.tensor, c.dim): set(c.removed) for c in before.cuts}
    fresh = []
    for cut in plan.cuts:
        removed = tuple(i for i in cut.removed if i not in gone.get((cut.tensor, cut.dim), ()))
        if removed:
            fresh.append(Cut(cut.tensor, cut.dim, cut.role, cut.size, removed))
    return fresh


def _iterative(
    model: nn.Module,
    structure: Structure,
    reference: ReferenceSet,
    budgets: Sequence[Budget],
    criterion: Criterion,
    settings: PruneSettings,
    train: Dataset[Any] | None,
    val: Dataset[Any] | None,
    finetune: TrainSettings | None,
) -> Iterator[Compressed]:
    assert train is not None
    assert finetune is not None
    current: nn.Module = copy.deepcopy(model)
    home = next(model.parameters()).device
    whole = structure.cost()
    alive = np.arange(structure.num_units)  # units of the original that the current network still has
    steps: list[Step] = []
    passes = list(_targets(structure, budgets, settings.step))
    for budget, wanted in track(passes, f"pruning by {criterion.name} and fine-tuning"):
        here = trace(current, _example(current, reference))
        scores = score(current, here, reference, criterion, centred=settings.centred, batch_size=settings.batch_size)
        share = budget.share * getattr(whole, budget.kind) / getattr(here.cost(), budget.kind)
        if share < 1:
            local = _choose(scores, Budget.of(budget.kind, share), settings, None)
            slim = prune(current, local)
            if settings.compensate:
                compensate(slim, current, local, reference, batch_size=settings.batch_size)
            alive = alive[local.keep(here)]
            fit(slim, train, val, finetune)  # ends on the CPU
            current = slim.to(home)
        keep = np.zeros(structure.num_units, bool)
        keep[alive] = True
        plan = Plan.of(
            structure, keep, {"kind": budget.kind, "share": budget.share}, scores.criterion, settings.strategy
        )
        steps.append(Step(budget.share, dict(plan.achieved)))
        if wanted:
            yield Compressed(copy.deepcopy(current), plan, tuple(steps))
