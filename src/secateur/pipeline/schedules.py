"""Schedules: when to score, how much to remove at once, and what to do between scorings."""

from __future__ import annotations

import contextlib
import copy
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch import nn
from torch.utils.data import Dataset

from secateur.core.progress import track
from secateur.criteria import Criterion, Scores, score
from secateur.data import ReferenceSet
from secateur.pipeline.choice import as_far_as_capped, choose_plan, settle
from secateur.pipeline.latency import LatencyGoal
from secateur.pipeline.repair import Repair
from secateur.pipeline.settings import Compressed, PruneSettings, Step
from secateur.pipeline.stepwise import Stepwise
from secateur.selection import Budget, Plan
from secateur.selection.plan import Cut
from secateur.structure import Structure
from secateur.structure.rewritten import bake_weights
from secateur.surgery import mask_and_compensate, prune
from secateur.surgery.pruning import close
from secateur.training import Epoch, TrainSettings, fit


def one_shot(
    model: nn.Module,
    structure: Structure,
    reference: ReferenceSet,
    budgets: Sequence[Budget],
    criterion: Criterion,
    settings: PruneSettings,
    goal: LatencyGoal | None,
    repair: Repair,
    *_: Any,
) -> Iterator[Compressed]:
    """Score once; the plan of each budget is selected independently of the others."""
    clock = Clock()
    with clock("scoring"):
        scores = score(model, structure, reference, criterion, centred=settings.centred, batch_size=settings.batch_size)
    latency = None if goal is None else goal.predicted

    def choose(target: Budget) -> Plan:
        return choose_plan(scores, target, settings, None, latency)

    for budget in track(budgets, f"pruning by {criterion.name}"):
        with clock("surgery", anew=True):
            plan, note = settle(goal, budget, True, choose, lambda found: prune(model, found))
            slim = prune(model, plan)
            fits = repair(slim, model, plan)
        yield Compressed(slim, plan, (Step(budget.share, dict(plan.achieved), note),), clock.seconds(), fits=fits)


class Clock:
    """Adds up seconds by the kind of work."""

    def __init__(self) -> None:
        self._spent: dict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def __call__(self, what: str, anew: bool = False) -> Iterator[None]:
        """Count the time within the context for ``what``; with ``anew`` from 0."""
        if anew:
            self._spent[what] = 0.0
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._spent[what] += time.perf_counter() - begin

    def seconds(self) -> dict[str, float]:
        """All seconds so far."""
        return dict(self._spent)


def targets(budgets: Sequence[Budget], step: float) -> Iterator[tuple[Budget, bool]]:
    """Intermediate and requested budgets, ``step`` apart, and whether each was requested."""
    at = 1.0
    for budget in budgets:
        count = max(1, round((at - budget.share) / step))
        for index in range(1, count):
            yield Budget.of(budget.kind, at - (at - budget.share) * index / count), False
        yield budget, True
        at = budget.share


def _passes(budgets: Sequence[Budget], settings: PruneSettings, steps: list[Step]) -> Iterator[tuple[Budget, bool]]:
    """`targets`, each repeated until it is reached, because a step removes ``max_remove`` units at most.

    Args:
        budgets: see `targets`.
        settings: settings of pruning.
        steps: the steps so far, one for each pass.
    """
    for budget, wanted in targets(budgets, settings.step):
        yield budget, wanted
        while not _reached(budget, settings, steps[-1]):
            yield budget, wanted


def _known(budgets: Sequence[Budget], settings: PruneSettings) -> int | None:
    """Number of passes; None where it depends on what each removes."""
    return None if settings.max_remove is not None else len(list(targets(budgets, settings.step)))


def _reached(budget: Budget, settings: PruneSettings, step: Step) -> bool:
    if settings.max_remove is None or budget.kind == "latency":
        return True
    return step.achieved[budget.kind] <= budget.share * (1 + 1e-9)


def rescored(
    model: nn.Module,
    structure: Structure,
    reference: ReferenceSet,
    budgets: Sequence[Budget],
    criterion: Criterion,
    settings: PruneSettings,
    goal: LatencyGoal | None,
    repair: Repair,
    *_: Any,
) -> Iterator[Compressed]:
    """Score the masked network, select units up to the next budget, mask them, and score again."""
    current = bake_weights(copy.deepcopy(model), structure)
    plan: Plan | None = None
    steps: list[Step] = []
    latency = None if goal is None else goal.predicted
    clock = Clock()
    passes, total = _passes(budgets, settings, steps), _known(budgets, settings)
    for budget, wanted in track(passes, f"re-scoring by {criterion.name}", total):
        with clock("scoring"):
            scores = score(
                current, structure, reference, criterion, centred=settings.centred, batch_size=settings.batch_size
            )

        def choose(target: Budget, scores: Scores = scores, within: Plan | None = plan) -> Plan:
            return choose_plan(scores, target, settings, within, latency)

        if goal is not None and not steps and not wanted:
            goal.learn(budgets[0].share, lambda share: choose(Budget(latency=share)), lambda p: prune(current, p))
        with clock("surgery"):
            stepwise = as_far_as_capped(choose, plan) if goal is None else choose
            chosen, note = settle(goal, budget, wanted, stepwise, lambda found: prune(current, found))
            fresh = _difference(chosen, plan)
            if settings.repair != "none":  # the refit is done at the end; until then means are compensated instead
                mask_and_compensate(current, fresh, repair.samples, batch_size=settings.batch_size)
            else:
                close(current, fresh)
            plan = chosen
        steps.append(Step(budget.share, dict(plan.achieved), note))
        if wanted and _reached(budget, settings, steps[-1]):
            with clock("surgery"):
                slim = prune(current, plan)
                fits = repair(slim, model, plan, compensated=True)
            yield Compressed(slim, plan, tuple(steps), clock.seconds(), fits=fits)


def _difference(plan: Plan, before: Plan | None) -> list[Cut]:
    gone = {} if before is None else {(c.tensor, c.dim): set(c.removed) for c in before.cuts}
    fresh = []
    for cut in plan.cuts:
        removed = tuple(i for i in cut.removed if i not in gone.get((cut.tensor, cut.dim), ()))
        if removed:
            fresh.append(Cut(cut.tensor, cut.dim, cut.role, cut.size, removed))
    return fresh


def iterative(
    model: nn.Module,
    structure: Structure,
    reference: ReferenceSet,
    budgets: Sequence[Budget],
    criterion: Criterion,
    settings: PruneSettings,
    goal: LatencyGoal | None,
    repair: Repair,
    train: Dataset[Any] | None,
    val: Dataset[Any] | None,
    finetune: TrainSettings | None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> Iterator[Compressed]:
    """Score, remove units up to the next budget, fine-tune, and repeat; epochs are counted over all steps."""
    assert train is not None
    assert finetune is not None
    home = next(model.parameters()).device
    stepwise = Stepwise(model, structure, settings, goal)
    steps: list[Step] = []
    passes, total = _passes(budgets, settings, steps), _known(budgets, settings)
    for budget, wanted in track(passes, f"pruning by {criterion.name} and fine-tuning", total):
        before = stepwise.plan
        note = stepwise.cut(reference, criterion, budget, wanted, repair)
        plan = stepwise.plan
        assert plan is not None
        if before is None or plan.removed != before.removed:
            teacher = None if finetune.distillation is None else model
            numbered = _counted_on(on_epoch, len(steps) * finetune.epochs)
            fit(stepwise.network, train, val, finetune, teacher=teacher, on_epoch=numbered)
            stepwise.network.to(home)  # training ends on the CPU
        steps.append(Step(budget.share, dict(plan.achieved), note))
        if wanted and _reached(budget, settings, steps[-1]):
            yield Compressed(copy.deepcopy(stepwise.network), plan, tuple(steps))


def _counted_on(on_epoch: Callable[[Epoch], None] | None, before: int) -> Callable[[Epoch], None] | None:
    """Report epochs with their number over all steps."""
    if on_epoch is None:
        return None
    return lambda epoch: on_epoch(replace(epoch, index=before + epoch.index))
