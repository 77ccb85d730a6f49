"""Pruning to one or several budgets: one-shot, re-scored, or iterative with fine-tuning."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from torch.utils.data import Dataset

from secateur.core.errors import RequestError
from secateur.core.progress import track
from secateur.criteria import Criterion, Scores, get, score
from secateur.data import ReferenceSet
from secateur.pipeline.latency import LatencyGoal, latency_model
from secateur.selection import STRATEGIES, Budget, LatencyModel, Plan, UnreachableBudgetError, select
from secateur.selection.plan import Cut
from secateur.structure import Structure, trace
from secateur.structure.rewritten import bake_weights
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
    round_to: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default=1, description="kept units per group are a multiple of this; auto: what runs fast here, measured"
    )
    protect: tuple[str, ...] = ()
    batch_size: int = Field(default=64, ge=1, description="samples per scoring pass")
    latency_batch: int = Field(default=8, ge=1, description="samples per timed pass, for latency budgets")
    latency_threads: int | None = Field(default=None, ge=1, description="of PyTorch while timing; null: as set")
    latency_channels_last: bool = Field(default=True, description="time in channels-last memory format")
    latency_table: str | None = Field(default=None, description="JSON file that keeps layer times between runs")

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
    """One scoring: what stays after it, and the requested share.

    Attributes:
        requested: share.
        achieved: shares of units, params and macs; with latency budgets also ``latency_predicted``, and ``latency``
            (measured) where a budget was asked for.
        note: what to know when a latency budget was missed by more than 10 %.
    """

    requested: float
    achieved: dict[str, float]
    note: str = ""


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

    Networks for latency budgets are timed in turn with the original (eval mode, ``latency_batch`` reference samples,
    ``latency_threads``), and the request corrected until 5 % are met, or nothing closer is found in some rounds;
    ``plan.achieved["latency"]`` is the measured share. Steps on the way are predicted.
    """
    settings = settings or PruneSettings()
    chosen = get(criterion)
    if not budgets or len({b.kind for b in budgets}) != 1:
        raise RequestError("give at least one budget, all of one kind")
    ordered = sorted(budgets, key=lambda b: -b.share)
    structure = structure or trace(model, _example(model, reference))
    goal = LatencyGoal(model, structure, reference, settings) if ordered[0].kind == "latency" else None
    if settings.round_to == "auto":
        times = latency_model(model, structure, settings) if goal is None else goal.predicted
        settings = settings.model_copy(update={"round_to": times.round_to()})
    runner = {"one-shot": _one_shot, "rescored": _rescored, "iterative": _iterative}[settings.schedule]
    if settings.schedule == "iterative" and (train is None or finetune is None or not finetune.epochs):
        raise RequestError("an iterative schedule needs training images and fine-tuning of at least one epoch per step")
    yield from runner(model, structure, reference, ordered, chosen, settings, goal, train, val, finetune)


def _repaired(slim: nn.Module, reference: ReferenceSet, settings: PruneSettings) -> nn.Module:
    if settings.recalibrate:
        place = next(slim.parameters()).device
        recalibrate(slim, (x for x, _ in reference.batches(_WHOLE)), device=place)
    return slim


_WHOLE = 256
"""Samples per pass where statistics are measured; a cumulative average over batches of nearly equal size."""


def _example(model: nn.Module, reference: ReferenceSet) -> torch.Tensor:
    return reference.inputs[:1].to(next(model.parameters()).device)


def _choose(
    scores: Scores,
    budget: Budget,
    settings: PruneSettings,
    within: Plan | None,
    latency: LatencyModel | None = None,
) -> Plan:
    return select(
        scores,
        budget,
        settings.strategy,
        order=settings.order,
        min_keep=settings.min_keep,
        round_to=settings.round_to,
        protect=settings.protect,
        within=within,
        latency=latency,
    )


def _settle(
    goal: LatencyGoal | None,
    budget: Budget,
    wanted: bool,
    choose: Callable[[Budget], Plan],
    build: Callable[[Plan], nn.Module],
) -> tuple[Plan, str]:
    """A plan for a budget; latency that was asked for is measured, latency on the way to it predicted."""
    if goal is None:
        return choose(budget), ""

    def predicted(share: float) -> Plan:
        return choose(Budget(latency=share))

    if wanted:
        plan, note = goal.reach(budget.share, predicted, build)
    else:
        plan, note = goal.intermediate(budget.share, predicted), ""
    return replace(plan, requested={"kind": budget.kind, "share": budget.share}), note


def _one_shot(
    model: nn.Module,
    structure: Structure,
    reference: ReferenceSet,
    budgets: Sequence[Budget],
    criterion: Criterion,
    settings: PruneSettings,
    goal: LatencyGoal | None,
    *_: Any,
) -> Iterator[Compressed]:
    scores = score(model, structure, reference, criterion, centred=settings.centred, batch_size=settings.batch_size)
    plan: Plan | None = None
    latency = None if goal is None else goal.predicted
    for budget in budgets:

        def choose(target: Budget, within: Plan | None = plan) -> Plan:
            return _choose(scores, target, settings, within, latency)

        plan, note = _settle(goal, budget, True, choose, lambda found: prune(model, found))
        slim = prune(model, plan)
        if settings.compensate:
            compensate(slim, model, plan, reference, batch_size=settings.batch_size)
        yield Compressed(_repaired(slim, reference, settings), plan, (Step(budget.share, dict(plan.achieved), note),))


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
    goal: LatencyGoal | None,
    *_: Any,
) -> Iterator[Compressed]:
    """Score the masked network, remove up to the next budget, close what goes, and score again."""
    current = bake_weights(copy.deepcopy(model), structure)
    plan: Plan | None = None
    steps: list[Step] = []
    latency = None if goal is None else goal.predicted
    passes = list(_targets(structure, budgets, settings.step))
    for budget, wanted in track(passes, f"re-scoring by {criterion.name}"):
        scores = score(
            current, structure, reference, criterion, centred=settings.centred, batch_size=settings.batch_size
        )

        def choose(target: Budget, scores: Scores = scores, within: Plan | None = plan) -> Plan:
            return _choose(scores, target, settings, within, latency)

        if goal is not None and not steps and not wanted:
            goal.learn(budgets[0].share, lambda share: choose(Budget(latency=share)), lambda p: prune(current, p))
        chosen, note = _settle(goal, budget, wanted, choose, lambda found: prune(current, found))
        fresh = _difference(chosen, plan)
        if settings.compensate:
            mask_and_compensate(current, fresh, reference, batch_size=settings.batch_size)
        else:
            close(current, fresh)
        plan = chosen
        steps.append(Step(budget.share, dict(plan.achieved), note))
        if wanted:
            yield Compressed(_repaired(prune(current, plan), reference, settings), plan, tuple(steps))


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
    goal: LatencyGoal | None,
    train: Dataset[Any] | None,
    val: Dataset[Any] | None,
    finetune: TrainSettings | None,
) -> Iterator[Compressed]:
    """Score, remove up to the next budget, fine-tune, and again."""
    assert train is not None
    assert finetune is not None
    current: nn.Module = copy.deepcopy(model)
    home = next(model.parameters()).device
    alive = np.ones(structure.num_units, bool)  # units of the original that the current network still has
    steps: list[Step] = []
    passes = list(_targets(structure, budgets, settings.step))
    for budget, wanted in track(passes, f"pruning by {criterion.name} and fine-tuning"):
        here = structure.reduced(alive)
        scores = score(current, here, reference, criterion, centred=settings.centred, batch_size=settings.batch_size)
        choose = _on_what_is_left(structure, here, scores, alive, settings, goal)

        def local(plan: Plan, here: Structure = here, alive: np.ndarray = alive) -> Plan | None:
            left = plan.keep(structure)[alive]
            return None if left.all() else Plan.of(here, left, {}, plan.criterion, plan.strategy)

        def build(plan: Plan, current: nn.Module = current, local: Callable[[Plan], Plan | None] = local) -> nn.Module:
            fresh = local(plan)
            return current if fresh is None else prune(current, fresh)

        plan, note = _settle(goal, budget, wanted, choose, build)
        fresh = local(plan)
        if fresh is not None:
            slim = prune(current, fresh)
            if settings.compensate:
                compensate(slim, current, fresh, reference, batch_size=settings.batch_size)
            alive = plan.keep(structure)
            fit(slim, train, val, finetune)  # ends on the CPU
            current = slim.to(home)
        steps.append(Step(budget.share, dict(plan.achieved), note))
        if wanted:
            yield Compressed(copy.deepcopy(current), plan, tuple(steps))


def _on_what_is_left(
    structure: Structure,
    here: Structure,
    scores: Scores,
    alive: np.ndarray,
    settings: PruneSettings,
    goal: LatencyGoal | None,
) -> Callable[[Budget], Plan]:
    """Chooses plans of the original network from scores of what it has become; shares are of the original."""
    latency = None if goal is None else goal.of(here)

    def choose(target: Budget) -> Plan:
        kind = target.kind
        if goal is not None and latency is not None:
            whole, now = goal.predicted.milliseconds(), latency.milliseconds()
        else:
            whole, now = getattr(structure.cost(), kind), getattr(here.cost(), kind)
        keep, share = alive.copy(), 1.0
        wanted = target.share * whole / now
        if wanted < 1:
            try:
                local = _choose(scores, Budget.of(kind, wanted), settings, None, latency)
            except UnreachableBudgetError as error:
                asked = f"{target.share:.1%} of {'predicted latency' if kind == 'latency' else kind}"
                raise UnreachableBudgetError(asked, error.least * now / whole, error.binding) from error
            keep[alive] = local.keep(here)
            share = local.achieved.get("latency_predicted", 1.0)
        plan = Plan.of(structure, keep, {"kind": kind, "share": target.share}, scores.criterion, settings.strategy)
        if kind != "latency":
            return plan
        return replace(plan, achieved={**plan.achieved, "latency_predicted": share * now / whole})

    return choose
