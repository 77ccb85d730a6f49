"""Plans: which units are removed, and which indices of which tensors that cuts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from secateur.core.errors import RequestError
from secateur.core.html import table_html
from secateur.criteria import Scores
from secateur.selection.budget import Budget
from secateur.selection.indices import units_left
from secateur.structure import Structure
from secateur.structure.attention import Heads
from secateur.structure.calls import kind
from secateur.structure.corrections import Correction
from secateur.structure.groups import Role

PLAN_VERSION = 3
READABLE = (2, 3)
"""Versions that `Plan.from_json` accepts."""


@dataclass(frozen=True)
class Cut:
    """Indices that are removed from one dimension of one tensor.

    Attributes:
        tensor: name in the network's state.
        dim: the dimension; size: its length before.
        role: see `secateur.structure.Axis`.
        removed: sorted indices.
    """

    tensor: str
    dim: int
    role: Role
    size: int
    removed: tuple[int, ...]

    def kept(self) -> np.ndarray:
        """Indices that stay."""
        return np.setdiff1d(np.arange(self.size), np.array(self.removed, np.int64))


@dataclass(frozen=True)
class Edits:
    """All edits that surgery makes to a network, as plain values.

    Attributes:
        cuts: indices that are removed from tensors.
        attributes: new values of modules' integer attributes, by path and name.
        corrections: by path, corrections of single calls that name sizes in modules' own code.
        heads: by path, sizes of PyTorch's attention modules.
        code: by path, steps of modules whose own code names sizes and cannot be corrected, and is rewritten.
        masks: for a masked network instead: by path, code of modules whose norms run over the units that stay.
        calls: arguments of the calls for which all this is right, by name, as plain values.
        stream: whether norms run over the channels that stay.
        lengths: whether the network's code compares lengths, so that calls of other lengths may run other code.
    """

    cuts: tuple[Cut, ...] = ()
    attributes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    corrections: Mapping[str, tuple[Correction, ...]] = field(default_factory=dict)
    heads: Mapping[str, Heads] = field(default_factory=dict)
    code: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    masks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    calls: tuple[Any, ...] = ()
    stream: bool = False
    lengths: bool = False

    def then(self, after: Edits) -> Edits:
        """One set of edits equal to these edits followed by ``after`` (on the already smaller network)."""
        attributes = {path: dict(values) for path, values in self.attributes.items()}
        for path, values in after.attributes.items():
            attributes.setdefault(path, {}).update(values)
        code = dict(self.code)
        for path, steps in after.code.items():
            # code is recorded for whole modules: the later one applies; parameters were replaced permanently before
            replaced = {key: code[path][key] for key in ("baked", "dropped") if key in code.get(path, {})}
            code[path] = {**replaced, **steps}
        return Edits(
            merge_cuts(self.cuts, after.cuts),
            attributes,
            {**self.corrections, **after.corrections},  # for whole modules, like their code
            {**self.heads, **after.heads},
            code,
            calls=_common(self.calls, after.calls, self.lengths) if self.cuts else after.calls,
            stream=self.stream or after.stream,
            lengths=self.lengths or after.lengths,
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "cuts": [asdict(cut) for cut in self.cuts],
            "attributes": {path: dict(values) for path, values in self.attributes.items()},
            "corrections": {path: [c.to_json() for c in found] for path, found in self.corrections.items()},
            "heads": {path: heads.to_json() for path, heads in self.heads.items()},
            "code": dict(self.code),
            "masks": dict(self.masks),
            "calls": list(self.calls),
            "stream": self.stream,
            "lengths": self.lengths,
        }

    @classmethod
    def from_json(cls, value: Any) -> Edits:
        """Read `to_json` back; raises TypeError, KeyError or ValueError for anything else."""
        return cls(
            tuple(cut_from_json(c) for c in value["cuts"]),
            {str(p): {str(n): int(v) for n, v in values.items()} for p, values in value["attributes"].items()},
            {str(p): tuple(map(Correction.from_json, made)) for p, made in value.get("corrections", {}).items()},
            {str(p): Heads.from_json(heads) for p, heads in value.get("heads", {}).items()},
            {str(p): dict(steps) for p, steps in value["code"].items()},
            {str(p): dict(steps) for p, steps in value.get("masks", {}).items()},
            tuple(value.get("calls", ())),
            bool(value.get("stream", False)),
            bool(value.get("lengths", False)),
        )


def _common(first: tuple[Any, ...], then: tuple[Any, ...], lengths: bool) -> tuple[Any, ...]:
    """Calls of the same kind as one of the other edits."""
    kinds = {kind(call, lengths) for call in first}
    return tuple(call for call in then if kind(call, lengths) in kinds)


@dataclass(frozen=True, repr=False)
class Plan:
    """A frozen selection of units to remove, which can be applied again from JSON.

    Attributes:
        fingerprint: fingerprint of the network for which it was made; weights: names of the weights over which the
            fingerprint is computed.
        removed: by group name, the positions of its units that are removed.
        edits: the edits of surgery for this: cuts of tensors, and what keeps the network's code right.
        requested: ``{"kind": ..., "share": ...}`` of a budget, and ``layer_shares``, where given; achieved: shares of
            units, params and macs that stay.
        criterion: criterion that ranked the units; strategy: the strategy.
        inputs: shapes and types of the tensors with which the network was traced.
        notes: remarks, one line each, such as layers of which almost nothing is left; they do not count for equality
            or the digest.
    """

    fingerprint: str
    weights: tuple[str, ...]
    removed: Mapping[str, tuple[int, ...]]
    edits: Edits
    requested: Mapping[str, Any]
    achieved: Mapping[str, float]
    criterion: str
    strategy: str
    inputs: Any
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """Indices that are removed from tensors."""
        return self.edits.cuts

    @classmethod
    def of(
        cls,
        structure: Structure,
        keep: np.ndarray,
        requested: Mapping[str, Any],
        criterion: str,
        strategy: str,
        *,
        nothing: bool = False,
    ) -> Plan:
        """The plan that keeps the units where ``keep`` [U] is true.

        Raises:
            RequestError: when nothing would change, unless ``nothing`` allows it.
        """
        if keep.all() and not nothing:
            raise RequestError("the plan would remove nothing; ask for a smaller budget")
        removed = {
            g.name: tuple(int(i) for i in np.flatnonzero(~keep[g.units]))
            for g in structure.groups
            if not keep[g.units].all()
        }
        cuts = []
        for axis in structure.axes:
            where = np.flatnonzero(~axis.stays(keep))
            if len(where):
                cuts.append(Cut(axis.tensor, axis.dim, axis.role, axis.unit.shape[1], tuple(int(i) for i in where)))
        achieved = structure.cost(keep).share_of(structure.cost())
        return cls(
            structure.fingerprint,
            tuple(layer.weight for layer in structure.layers),
            removed,
            _edits(structure, keep, tuple(cuts)),
            dict(requested),
            achieved,
            criterion,
            strategy,
            structure.inputs,
            _notes(structure, keep),
        )

    @classmethod
    def from_indices(
        cls,
        structure: Structure,
        indices: Mapping[str, Sequence[int] | np.ndarray],
        *,
        removed: bool = True,
        criterion: str = "indices",
    ) -> Plan:
        """The plan that removes, or keeps, given outputs of layers, for instance those that another program selected.

        Layers that are not named keep all outputs, except those that share units with a named layer.

        Args:
            structure: structure of the network.
            indices: by name of layer, indices of its outputs: channels of convolutions, neurons. For layers with
                several outputs per unit (heads, groups), all outputs of a unit.
            removed: True: these outputs are removed; False: they stay.
            criterion: name of the criterion, for records.

        Raises:
            RequestError: for unknown layers, indices out of range or given twice, outputs that cannot be removed alone,
                layers that contradict each other about shared units, or when nothing would be removed, or nothing of a
                layer stay.

        Example:
            >>> import torch
            >>> from torch import nn
            >>> from secateur.structure import trace
            >>> net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
            >>> structure = trace(net, torch.zeros(1, 4))
            >>> Plan.from_indices(structure, {"0": [1, 4]}).removed
            {'0': (1, 4)}
            >>> Plan.from_indices(structure, {"0": [1, 4]}, removed=False).removed
            {'0': (0, 2, 3, 5)}
        """
        return cls.of(structure, units_left(structure, indices, removed), {}, criterion, "given")

    def keep(self, structure: Structure) -> np.ndarray:
        """Which units of the structure stay, [U] bool.

        Raises:
            RequestError: for a structure of another network.
        """
        if structure.fingerprint != self.fingerprint:
            raise RequestError(
                f"the plan is for another network: its fingerprint is {self.fingerprint}, "
                f"this one's {structure.fingerprint}"
            )
        keep = np.ones(structure.num_units, bool)
        for group in structure.groups:
            keep[group.first + np.array(self.removed.get(group.name, ()), np.int64)] = False
        return keep

    @property
    def digest(self) -> str:
        """Short hash of the removed units and of how they were ranked, without measured figures and notes."""
        values = {key: value for key, value in self.to_json().items() if key not in ("achieved", "notes")}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "version": PLAN_VERSION,
            "fingerprint": self.fingerprint,
            "weights": list(self.weights),
            "removed": {name: list(units) for name, units in self.removed.items()},
            "edits": self.edits.to_json(),
            "requested": dict(self.requested),
            "achieved": dict(self.achieved),
            "criterion": self.criterion,
            "strategy": self.strategy,
            "inputs": self.inputs,
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, value: Any) -> Plan:
        """Read `to_json` back; anything else raises `RequestError`."""
        try:
            if value["version"] not in READABLE:
                raise RequestError(f"the plan has version {value['version']}, this program reads {READABLE}")
            return cls(
                str(value["fingerprint"]),
                tuple(str(name) for name in value["weights"]),
                {str(k): tuple(int(i) for i in v) for k, v in value["removed"].items()},
                Edits.from_json(value["edits"]),
                dict(value["requested"]),
                {str(k): float(v) for k, v in value["achieved"].items()},
                str(value["criterion"]),
                str(value["strategy"]),
                value["inputs"],
                tuple(str(note) for note in value.get("notes", ())),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, RequestError):
                raise
            raise RequestError(f"this is not a plan ({type(error).__name__}: {error})") from error

    @property
    def summary(self) -> str:
        """In one line: the number of removed units, the criterion, the request, and the shares that stay."""
        stays = ", ".join(f"{name} {share:.1%}" for name, share in self.achieved.items())
        share, shares = self.requested.get("share"), self.requested.get("layer_shares") or {}
        wishes = [] if share is None else [f"{self.requested.get('kind')} {share:.1%}"]
        wishes += [f"shares of {len(shares)} layer{'s' * (len(shares) > 1)}"] * bool(shares)
        requested = " and ".join(wishes) or "free choice"
        count = sum(len(v) for v in self.removed.values())
        units = f"{count} units are removed by {self.criterion} ({self.strategy})"
        return f"{units}; requested: {requested}; stays: {stays}"

    def __str__(self) -> str:
        return "\n".join([self.summary, *(f"note: {note}" for note in self.notes)])

    def __repr__(self) -> str:
        return f"Plan({self.summary})"

    def _repr_html_(self) -> str:
        """Removed units by group as HTML, for notebooks."""
        rows = sorted(((name, len(units)) for name, units in self.removed.items()), key=lambda row: -row[1])
        return table_html(("group", "removed units"), rows, str(self))


ALMOST_EMPTY = 0.1
"""Share of a group's units at and below which a plan notes that almost nothing is left."""


def _notes(structure: Structure, keep: np.ndarray) -> tuple[str, ...]:
    """One line about the layers that a plan almost empties; none when there are no such layers."""
    sizes = [(group, int(keep[group.units].sum())) for group in structure.groups]
    # one unit of two is a half; one of three may be what min_keep keeps
    emptied = [(g, n) for g, n in sizes if n < g.size / 2 and n <= max(1, ALMOST_EMPTY * g.size)]
    if not emptied:
        return ()
    emptied.sort(key=lambda item: item[1] / item[0].size)
    named = ", ".join(f"{group.name} ({n} of {group.size} units left)" for group, n in emptied[:_TOLD])
    more = f" and {len(emptied) - _TOLD} more" if len(emptied) > _TOLD else ""
    return (f"almost emptied: {named}{more}; a share such as min_keep=0.2 keeps more of each layer",)


_TOLD = 3
"""Number of layers that a note names."""


def check_plan(plan: object) -> None:
    """Refuse anything but a `Plan`, and say how to make one.

    Raises:
        RequestError: for anything else.
    """
    if isinstance(plan, Plan):
        return
    remedies = {
        dict: "secateur.Plan.from_json(...) reads it",
        str: "json.loads its text, and secateur.Plan.from_json reads that",
        Scores: "secateur.select(scores, budget) makes one of scores",
        Budget: "secateur.select(scores, budget) makes one, secateur.compress(model, reference, budget) does all of it",
    }
    hint = next((text for kind, text in remedies.items() if isinstance(plan, kind)), "secateur.select makes one")
    raise RequestError(f"a plan must be a secateur.Plan, got {type(plan).__name__}; {hint}")


def _edits(structure: Structure, keep: np.ndarray, cuts: tuple[Cut, ...]) -> Edits:
    needs = structure.changes(keep)
    attributes: dict[str, dict[str, int]] = {}
    for (path, name), value in needs.attributes.items():
        attributes.setdefault(path, {})[name] = value
    return Edits(
        cuts, attributes, needs.corrections, needs.heads, needs.code, structure.masks(keep), structure.given,
        structure.stream, structure.compares_lengths,
    )  # fmt: skip


def cut_from_json(value: Any) -> Cut:
    """One cut from plain values."""
    removed = tuple(int(i) for i in value["removed"])
    size = int(value["size"])
    if value["role"] not in ("in", "out", "along") or any(not 0 <= i < size for i in removed):
        raise ValueError(f"cut of '{value['tensor']}' is out of range")
    return Cut(str(value["tensor"]), int(value["dim"]), value["role"], size, removed)


def merge_cuts(first: Iterable[Cut], then: Iterable[Cut]) -> tuple[Cut, ...]:
    """One set of cuts equal to ``first`` followed by ``then`` (on the already smaller tensors)."""
    merged = {(c.tensor, c.dim): c for c in first}
    for cut in then:
        before = merged.get((cut.tensor, cut.dim))
        if before is None:
            merged[(cut.tensor, cut.dim)] = cut
            continue
        stays = before.kept()
        gone = {*before.removed, *(int(stays[i]) for i in cut.removed)}
        merged[(cut.tensor, cut.dim)] = Cut(cut.tensor, cut.dim, cut.role, before.size, tuple(sorted(gone)))
    return tuple(merged.values())
