"""Limits of a selection by layer: caps on the units that are removed, and shares of units that stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from secateur.core.errors import RequestError
from secateur.selection.budget import check_max_remove, real_number, units_to_remove
from secateur.structure import Structure

MaxRemove = int | float | Mapping[str, int | float]
"""A number of units or, below 1, a share of them; of all units, or by name of layer."""


def whole_sizes(structure: Structure) -> dict[str, int]:
    """Number of units of each group in the network that was traced."""
    whole = structure if structure.origin is None else structure.origin[0]
    return {group.name: group.size for group in whole.groups}


@dataclass(frozen=True)
class Caps:
    """How many units may be removed.

    Attributes:
        total: number of units of all groups together; None: any number.
        groups: number of units by group; any number of units of groups without an entry.
    """

    total: int | None
    groups: Mapping[str, int]

    @classmethod
    def of(cls, structure: Structure, max_remove: MaxRemove | None) -> Caps:
        """Caps from the argument ``max_remove``; shares are of the units in the network that was traced.

        Raises:
            RequestError: for values that are no caps, unknown layers, or two caps for units of one group.
        """
        check_max_remove(max_remove)
        sizes = whole_sizes(structure)
        if max_remove is None:
            return cls(None, {})
        if not isinstance(max_remove, Mapping):
            units = sum(sizes.values())
            total = units_to_remove(max_remove, units)
            if not total:
                raise RequestError(f"max_remove={max_remove} of {units} units is none; give a larger share")
            return cls(total, {})
        caps = by_group(structure, "max_remove", max_remove)
        return cls(None, {name: units_to_remove(cap, sizes[name]) for name, cap in caps.items()})

    def check(self, removed: Mapping[str, int], asked: str) -> None:
        """Refuse to remove more units than the caps allow.

        Args:
            removed: number of removed units by group.
            asked: the request that removes them, for the message.

        Raises:
            RequestError: naming the first group over its cap, or the total.
        """
        for name, count in removed.items():
            cap = self.groups.get(name)
            if cap is not None and count > cap:
                raise RequestError(f"{asked} removes {count} units of '{name}', max_remove allows {cap}; {_REMEDY}")
        total = sum(removed.values())
        if self.total is not None and total > self.total:
            raise RequestError(f"{asked} removes {total} units, max_remove allows {self.total}; {_REMEDY}")


_REMEDY = "raise it, or ask for less"


def by_group(structure: Structure, what: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by name of layer as values by name of group.

    Args:
        structure: structure of the network.
        what: name of the argument, for the message.
        values: values by name of layer or group.

    Raises:
        RequestError: for unknown layers, or two values for layers of one group.
    """
    by_name: dict[str, Any] = {}
    layer_of: dict[str, str] = {}
    for name, value in values.items():
        group = structure.group(name).name
        if group in by_name and by_name[group] != value:
            raise RequestError(
                f"{what} gives '{layer_of[group]}' {by_name[group]} and '{name}' {value}, but their units can only be "
                "removed together; give one of them"
            )
        by_name[group] = value
        layer_of[group] = name
    return by_name


def check_layer_shares(layer_shares: object) -> None:
    """Refuse anything but a mapping from names of layers to shares in (0, 1].

    Raises:
        RequestError: for anything else.
    """
    if not isinstance(layer_shares, Mapping) or not layer_shares:
        raise RequestError(
            "layer_shares must be shares of units that stay by name of layer, like {'conv1': 0.8}, "
            f"got {layer_shares!r}"
        )
    for name, share in layer_shares.items():
        number = real_number(share)
        if number is None or not 0 < number <= 1:
            raise RequestError(f"layer_shares are shares that stay, in (0, 1], got {share!r} for '{name}'")


@dataclass(frozen=True)
class Bounds:
    """Limits on the units that are removed.

    Attributes:
        floors: least number of units that stay, by group.
        caps: largest numbers of units that are removed.
        protected: groups whose units all stay.
        round_to: numbers of units that stay are multiples of this.
    """

    floors: Mapping[str, int]
    caps: Caps
    protected: frozenset[str]
    round_to: int


def shares_taken(
    structure: Structure, layer_shares: Mapping[str, float], key: np.ndarray, keep: np.ndarray, bounds: Bounds
) -> tuple[np.ndarray, dict[str, int]]:
    """The units that stay after each layer of ``layer_shares`` is pruned to its share.

    Args:
        structure: structure of the network.
        layer_shares: shares of units that stay, of those that the network had when it was traced; rounded down to
            units.
        key: units with the lowest values are removed, [U].
        keep: units that are left before, [U].
        bounds: the other limits.

    Returns:
        The units that stay, [U], and the number of removed units of each group whose share was given.

    Raises:
        RequestError: for unknown layers, and shares that contradict each other or the bounds.
    """
    check_layer_shares(layer_shares)
    sizes, stays = whole_sizes(structure), keep.copy()
    shares = by_group(structure, "layer_shares", layer_shares)
    removed: dict[str, int] = {}
    for name, share in shares.items():
        group = structure.group(name)
        present = group.first + np.flatnonzero(keep[group.units])
        count = int(np.floor(share * sizes[name] + 1e-9))
        asked = f"layer_shares keeps {count} of {sizes[name]} units of '{name}'"
        _check_count(asked, count, len(present), name, bounds)
        removed[name] = len(present) - count
        stays[present[np.argsort(key[present], kind="stable")[: removed[name]]]] = False
    bounds.caps.check(removed, "layer_shares")
    return stays, removed


def _check_count(asked: str, count: int, present: int, name: str, bounds: Bounds) -> None:
    least = bounds.floors[name]
    if count > present:
        raise RequestError(f"{asked}, but {present} are left; give a share that is no larger")
    if name in bounds.protected and count < present:
        raise RequestError(f"{asked}, but protect keeps them all; take it out of one of them")
    if count < least:
        raise RequestError(f"{asked}, but min_keep asks for {least}; give a larger share, or lower min_keep")
    if count % bounds.round_to and count != present:
        raise RequestError(
            f"{asked}, which is no multiple of round_to={bounds.round_to}; give a share that is, or another round_to"
        )


def protected_groups(structure: Structure, protect: Sequence[str]) -> frozenset[str]:
    """Names of the groups of the layers whose units all stay."""
    return frozenset(structure.group(name).name for name in protect)
