"""From scores and a budget to a plan."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from secateur.core.errors import RequestError, check_count
from secateur.core.names import did_you_mean
from secateur.criteria import Scores
from secateur.selection.budget import Budget, UnreachableBudgetError, check_budget, check_min_keep, units_to_keep
from secateur.selection.latency import LatencyModel
from secateur.selection.names import STRATEGY_NAMES
from secateur.selection.plan import Plan
from secateur.structure import Group, Structure
from secateur.structure.groups import stays

TOLERANCE = 0.01
"""A budget counts as met within one per cent of the request."""

LATENCY_TOLERANCE = 0.05
"""Predicted latency need not be met closer than it is known."""

UnitCosts = Callable[[np.ndarray], np.ndarray]


def _global(scores: Scores, costs: UnitCosts, keep: np.ndarray) -> np.ndarray:
    return scores.values


def _per_cost(scores: Scores, costs: UnitCosts, keep: np.ndarray) -> np.ndarray:
    return np.asarray(scores.values / np.maximum(costs(keep), 1e-300))


def _per_layer(scores: Scores, costs: UnitCosts, keep: np.ndarray) -> np.ndarray:
    """Rank within the group, as a share of its size: all groups shrink alike."""
    return _standing(scores.values, scores.structure.group_of)


def _isomorphic(scores: Scores, costs: UnitCosts, keep: np.ndarray) -> np.ndarray:
    """Rank within all groups of one make, as a share of their size: only like is compared with like."""
    numbers: dict[tuple[object, ...], int] = {}
    makes = [numbers.setdefault(make, len(numbers)) for make in scores.structure.makes]
    return _standing(scores.values, np.array(makes)[scores.structure.group_of])


def _standing(values: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Rank of each value among those with the same number, as a share: (rank + 1/2) / how many."""
    key = np.empty(len(values))
    for number in np.unique(among):
        members = np.flatnonzero(among == number)
        order = np.argsort(values[members], kind="stable")
        key[members[order]] = (np.arange(len(members)) + 0.5) / len(members)
    return key


STRATEGIES: dict[str, Callable[[Scores, UnitCosts, np.ndarray], np.ndarray]] = dict(
    zip(STRATEGY_NAMES, (_global, _per_cost, _per_layer, _isomorphic), strict=True)
)


@dataclass(frozen=True)
class _Block:
    """Units of one group that go together, so that what stays is a multiple of ``round_to``."""

    key: float
    group: int
    index: int
    units: np.ndarray


def select(
    scores: Scores,
    budget: Budget,
    strategy: str = "global",
    *,
    order: str = "least",
    min_keep: int | float = 1,
    round_to: int | Literal["auto"] = 1,
    protect: Sequence[str] = (),
    within: Plan | None = None,
    latency: LatencyModel | None = None,
) -> Plan:
    """Choose the units that go.

    Units are ranked by one key and removed from the low end until the budget is met. Where the last unit would
    overshoot by more than 1 % of the budget (5 % of a latency), it stays and smaller ones further up go instead, if
    there are any.

    Latency is predicted here, from the measured times of the network's layers at their new sizes; the plan's share is
    called ``latency_predicted``. `secateur.compress`, which has the network, measures it and corrects.

    Args:
        scores: of all units.
        budget: the share that stays.
        strategy: ``global`` (raw scores), ``per-cost`` (score divided by the unit's marginal cost in the budget's
            measure; MACs for unit budgets, milliseconds for latency), ``per-layer`` (rank within the group: the same
            share everywhere) or ``isomorphic`` (rank within all groups of one make, see `Structure.makes`: the same
            share of each make; Fang et al., "Isomorphic pruning for vision models", 2024).
        order: ``least`` relevant first, or ``most``, for control experiments.
        min_keep: units that stay in every group; a fraction below 1 is a share of each group's units in the network
            that was traced, rounded up.
        round_to: units that stay in a group are a multiple of this, wherever it gives any up; ``auto``: what runs
            fast on this machine, measured (see `secateur.selection.LatencyModel.round_to`).
        protect: names of layers whose units all stay.
        within: a plan whose units go first; the new plan contains it.
        latency: predicts times, for latency budgets and ``round_to="auto"``; None: by the layers alone, in batches of 8
            on the CPU.

    Raises:
        RequestError: for unknown names, a budget that cannot be reached (saying what can, and which layer binds), or
            a plan that would change nothing.
    """
    check_scores(scores)
    structure = scores.structure
    check_request(budget, strategy, order, protect, within)
    check_min_keep(min_keep)
    if latency is None and (budget.kind == "latency" or round_to == "auto"):
        latency = LatencyModel.by_table(structure)
    if latency is not None and round_to == "auto":
        round_to = latency.round_to()
    if isinstance(round_to, str):
        raise RequestError(f"round_to must be a number or 'auto', got '{round_to}'")
    check_count("round_to", round_to)
    protected = {structure.group(name).name for name in protect}
    keep = np.ones(structure.num_units, bool) if within is None else within.keep(structure)
    floors = minima(structure, min_keep)
    given = {"min_keep": min_keep != 1, "round_to": round_to != 1, "protect": bool(protect)}
    measure = _Measure(structure, budget, latency, tuple(name for name, on in given.items() if on))
    key = STRATEGIES[strategy](scores, measure.unit_costs, keep)
    key = key if order == "least" else -key
    blocks = sorted(
        (
            block
            for number, group in enumerate(structure.groups)
            if group.name not in protected
            for block in _blocks(number, group, key, keep, floors[group.name], round_to)
        ),
        key=lambda b: (b.key, b.group, b.index),
    )
    keep = _reach(measure, blocks, keep)
    plan = Plan.of(structure, keep, {"kind": budget.kind, "share": budget.share}, scores.criterion, strategy)
    if budget.kind == "latency":
        return replace(plan, achieved={**plan.achieved, "latency_predicted": measure.share(keep)})
    return plan


def check_scores(scores: object) -> None:
    """Refuse what is no `Scores`, saying how to make them."""
    if not isinstance(scores, Scores):
        raise RequestError(
            f"scores must be what secateur.score gives, got {type(scores).__name__}; scores of your own: "
            "secateur.criteria.Scores(structure, values, criterion)"
        )


def check_request(budget: object, strategy: object, order: object, protect: object, within: object) -> None:
    """Refuse arguments of `select` that are of another kind, or names that are not known."""
    check_budget(budget)
    if not isinstance(strategy, str) or strategy not in STRATEGIES:
        meant = did_you_mean(str(strategy), STRATEGIES)
        raise RequestError(f"unknown strategy '{strategy}'{meant}; known: {', '.join(STRATEGIES)}")
    if order not in ("least", "most"):
        raise RequestError(f"unknown order '{order}'; known: least, most")
    check_protect(protect)
    if within is not None and not isinstance(within, Plan):
        raise RequestError(f"within must be a plan that secateur.select gave, got {type(within).__name__}")


def check_protect(protect: object) -> None:
    """Refuse one name where a list of them belongs: its letters are no layers."""
    if isinstance(protect, str) or not isinstance(protect, Sequence):
        example = protect if isinstance(protect, str) else "layer1.0.conv1"
        raise RequestError(f"protect must be a list of layer names, like ['{example}'], got {type(protect).__name__}")


def minima(structure: Structure, min_keep: int | float) -> dict[str, int]:
    """By group, how many units stay at least, of those that the network had when it was traced."""
    whole = structure if structure.origin is None else structure.origin[0]
    sizes = {group.name: group.size for group in whole.groups}
    return {g.name: min(g.size, units_to_keep(min_keep, sizes[g.name])) for g in structure.groups}


@dataclass(frozen=True, eq=False)
class _Measure:
    """What a budget counts, as shares of the whole network, per unit and per layer; and what limits a selection."""

    structure: Structure
    budget: Budget
    latency: LatencyModel | None
    limits: tuple[str, ...]

    @property
    def tolerance(self) -> float:
        return LATENCY_TOLERANCE if self.budget.kind == "latency" else TOLERANCE

    @cached_property
    def _whole(self) -> int:
        return max(1, int(getattr(self.structure.cost(), self.budget.kind)))

    def share(self, keep: np.ndarray) -> float:
        if self.budget.kind == "latency":
            assert self.latency is not None
            return self.latency.share(keep)
        return self.structure.measured(self.budget.kind, keep) / self._whole

    def unit_costs(self, keep: np.ndarray) -> np.ndarray:
        if self.budget.kind == "latency":
            assert self.latency is not None
            return self.latency.unit_costs(keep)
        return self.structure.unit_costs("macs" if self.budget.kind == "units" else self.budget.kind, keep)

    def layers(self, keep: np.ndarray) -> dict[str, float]:
        """What each layer holds of it."""
        if self.budget.kind == "latency":
            assert self.latency is not None
            return self.latency.layers(keep)
        found: dict[str, float] = {}
        if self.budget.kind == "macs":
            for work in self.structure.work:
                left = math.prod(n if unit is None else int(stays(unit, keep).sum()) for n, unit in work.sizes)
                name = work.call.name or "a product of activations"
                found[name] = found.get(name, 0.0) + work.macs * left
            return found
        sizes = {name: list(shape) for name, shape in self.structure.shapes.items()}
        for axis in self.structure.axes:
            sizes[axis.tensor][axis.dim] = int(axis.stays(keep).sum())
        return {layer.name: float(math.prod(sizes[layer.weight])) for layer in self.structure.layers}


def _blocks(number: int, group: Group, key: np.ndarray, keep: np.ndarray, least: int, round_to: int) -> list[_Block]:
    present = group.first + np.flatnonzero(keep[group.units])
    ranked = present[np.argsort(key[present], kind="stable")]
    floor = -(-least // round_to) * round_to
    blocks: list[_Block] = []
    if round_to == 1:
        going = ranked[: max(0, len(ranked) - floor)]
        rows = zip(key[going].tolist(), going.reshape(-1, 1), strict=True)
        return [_Block(value, number, index, units) for index, (value, units) in enumerate(rows)]
    position, left, highest = 0, len(ranked), -np.inf
    while True:
        size = left % round_to or round_to
        if left - size < floor:
            return blocks
        units = ranked[position : position + size]
        # within a group the order must stay, whatever the blocks' means say
        highest = max(highest, float(key[units].mean()))
        blocks.append(_Block(highest, number, len(blocks), units))
        position, left = position + size, left - size


def _reach(measure: _Measure, blocks: list[_Block], keep: np.ndarray) -> np.ndarray:
    def share(removed: list[_Block]) -> float:
        return measure.share(_without(keep, removed))

    target = measure.budget.share * (1 + 1e-9)  # rounding of the share
    if share([]) <= target:
        return keep
    if share(blocks) > target:
        raise _unreachable(measure, _without(keep, blocks))
    low, high = 0, len(blocks)  # share(low blocks) > target >= share(high blocks)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if share(blocks[:middle]) <= target else (middle, high)
    chosen = blocks[:high]
    least = measure.budget.share * (1 - measure.tolerance)
    if share(chosen) < least:
        chosen = _finer(blocks, low, share, least, target) or chosen
    return _without(keep, chosen)


def _without(keep: np.ndarray, removed: list[_Block]) -> np.ndarray:
    result = keep.copy()
    if removed:
        result[np.concatenate([block.units for block in removed])] = False
    return result


def _finer(
    blocks: list[_Block], low: int, share: Callable[[list[_Block]], float], least: float, target: float
) -> list[_Block] | None:
    """Leave out the block that overshoots and look a little further up for smaller ones."""
    chosen, skipped = blocks[:low], {blocks[low].group}
    for block in blocks[low + 1 : low + 400]:
        if block.group in skipped:
            continue
        reached = share([*chosen, block])
        if reached < least:
            skipped.add(block.group)
            continue
        chosen = [*chosen, block]
        if reached <= target:
            return chosen
    return None


def _unreachable(measure: _Measure, least: np.ndarray) -> UnreachableBudgetError:
    share, layers = measure.share(least), measure.layers(least)
    binding = max(layers, key=layers.__getitem__)
    reasons = (item.reason for item in measure.structure.locked if binding in item.layers)
    kind = "predicted latency" if measure.budget.kind == "latency" else measure.budget.kind
    binds = f"layer '{binding}' binds ({next(reasons, 'its group keeps its minimum')})"
    normed = measure.structure.locked_by_norms
    if normed:
        binds += f", and norms lock {normed} channels of the residual stream: stream=True (--stream) lets them go"
    return UnreachableBudgetError(f"{measure.budget.share:.1%} of {kind}", share, binds, measure.limits)
