"""Nominal ratios, as published tables count them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from secateur.core.errors import RequestError
from secateur.criteria import Scores, kept_at
from secateur.selection.plan import Plan
from secateur.selection.planning import STRATEGIES


def select_nominal(
    scores: Scores,
    ratio: float,
    strategy: str = "per-layer",
    *,
    min_keep: int = 1,
    protect: Sequence[str] = (),
    nothing: bool = False,
) -> Plan:
    """Remove a nominal ratio of the units, as published tables count it, whatever that saves.

    Per layer, the floor(ratio · size) lowest of each group go; otherwise the floor(ratio · U) lowest of all, or of all
    groups of one make, among those that are not protected. At least ``min_keep`` stay in each group. OCAP's scores say
    themselves what goes at a ratio, whatever the strategy, see `secateur.criteria.kept_at`: less than the ratio.

    Args:
        scores: of all units.
        ratio: in (0, 1).
        strategy: ``per-layer``, ``global`` or ``isomorphic``; see `select`.
        min_keep: units that stay in every group.
        protect: names of layers whose units all stay.
        nothing: let a plan pass that removes nothing.

    Raises:
        RequestError: for a ratio out of range, another strategy, or a plan that would change nothing.
    """
    structure = scores.structure
    if not 0 < ratio < 1:
        raise RequestError(f"a nominal ratio is the share that goes, in (0, 1), got {ratio}")
    known = [name for name in STRATEGIES if name != "per-cost"]
    if strategy not in known:
        raise RequestError(f"unknown strategy '{strategy}' for a nominal ratio; known: {', '.join(known)}")
    protected = {structure.group(name).name for name in protect}
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
        best = group.first + np.argsort(-scores.values[group.units], kind="stable")[: min(min_keep, group.size)]
        keep[best] |= keep[group.units].sum() < min(min_keep, group.size)
    if keep.all() and not nothing:
        raise RequestError(f"at a nominal ratio of {ratio} nothing goes by {scores.criterion}; ask for a larger one")
    return Plan.of(structure, keep, {"kind": "ratio", "share": ratio}, scores.criterion, strategy, nothing=True)
