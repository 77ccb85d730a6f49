"""Prunes a network step by step with training between the steps; saved in a folder, it can be resumed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from secateur.criteria import Criterion, Scores, score
from secateur.data import ReferenceSet
from secateur.pipeline.choice import as_far_as_capped, choose_plan, settle
from secateur.pipeline.repair import Repair
from secateur.pipeline.settings import PruneSettings
from secateur.selection import Budget, Plan, UnreachableBudgetError
from secateur.structure import Structure
from secateur.surgery import prune, read_bundle, save

if TYPE_CHECKING:
    from secateur.pipeline.latency import LatencyGoal


class Stepwise:
    """A network that gets smaller with each `cut`; shares and plans are relative to the original.

    Train ``network`` in place between the cuts.

    Args:
        model: the original; it is not changed.
        structure: structure of the original.
        settings: settings of selection and repair.
        goal: goal of latency budgets.

    Attributes:
        network: the current network.
        plan: plan relative to the original; None before the first cut.

    Example:
        >>> import torch
        >>> from secateur.criteria import get
        >>> from secateur.structure import trace
        >>> net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
        >>> reference = ReferenceSet(torch.randn(6, 4), torch.arange(6) % 2, tuple(range(6)))
        >>> steps = Stepwise(net, trace(net, torch.zeros(1, 4)), PruneSettings())
        >>> for share in (0.75, 0.5):
        ...     _ = steps.cut(reference, get("weight"), Budget(units=share))
        >>> steps.network[0].out_features, len(steps.plan.removed)
        (8, 1)
    """

    def __init__(
        self, model: nn.Module, structure: Structure, settings: PruneSettings, goal: LatencyGoal | None = None
    ) -> None:
        self.original, self.structure, self.settings, self.goal = model, structure, settings, goal
        self.network: nn.Module = copy.deepcopy(model)
        self.plan: Plan | None = None

    @property
    def alive(self) -> np.ndarray:
        """Units of the original that the network still has, [U]."""
        return np.ones(self.structure.num_units, bool) if self.plan is None else self.plan.keep(self.structure)

    def cut(
        self,
        reference: ReferenceSet,
        criterion: Criterion,
        budget: Budget,
        wanted: bool = True,
        repair: Repair | None = None,
    ) -> str:
        """Score the current network and remove units up to a budget.

        Args:
            reference: samples for the criterion.
            criterion: the criterion that scores the units.
            budget: the share of the original that stays.
            wanted: whether the budget was requested, or is an intermediate one; for latency budgets.
            repair: repair of the pruned network; None: that of the settings, on the reference samples.

        Returns:
            A remark on the result, or "".

        Raises:
            UnreachableBudgetError: see `secateur.select`.
        """
        settings, alive = self.settings.of(criterion, self.structure), self.alive
        here = self.structure.reduced(alive)
        scores = score(
            self.network, here, reference, criterion, centred=settings.centred, batch_size=settings.batch_size
        )
        choose = self._chooser(here, scores, alive, settings)
        if self.goal is None:
            choose = as_far_as_capped(choose, self.plan)

        def local(plan: Plan) -> Plan | None:
            left = plan.keep(self.structure)[alive]
            return None if left.all() else Plan.of(here, left, {}, plan.criterion, plan.strategy)

        def build(plan: Plan) -> nn.Module:
            fresh = local(plan)
            return self.network if fresh is None else prune(self.network, fresh)

        plan, note = settle(self.goal, budget, wanted, choose, build)
        fresh = local(plan)
        if fresh is not None:
            repair = Repair(settings, reference) if repair is None else repair
            smaller = prune(self.network, fresh)
            repair(smaller, self.network, fresh)
            self.network = smaller
        self.plan = plan
        return note

    def save(self, folder: Path, record: Mapping[str, Any]) -> None:
        """Save network, plan and a record of plain values; an earlier state there is replaced as a whole.

        Args:
            folder: folder of a bundle.
            record: plain values that belong to this state of the work.
        """
        plan = None if self.plan is None else self.plan.to_json()
        save(self.network, folder, metrics={"plan": plan, "record": dict(record)}, verify=False)

    def resume(self, folder: Path) -> dict[str, Any] | None:
        """Load a saved state; return its record, or None where there is none.

        Args:
            folder: see `save`.

        Raises:
            RequestError: for a folder that holds anything else.
        """
        if not folder.exists():
            return None
        device = next(self.original.parameters()).device
        bundle = read_bundle(folder, copy.deepcopy(self.original).cpu())
        self.network = bundle.model.to(device)
        kept = bundle.metrics
        self.plan = None if kept["plan"] is None else Plan.from_json(kept["plan"])
        record: dict[str, Any] = kept["record"]
        return record

    def _chooser(
        self, here: Structure, scores: Scores, alive: np.ndarray, settings: PruneSettings
    ) -> Callable[[Budget], Plan]:
        """Return a function that selects plans for the original network from scores of the current one."""
        structure, goal = self.structure, self.goal
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
                    local = choose_plan(scores, Budget.of(kind, wanted), settings, None, latency)
                except UnreachableBudgetError as error:
                    request = f"{target.share:.1%} of {'predicted latency' if kind == 'latency' else kind}"
                    raise error.of(request, error.least * now / whole) from error
                keep[alive] = local.keep(here)
                share = local.achieved.get("latency_predicted", 1.0)
            plan = Plan.of(structure, keep, {"kind": kind, "share": target.share}, scores.criterion, settings.strategy)
            if kind != "latency":
                return plan
            return replace(plan, achieved={**plan.achieved, "latency_predicted": share * now / whole})

        return choose
