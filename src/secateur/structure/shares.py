"""Shares of a network's cost that add up: each weight counts once, in equal parts for all whose removal saves it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from secateur.structure.groups import Locked

Holders = Mapping[frozenset[int], float]
"""Cost that is saved when any of some groups is removed, by the groups' numbers; under the empty set, the rest."""


def holders(rest: float, axes: Iterable[np.ndarray], group_of: np.ndarray) -> Holders:
    """Split a product of sizes by the groups with which its elements are removed.

    Args:
        rest: factor of the product.
        axes: units of each index of a dimension, [factors, size]; -1 for none.
        group_of: number of the group of each unit, [U].

    Example:
        >>> out, read = np.array([[0, 1]]), np.array([[2, 3, -1]])
        >>> costs = holders(1.0, [out, read], np.array([0, 0, 1, 1]))
        >>> {tuple(groups): cost for groups, cost in costs.items()}
        {(0,): 2.0, (0, 1): 4.0}
    """
    known = np.append(group_of, -1)
    costs: dict[frozenset[int], float] = {frozenset(): rest}
    for unit in axes:
        kinds, counts = np.unique(known[unit], axis=1, return_counts=True)
        sets = [frozenset(column[column >= 0].tolist()) for column in kinds.T]
        divided: dict[frozenset[int], float] = defaultdict(float)
        for groups, cost in costs.items():
            for more, count in zip(sets, counts.tolist(), strict=True):
                divided[groups | more] += cost * count
        costs = divided
    return costs


def shared_out(
    costs: Iterable[tuple[str, Holders]], groups: int, locked: Sequence[Locked]
) -> tuple[np.ndarray, np.ndarray]:
    """Divide costs among groups and locked channels.

    An element that is removed with several groups counts for each in equal parts: the Shapley value of the groups'
    savings. An element that no group removes counts for the locked channels of its layer, by their number.

    Args:
        costs: pairs (layer, its cost by groups).
        groups: number of groups.
        locked: channels that cannot be removed.

    Returns:
        The cost of each group, and of each entry of ``locked``; the rest of the whole belongs to none of them.
    """
    by_group, by_locked = np.zeros(groups), np.zeros(len(locked))
    of_layer: dict[str, list[int]] = defaultdict(list)
    for number, item in enumerate(locked):
        for name in item.layers:
            of_layer[name].append(number)
    for layer, held in costs:
        for together, cost in held.items():
            if together:
                by_group[list(together)] += cost / len(together)
            elif of_layer[layer]:
                channels = np.array([locked[number].channels for number in of_layer[layer]], np.float64)
                by_locked[of_layer[layer]] += cost * channels / channels.sum()
    return by_group, by_locked
