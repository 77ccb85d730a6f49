"""Removes ranked units until a budget is met, within the limits on units."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from secateur.core.errors import RequestError
from secateur.selection.budget import Budget, Kind, UnreachableBudgetError
from secateur.selection.caps import Bounds
from secateur.selection.latency import LatencyModel
from secateur.structure import Group, Structure
from secateur.structure.groups import stays

TOLERANCE = 0.01
"""A budget counts as met within one per cent of the request."""

LATENCY_TOLERANCE = 0.05
"""Predicted latency need not be met more closely than its accuracy."""


@dataclass(frozen=True, eq=False)
class Measure:
    """The measure of a budget, as shares of the whole network, per unit and per layer; with the limits of a selection.

    Without a budget it counts units.
    """

    structure: Structure
    budget: Budget | None
    latency: LatencyModel | None
    limits: tuple[str, ...]

    @property
    def kind(self) -> Kind:
        """See `Budget.kind`."""
        return "units" if self.budget is None else self.budget.kind

    @property
    def tolerance(self) -> float:
        """How far below a budget a selection may end."""
        return LATENCY_TOLERANCE if self.kind == "latency" else TOLERANCE

    @cached_property
    def _whole(self) -> int:
        return max(1, int(getattr(self.structure.cost(), self.kind)))

    def share(self, keep: np.ndarray) -> float:
        """The share that is left when the units where ``keep`` [U] is true stay."""
        if self.kind == "latency":
            assert self.latency is not None
            return self.latency.share(keep)
        return self.structure.measured(self.kind, keep) / self._whole

    def unit_costs(self, keep: np.ndarray) -> np.ndarray:
        """The marginal cost of each unit, [U]."""
        if self.kind == "latency":
            assert self.latency is not None
            return self.latency.unit_costs(keep)
        return self.structure.unit_costs("macs" if self.kind == "units" else self.kind, keep)

    def layers(self, keep: np.ndarray) -> dict[str, float]:
        """The share of each layer in the measure."""
        if self.kind == "latency":
            assert self.latency is not None
            return self.latency.layers(keep)
        by_layer: dict[str, float] = {}
        if self.kind == "macs":
            for work in self.structure.work:
                remaining = math.prod(n if unit is None else int(stays(unit, keep).sum()) for n, unit in work.sizes)
                name = work.call.name or "a product of activations"
                by_layer[name] = by_layer.get(name, 0.0) + work.macs * remaining
            return by_layer
        sizes = {name: list(shape) for name, shape in self.structure.shapes.items()}
        for axis in self.structure.axes:
            sizes[axis.tensor][axis.dim] = int(axis.stays(keep).sum())
        return {layer.name: float(math.prod(sizes[layer.weight])) for layer in self.structure.layers}


@dataclass(frozen=True, eq=False)
class _Block:
    """Units of one group that are removed together, so that a multiple of ``round_to`` stays."""

    key: float
    group: int
    index: int
    units: np.ndarray


def reach(
    measure: Measure, key: np.ndarray, keep: np.ndarray, bounds: Bounds, settled: Mapping[str, int]
) -> np.ndarray:
    """The units that stay after the lowest were removed until the budget is met.

    Args:
        measure: measure of the budget.
        key: units with the lowest values are removed first, [U].
        keep: units that are left before, [U].
        bounds: limits on the units that are removed.
        settled: groups that are pruned to their given share already, with their number of removed units.

    Raises:
        RequestError: when the budget cannot be reached, or the settled groups leave less than it.
    """
    assert measure.budget is not None
    gone = sum(settled.values())

    def share(removed: list[_Block]) -> float:
        return measure.share(_without(keep, removed))

    target, least = measure.budget.share * (1 + 1e-9), measure.budget.share * (1 - measure.tolerance)
    current = share([])
    if current <= target:
        if gone and current < least:
            raise RequestError(
                f"layer_shares alone leave {current:.1%} of {measure.kind}, less than the budget of "
                f"{measure.budget.share:.1%}; give larger shares, or a smaller budget"
            )
        return keep
    ranked = _ranked(measure.structure, key, keep, bounds, settled)
    most = None if bounds.caps.total is None else bounds.caps.total - gone
    blocks = _first(ranked, most)
    if share(blocks) > target:
        raise _unreachable(measure, bounds, keep, _without(keep, blocks), len(blocks) < len(ranked))
    low, high = 0, len(blocks)  # share(low blocks) > target >= share(high blocks)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if share(blocks[:middle]) <= target else (middle, high)
    selected = blocks[:high]
    if share(selected) < least:
        selected = _finer(ranked, selected, most, share, (least, target)) or selected
    return _without(keep, selected)


def _ranked(
    structure: Structure, key: np.ndarray, keep: np.ndarray, bounds: Bounds, settled: Mapping[str, int]
) -> list[_Block]:
    """Blocks of the groups from which units may be removed, lowest first."""
    blocks: list[_Block] = []
    for number, group in enumerate(structure.groups):
        if group.name in bounds.protected or group.name in settled:
            continue
        floor, cap = bounds.floors[group.name], bounds.caps.groups.get(group.name)
        least = -(-floor // bounds.round_to) * bounds.round_to
        if cap is not None:
            least = max(least, int(keep[group.units].sum()) - cap)
        blocks += _blocks(number, group, key, keep, least, bounds.round_to)
    return sorted(blocks, key=lambda block: (block.key, block.group, block.index))


def _blocks(number: int, group: Group, key: np.ndarray, keep: np.ndarray, least: int, round_to: int) -> list[_Block]:
    present = group.first + np.flatnonzero(keep[group.units])
    ranked = present[np.argsort(key[present], kind="stable")]
    blocks: list[_Block] = []
    if round_to == 1:
        going = ranked[: max(0, len(ranked) - least)]
        rows = zip(key[going].tolist(), going.reshape(-1, 1), strict=True)
        return [_Block(value, number, index, units) for index, (value, units) in enumerate(rows)]
    position, left, highest = 0, len(ranked), -np.inf
    while True:
        size = left % round_to or round_to
        if left - size < least:
            return blocks
        units = ranked[position : position + size]
        # within a group the order is kept, whatever the means of blocks are
        highest = max(highest, float(key[units].mean()))
        blocks.append(_Block(highest, number, len(blocks), units))
        position, left = position + size, left - size


def _first(ranked: list[_Block], most: int | None) -> list[_Block]:
    """The lowest blocks with at most ``most`` units; where one is too large, no more of its group is removed."""
    if most is None:
        return ranked
    selected: list[_Block] = []
    stopped: set[int] = set()
    for block in ranked:
        if block.group in stopped:
            continue
        if len(block.units) > most:
            stopped.add(block.group)
            continue
        selected.append(block)
        most -= len(block.units)
    return selected


def _without(keep: np.ndarray, removed: list[_Block]) -> np.ndarray:
    result = keep.copy()
    if removed:
        result[np.concatenate([block.units for block in removed])] = False
    return result


def _finer(
    ranked: list[_Block],
    selected: list[_Block],
    most: int | None,
    share: Callable[[list[_Block]], float],
    between: tuple[float, float],
) -> list[_Block] | None:
    """Leave out the last block, which overshoots, and search a little further up for smaller ones."""
    (*taken, last), (least, target) = selected, between
    position, taken_ids = next(i for i, block in enumerate(ranked) if block is last), set(map(id, taken))
    # no further blocks of a group of which one was skipped because of a cap
    skipped = {block.group for block in ranked[: position + 1] if id(block) not in taken_ids}
    left = math.inf if most is None else most - sum(len(block.units) for block in taken)
    for block in ranked[position + 1 : position + 400]:
        if block.group in skipped:
            continue
        reached = share([*taken, block])
        if reached < least or len(block.units) > left:
            skipped.add(block.group)
            continue
        taken.append(block)
        left -= len(block.units)
        if reached <= target:
            return taken
    return None


def _unreachable(
    measure: Measure, bounds: Bounds, before: np.ndarray, least: np.ndarray, cut_short: bool
) -> UnreachableBudgetError:
    """The error for a budget that cannot be reached.

    Args:
        measure: measure of the budget.
        bounds: limits on the units that are removed.
        before: units that were left before, [U].
        least: units that stay when all that may be are removed, [U].
        cut_short: whether only the cap on all units keeps more from being removed.
    """
    assert measure.budget is not None
    share, layers = measure.share(least), measure.layers(least)
    binding = max(layers, key=layers.__getitem__)
    capped = [
        group
        for group in measure.structure.groups
        if group.name in bounds.caps.groups
        and group.name not in bounds.protected
        and int(before[group.units].sum()) - bounds.caps.groups[group.name] > bounds.floors[group.name]
    ]
    reasons = [item.reason for item in measure.structure.locked if binding in item.layers]
    reasons += [f"max_remove allows {bounds.caps.groups[g.name]} of its units" for g in capped if binding in g.layers]
    kind = "predicted latency" if measure.kind == "latency" else measure.kind
    binds = f"layer '{binding}' binds ({next(iter(reasons), 'its group keeps its minimum')})"
    if cut_short:
        binds = f"max_remove allows {bounds.caps.total} units"
    normed = measure.structure.locked_by_norms
    if normed:
        binds += f", and norms lock {normed} channels of the residual stream: "
        binds += "stream=True (--stream) allows removing them"
    return UnreachableBudgetError(
        f"{measure.budget.share:.1%} of {kind}", share, binds, measure.limits, cut_short or bool(capped)
    )
