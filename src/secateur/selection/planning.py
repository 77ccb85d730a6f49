"""Makes a plan from scores and a budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from secateur.core.errors import RequestError, check_count
from secateur.core.names import did_you_mean
from secateur.criteria import Scores
from secateur.selection.budget import Budget, check_budget, check_min_keep, units_to_keep
from secateur.selection.caps import Bounds, Caps, MaxRemove, protected_groups, shares_taken, whole_sizes
from secateur.selection.latency import LatencyModel
from secateur.selection.names import STRATEGY_NAMES
from secateur.selection.plan import Plan
from secateur.selection.reaching import Measure, reach
from secateur.structure import Structure

UnitCosts = Callable[[np.ndarray], np.ndarray]


def _global(scores: Scores, costs: UnitCosts, keep: np.ndarray) -> np.ndarray:
    return scores.values


def _per_cost(scores: Scores, costs: UnitCosts, keep: np.ndarray) -> np.ndarray:
    return np.asarray(scores.values / np.maximum(costs(keep), 1e-300))


def _per_layer(scores: Scores, costs: UnitCosts, keep: np.ndarray) -> np.ndarray:
    """Rank within the group, as a share of its size: all groups lose the same share."""
    return _standing(scores.values, scores.structure.group_of)


def _isomorphic(scores: Scores, costs: UnitCosts, keep: np.ndarray) -> np.ndarray:
    """Rank within all isomorphic groups, as a share of their size: only units of such groups are compared."""
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


def select(
    scores: Scores,
    budget: Budget | None = None,
    strategy: str = "global",
    *,
    order: str = "least",
    min_keep: int | float = 1,
    max_remove: MaxRemove | None = None,
    layer_shares: Mapping[str, float] | None = None,
    round_to: int | Literal["auto"] = 1,
    protect: Sequence[str] = (),
    within: Plan | None = None,
    latency: LatencyModel | None = None,
) -> Plan:
    """Select the units to remove.

    Units are ranked by one key and removed from the low end until the budget is met. Where the last unit would
    overshoot by more than 1 % of the budget (5 % of a latency), it stays, and smaller ones further up are removed
    instead, if there are any.

    Latency is predicted here, from the measured times of the network's layers at their new sizes; the plan's share is
    called ``latency_predicted``. `secateur.compress`, which has the network, measures it and corrects the plan.

    Args:
        scores: scores of all units.
        budget: the share that stays; None where only ``layer_shares`` are given.
        strategy: ``global`` (raw scores), ``per-cost`` (score divided by the unit's marginal cost in the budget's
            measure; MACs for unit budgets, milliseconds for latency), ``per-layer`` (rank within the group: the same
            share everywhere) or ``isomorphic`` (rank within all isomorphic groups, see `Structure.makes`: the same
            share of each set of such groups; Fang et al., "Isomorphic pruning for vision models", 2024).
        order: remove the ``least`` relevant units first or, for control experiments, the ``most`` relevant.
        min_keep: units that stay in every group; a fraction below 1 is a share of each group's units in the network
            that was traced, rounded up.
        max_remove: largest number of units to remove, in addition to those of ``within``: of all units, or by name of
            layer; a fraction below 1 is a share of the units in the network that was traced, rounded down. With a
            number of all units, only that many units at the low end of the ranking may be removed.
        layer_shares: shares of units that stay by name of layer, of the network that was traced, rounded down to
            units. The group of such a layer is pruned to exactly this share; the others are pruned until the budget is
            met, or not at all without a budget.
        round_to: numbers of units that stay in a group are multiples of this, wherever units are removed; ``auto``: a
            multiple that runs fast on this machine, by measurement (see `secateur.selection.LatencyModel.round_to`).
        protect: names of layers whose units all stay.
        within: a plan whose units are removed first; the new plan contains it.
        latency: predicts times, for latency budgets and ``round_to="auto"``; None: by the layers alone, in batches of 8
            on the CPU.

    Raises:
        RequestError: for unknown names, a budget that cannot be reached (with the share that can, and the layer or cap
            that prevents it), arguments that contradict each other, or a plan that would change nothing.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from secateur.structure import trace
        >>> net = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 3))
        >>> structure = trace(net, torch.zeros(1, 4))
        >>> scores = Scores(structure, np.arange(30.0), "by hand")
        >>> select(scores, Budget(units=0.8), max_remove={"0": 4}).removed
        {'0': (0, 1, 2, 3), '2': (0, 1)}
        >>> select(scores, layer_shares={"2": 0.9}).removed
        {'2': (0, 1)}
    """
    check_scores(scores)
    structure = scores.structure
    check_request(budget, strategy, order, protect, within, layer_shares)
    check_min_keep(min_keep)
    round_to, latency = _rounding(structure, budget, round_to, latency)
    keep = np.ones(structure.num_units, bool) if within is None else within.keep(structure)
    caps = Caps.of(structure, max_remove)
    bounds = Bounds(minima(structure, min_keep), caps, protected_groups(structure, protect), round_to)
    given = {
        "min_keep": min_keep != 1,
        "round_to": round_to != 1,
        "protect": bool(protect),
        "layer_shares": layer_shares is not None,
        "max_remove": max_remove is not None,
    }
    measure = Measure(structure, budget, latency, tuple(name for name, on in given.items() if on))
    key = STRATEGIES[strategy](scores, measure.unit_costs, keep)
    key = key if order == "least" else -key
    settled: Mapping[str, int] = {}
    if layer_shares is not None:
        keep, settled = shares_taken(structure, layer_shares, key, keep, bounds)
    if budget is not None:
        keep = reach(measure, key, keep, bounds, settled)
    requested: dict[str, object] = {} if budget is None else {"kind": budget.kind, "share": budget.share}
    if layer_shares is not None:
        requested["layer_shares"] = dict(layer_shares)
    plan = Plan.of(structure, keep, requested, scores.criterion, strategy)
    if measure.kind == "latency":
        return replace(plan, achieved={**plan.achieved, "latency_predicted": measure.share(keep)})
    return plan


def _rounding(
    structure: Structure, budget: Budget | None, round_to: int | str, latency: LatencyModel | None
) -> tuple[int, LatencyModel | None]:
    """The multiple for numbers of units, as a number, and the model that predicts times, where one is needed."""
    if latency is None and (round_to == "auto" or (budget is not None and budget.kind == "latency")):
        latency = LatencyModel.by_table(structure)
    if latency is not None and round_to == "auto":
        round_to = latency.round_to()
    if isinstance(round_to, str):
        raise RequestError(f"round_to must be a number or 'auto', got '{round_to}'")
    check_count("round_to", round_to)
    return round_to, latency


def check_scores(scores: object) -> None:
    """Refuse anything but `Scores`, and say how to make them."""
    if not isinstance(scores, Scores):
        raise RequestError(
            f"scores must be what secateur.score returns, got {type(scores).__name__}; scores of your own: "
            "secateur.criteria.Scores(structure, values, criterion)"
        )


def check_request(
    budget: object, strategy: object, order: object, protect: object, within: object, layer_shares: object = None
) -> None:
    """Refuse arguments of `select` of a wrong type, and unknown names."""
    if budget is not None or layer_shares is None:
        check_budget(budget)
    if not isinstance(strategy, str) or strategy not in STRATEGIES:
        meant = did_you_mean(str(strategy), STRATEGIES)
        raise RequestError(f"unknown strategy '{strategy}'{meant}; known: {', '.join(STRATEGIES)}")
    if order not in ("least", "most"):
        raise RequestError(f"unknown order '{order}'; known: least, most")
    check_protect(protect)
    if within is not None and not isinstance(within, Plan):
        raise RequestError(f"within must be a plan that secateur.select returned, got {type(within).__name__}")


def check_protect(protect: object) -> None:
    """Refuse one name instead of a list of names, whose letters are no layers."""
    if isinstance(protect, str) or not isinstance(protect, Sequence):
        example = protect if isinstance(protect, str) else "layer1.0.conv1"
        raise RequestError(f"protect must be a list of layer names, like ['{example}'], got {type(protect).__name__}")


def minima(structure: Structure, min_keep: int | float) -> dict[str, int]:
    """By group, the least number of units that stay, of those in the traced network."""
    sizes = whole_sizes(structure)
    return {g.name: min(g.size, units_to_keep(min_keep, sizes[g.name])) for g in structure.groups}
