"""Shares of a network's cost that add up: each weight counts once, in equal parts for all whose removal saves it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from secateur.structure.groups import Locked

Holders = Mapping[frozenset[int], float]
"""What is saved when any of some groups goes, by their numbers; what no group saves, under the empty set."""


def holders(rest: float, axes: Iterable[np.ndarray], group_of: np.ndarray) -> Holders:
    """Divide a product of sizes by the groups that its elements go with.

    Args:
        rest: factor of the size.
        axes: units of each index of a dimension, [factors, size]; -1: none.
        group_of: number of the group of each unit, [U].

    Example:
        >>> made, read = np.array([[0, 1]]), np.array([[2, 3, -1]])
        >>> found = holders(1.0, [made, read], np.array([0, 0, 1, 1]))
        >>> {tuple(groups): cost for groups, cost in found.items()}
        {(0,): 2.0, (0, 1): 4.0}
    """
    known = np.append(group_of, -1)
    found: dict[frozenset[int], float] = {frozenset(): rest}
    for unit in axes:
        kinds, counts = np.unique(known[unit], axis=1, return_counts=True)
        sets = [frozenset(column[column >= 0].tolist()) for column in kinds.T]
        divided: dict[frozenset[int], float] = defaultdict(float)
        for groups, cost in found.items():
            for more, count in zip(sets, counts.tolist(), strict=True):
                divided[groups | more] += cost * count
        found = divided
    return found


def shared_out(
    costs: Iterable[tuple[str, Holders]], groups: int, locked: Sequence[Locked]
) -> tuple[np.ndarray, np.ndarray]:
    """Divide costs among groups and locked channels.

    An element that goes with several groups counts for each in equal parts: of all groups' savings, the Shapley value.
    What goes with none counts for the locked channels of its layer, by their number.

    Args:
        costs: by the layer that has them.
        groups: how many there are.
        locked: channels that cannot be removed.

    Returns:
        Of each group, and of each entry of ``locked``; what is left of the whole is nobody's.
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
