"""Selects the plan of a step of a schedule: by settings, by measured latency, and within caps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import nn

from secateur.core.ranks import ranks
from secateur.criteria import Scores
from secateur.pipeline.settings import PruneSettings
from secateur.selection import Budget, LatencyModel, Plan, UnreachableBudgetError, select

if TYPE_CHECKING:
    from secateur.pipeline.latency import LatencyGoal


def choose_plan(
    scores: Scores,
    budget: Budget,
    settings: PruneSettings,
    within: Plan | None,
    latency: LatencyModel | None = None,
) -> Plan:
    """The plan of one step, according to the settings.

    Args:
        scores: scores of the units.
        budget: the share that stays.
        settings: settings of the selection.
        within: a plan whose units are removed in any case.
        latency: model that predicts times, for latency budgets.

    Raises:
        SecateurError: where another rank selected another plan.
    """
    plan = select(
        scores,
        budget,
        settings.strategy,
        order=settings.order,
        min_keep=settings.min_keep,
        max_remove=settings.max_remove,
        round_to=settings.round_to,
        protect=settings.protected(scores.structure),
        within=within,
        latency=latency,
    )
    ranks().check_same("the plan", plan.digest)
    return plan


def settle(
    goal: LatencyGoal | None,
    budget: Budget,
    wanted: bool,
    choose: Callable[[Budget], Plan],
    build: Callable[[Plan], nn.Module],
) -> tuple[Plan, str]:
    """A plan for a budget; requested latencies are measured, those of intermediate steps predicted."""
    if goal is None:
        return choose(budget), ""

    def predicted(share: float) -> Plan:
        return choose(Budget(latency=share))

    if wanted:
        plan, note = goal.reach(budget.share, predicted, build)
    else:
        plan, note = goal.intermediate(budget.share, predicted), ""
    return replace(plan, requested={"kind": budget.kind, "share": budget.share}), note


def as_far_as_capped(choose: Callable[[Budget], Plan], before: Plan | None) -> Callable[[Budget], Plan]:
    """Like ``choose``, but where ``max_remove`` prevents a budget, the plan removes as much as it allows.

    Args:
        choose: function that selects the plan of one step.
        before: the plan before it.
    """

    def chosen(target: Budget) -> Plan:
        try:
            return choose(target)
        except UnreachableBudgetError as error:
            if not error.capped:
                raise
            plan = choose(Budget.of(target.kind, error.least))
            if before is not None and plan.removed == before.removed:
                raise
            return plan

    return chosen
