"""Nominal ratios, as published tables count them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from secateur.core.errors import RequestError
from secateur.core.names import did_you_mean
from secateur.criteria import Scores, kept_at
from secateur.selection.budget import check_min_keep, real_number
from secateur.selection.caps import Caps, MaxRemove, protected_groups
from secateur.selection.names import NOMINAL_STRATEGIES
from secateur.selection.plan import Plan
from secateur.selection.planning import check_protect, check_scores, minima


def select_nominal(
    scores: Scores,
    ratio: float,
    strategy: str = "per-layer",
    *,
    min_keep: int | float = 1,
    max_remove: MaxRemove | None = None,
    protect: Sequence[str] = (),
    nothing: bool = False,
) -> Plan:
    """Remove a nominal ratio of the units, as published tables count it, whatever that saves.

    With ``per-layer``, the floor(ratio · size) lowest units of each group are removed; otherwise the floor(ratio · U)
    lowest of all units, or of all isomorphic groups, that are not protected. At least ``min_keep`` stay in each group.
    OCAP's scores define themselves what is removed at a ratio, with any strategy: less than the ratio, see
    `secateur.criteria.kept_at`.

    Args:
        scores: scores of all units.
        ratio: share of units to remove, in (0, 1).
        strategy: ``per-layer``, ``global`` or ``isomorphic``; see `select`.
        min_keep: units that stay in every group, or their share of it; see `select`.
        max_remove: largest number of units that may be removed, see `select`. A ratio that removes more is refused,
            so that a network at a nominal ratio has lost that share.
        protect: names of layers whose units all stay.
        nothing: allow a plan that removes nothing.

    Raises:
        RequestError: for a ratio out of range, another strategy, a ratio that removes more than ``max_remove``, or a
            plan that would change nothing.
    """
    check_scores(scores)
    structure = scores.structure
    share = real_number(ratio)
    if share is None or not 0 < share < 1:
        raise RequestError(f"a nominal ratio is the share that is removed, in (0, 1), got {ratio!r}")
    if strategy not in NOMINAL_STRATEGIES:
        meant, known = did_you_mean(str(strategy), NOMINAL_STRATEGIES), ", ".join(NOMINAL_STRATEGIES)
        raise RequestError(f"unknown strategy '{strategy}' for a nominal ratio{meant}; known: {known}")
    check_protect(protect)
    check_min_keep(min_keep)
    floors, caps = minima(structure, min_keep), Caps.of(structure, max_remove)
    protected = protected_groups(structure, protect)
    free = np.ones(structure.num_units, bool)
    for group in structure.groups:
        free[group.units] = group.name not in protected
    goes = np.zeros(structure.num_units, bool)
    if scores.standing:
        goes = free & ~kept_at(scores, ratio)
    else:
        among = {
            "per-layer": structure.group_of,
            "global": np.zeros(structure.num_units, np.int64),
            "isomorphic": np.array([structure.makes.index(make) for make in structure.makes])[structure.group_of],
        }[strategy]
        for number in np.unique(among[free]):
            members = np.flatnonzero(free & (among == number))
            order = np.argsort(scores.values[members], kind="stable")
            goes[members[order[: int(np.floor(ratio * len(members) + 1e-9))]]] = True
    keep = ~goes
    for group in structure.groups:
        least = floors[group.name]
        best = group.first + np.argsort(-scores.values[group.units], kind="stable")[:least]
        keep[best] |= keep[group.units].sum() < least
    caps.check({g.name: int((~keep[g.units]).sum()) for g in structure.groups}, f"a nominal ratio of {ratio}")
    if keep.all() and not nothing:
        raise RequestError(f"at a nominal ratio of {ratio} nothing is removed by {scores.criterion}; give a larger one")
    return Plan.of(structure, keep, {"kind": "ratio", "share": ratio}, scores.criterion, strategy, nothing=True)
