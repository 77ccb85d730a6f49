"""From scores and a budget to a plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from secateur.core.errors import RequestError
from secateur.criteria import Scores
from secateur.selection.budget import Budget
from secateur.selection.plan import Plan
from secateur.structure import Group, Structure

TOLERANCE = 0.01
"""A budget counts as met within one per cent of the request."""


def _global(scores: Scores, budget: Budget, keep: np.ndarray) -> np.ndarray:
    return scores.values


def _per_cost(scores: Scores, budget: Budget, keep: np.ndarray) -> np.ndarray:
    costs = scores.structure.unit_costs("macs" if budget.kind == "units" else budget.kind, keep)
    return np.asarray(scores.values / np.maximum(costs, 1e-300))


def _per_layer(scores: Scores, budget: Budget, keep: np.ndarray) -> np.ndarray:
    """Rank within the group, as a share of its size: all groups shrink alike."""
    key = np.empty(len(scores.values))
    for group in scores.structure.groups:
        order = np.argsort(scores.values[group.units], kind="stable")
        ranks = np.empty(group.size)
        ranks[order] = (np.arange(group.size) + 0.5) / group.size
        key[group.units] = ranks
    return key


STRATEGIES: dict[str, Callable[[Scores, Budget, np.ndarray], np.ndarray]] = {
    "global": _global,
    "per-cost": _per_cost,
    "per-layer": _per_layer,
}


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
    min_keep: int = 1,
    round_to: int = 1,
    protect: Sequence[str] = (),
    within: Plan | None = None,
) -> Plan:
    """Choose the units that go.

    Units are ranked by one key and removed from the low end until the budget is met. Where the last unit would
    overshoot by more than 1 % of the budget, it stays and smaller ones further up go instead, if there are any.

    Args:
        scores: of all units.
        budget: the share that stays.
        strategy: ``global`` (raw scores), ``per-cost`` (score divided by the unit's marginal cost in the budget's
            measure; MACs for unit budgets) or ``per-layer`` (rank within the group: the same share everywhere).
        order: ``least`` relevant first, or ``most``, for control experiments.
        min_keep: units that stay in every group.
        round_to: units that stay in a group are a multiple of this, wherever it gives any up.
        protect: names of layers whose units all stay.
        within: a plan whose units go first; the new plan contains it.

    Raises:
        RequestError: for unknown names, a budget that cannot be reached (saying what can, and which layer binds), or
            a plan that would change nothing.
    """
    structure = scores.structure
    if strategy not in STRATEGIES:
        raise RequestError(f"unknown strategy '{strategy}'; known: {', '.join(STRATEGIES)}")
    if order not in ("least", "most"):
        raise RequestError(f"unknown order '{order}'; known: least, most")
    if min_keep < 1 or round_to < 1:
        raise RequestError(f"min_keep and round_to must be at least 1, got {min_keep} and {round_to}")
    protected = {structure.group(name).name for name in protect}
    keep = np.ones(structure.num_units, bool) if within is None else within.keep(structure)
    key = STRATEGIES[strategy](scores, budget, keep)
    key = key if order == "least" else -key
    blocks = sorted(
        (
            block
            for number, group in enumerate(structure.groups)
            if group.name not in protected
            for block in _blocks(number, group, key, keep, min_keep, round_to)
        ),
        key=lambda b: (b.key, b.group, b.index),
    )
    whole = getattr(structure.cost(), budget.kind)
    keep = _reach(structure, blocks, keep, budget.kind, budget.share * whole, budget)
    return Plan.of(structure, keep, {"kind": budget.kind, "share": budget.share}, scores.criterion, strategy)


def _blocks(number: int, group: Group, key: np.ndarray, keep: np.ndarray, min_keep: int, round_to: int) -> list[_Block]:
    present = group.first + np.flatnonzero(keep[group.units])
    ranked = present[np.argsort(key[present], kind="stable")]
    floor = -(-min(min_keep, group.size) // round_to) * round_to
    blocks: list[_Block] = []
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


def _reach(
    structure: Structure, blocks: list[_Block], keep: np.ndarray, kind: str, target: float, budget: Budget
) -> np.ndarray:
    def cost(removed: list[_Block]) -> float:
        trial = keep.copy()
        for block in removed:
            trial[block.units] = False
        return float(getattr(structure.cost(trial), kind))

    slack = 1e-9 * target  # rounding of the share
    if cost([]) <= target + slack:
        return keep
    if cost(blocks) > target + slack:
        raise RequestError(_unreachable(structure, blocks, keep, kind, budget))
    low, high = 0, len(blocks)  # cost(low blocks) > target >= cost(high blocks)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if cost(blocks[:middle]) <= target + slack else (middle, high)
    chosen = blocks[:high]
    if cost(chosen) < target * (1 - TOLERANCE):
        chosen = _finer(blocks, low, cost, target, slack) or chosen
    result = keep.copy()
    for block in chosen:
        result[block.units] = False
    return result


def _finer(
    blocks: list[_Block], low: int, cost: Callable[[list[_Block]], float], target: float, slack: float
) -> list[_Block] | None:
    """Leave out the block that overshoots and look a little further up for smaller ones."""
    chosen, skipped = blocks[:low], {blocks[low].group}
    for block in blocks[low + 1 : low + 400]:
        if block.group in skipped:
            continue
        reached = cost([*chosen, block])
        if reached < target * (1 - TOLERANCE):
            skipped.add(block.group)
            continue
        chosen = [*chosen, block]
        if reached <= target + slack:
            return chosen
    return None


def _unreachable(structure: Structure, blocks: list[_Block], keep: np.ndarray, kind: str, budget: Budget) -> str:
    least = keep.copy()
    for block in blocks:
        least[block.units] = False
    whole, smallest = structure.cost(), structure.cost(least)
    share = getattr(smallest, kind) / max(1, getattr(whole, kind))
    # what is left when everything that may go has gone
    sizes = {name: list(shape) for name, shape in structure.shapes.items()}
    for axis in structure.axes:
        sizes[axis.tensor][axis.dim] = int(((axis.unit < 0) | least[axis.unit]).sum())
    weights = {
        layer.name: float(np.prod(sizes[layer.weight])) * (layer.positions if kind == "macs" else 1)
        for layer in structure.layers
    }
    binding = max(weights, key=weights.__getitem__)
    reason = next((k.reason for k in structure.locked if binding in k.layers), "its group keeps its minimum")
    return (
        f"a budget of {budget.share:.1%} of {kind} cannot be reached: at least {share:.1%} stays; "
        f"layer '{binding}' binds ({reason}); ask for more, or lower min_keep, round_to or protect"
    )
