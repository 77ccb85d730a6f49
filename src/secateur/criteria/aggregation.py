"""Combines figures of channels and samples into scores of units. Axes: N samples, U units."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import numpy as np
import torch

from secateur.attribution import UnitStatistics
from secateur.core.errors import RequestError
from secateur.criteria.names import NORMALISATIONS, REDUCTIONS, check_known
from secateur.structure import Structure


class UnseenError(RequestError):
    """Some layers on which units depend were not seen in the passes over the reference samples.

    Attributes:
        layers: names of these layers.
    """

    def __init__(self, layers: list[str]) -> None:
        self.layers = layers
        more = f" and {len(layers) - 1} more" if len(layers) > 1 else ""
        super().__init__(
            f"nothing was seen of layer '{layers[0]}'{more} in the passes over the reference samples, so that its "
            "units have no score; write it with torch.nn.functional (linear, conv), or use a criterion that needs "
            "weights and losses only: taylor-group, hessian, shapley"
        )


def over_makers(structure: Structure, channels: Mapping[str, np.ndarray]) -> np.ndarray:
    """Sum channel scores over the layers that produce a unit, [..., U].

    Args:
        structure: the units.
        channels: by layer name, [..., C] scores of its output channels; leading dimensions (samples) are kept.

    Raises:
        RequestError: for a layer that produces units and has no scores.
    """
    check_observed(structure, structure.made, channels)
    return summed(structure, structure.made, channels)


def check_observed(
    structure: Structure, units: Mapping[str, np.ndarray], seen: Iterable[str], among: np.ndarray | None = None
) -> None:
    """Refuse to score units by layers that were not seen, as if these layers did nothing.

    Args:
        structure: the units.
        units: by layer, the units that it produces or reads.
        seen: layers that were seen.
        among: units that are scored, [U] bool; None: all.

    Raises:
        UnseenError: naming the first layer that was not seen.
    """
    missing = unobserved(structure, units, seen, among)
    if missing:
        raise UnseenError(missing)


def unmade(structure: Structure) -> np.ndarray:
    """Units that no layer produces as its outputs, such as the columns of a position table, [U] bool."""
    is_made = np.zeros(structure.num_units + 1, bool)
    for rows in structure.made.values():
        is_made[rows] = True
    return ~is_made[:-1]


def without_layers(structure: Structure, layers: Iterable[str]) -> Structure:
    """The same units, as produced and read by the other layers only."""
    gone = set(layers)
    weights = {layer.weight for layer in structure.layers if layer.name in gone}
    return replace(
        structure,
        work=tuple(work for work in structure.work if work.call.name not in gone),
        axes=tuple(axis for axis in structure.axes if axis.tensor not in weights),
    )


def last(values: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Scores in which some units, which cannot be compared, come last: 1 more than all others, [U]."""
    result = values.copy()
    result[which] = values[~which].max(initial=0) + 1
    return result


def unmade_last(structure: Structure, values: np.ndarray) -> np.ndarray:
    """Scores of units by the layers that produce them, where units that no layer produces come last, [U].

    These cannot be compared with others, and score 1 more than all of them.

    Raises:
        RequestError: for units along another dimension of a layer's weight than that of its outputs, such as the heads
            in a weight [inputs, heads, places].
    """
    missing = unmade(structure)
    if not missing.any():
        return values
    layers = {layer.weight: layer.name for layer in structure.layers}
    for axis in structure.axes:
        units = axis.unit[axis.unit >= 0]
        if axis.role == "along" and axis.tensor in layers and missing[units].any():
            raise RequestError(
                f"layer '{layers[axis.tensor]}' has units along dimension {axis.dim} of its weight, which are no "
                "outputs that this criterion could score; use one that is based on the loss: taylor-group, hessian, "
                "shapley"
            )
    return last(values, missing)


def unobserved(
    structure: Structure, units: Mapping[str, np.ndarray], seen: Iterable[str], among: np.ndarray | None = None
) -> list[str]:
    """Layers that produce or read units (of those in ``among``), but were not ``seen``."""
    scored = np.ones(structure.num_units, bool) if among is None else among
    observed = set(seen)
    return [layer for layer, rows in units.items() if layer not in observed and scored[rows[rows >= 0]].any()]


def summed(structure: Structure, units: Mapping[str, np.ndarray], channels: Mapping[str, np.ndarray]) -> np.ndarray:
    """Sum channel scores over the layers that have scores, [..., U]; ``units`` by layer, see `over_makers`."""
    lead = next(iter(channels.values())).shape[:-1] if channels else ()
    result = np.zeros((*lead, structure.num_units))
    for layer, rows in units.items():
        for unit in rows if layer in channels else ():
            belongs = unit >= 0
            _add(result, unit[belongs], channels[layer][..., belongs])
    return result


def _add(result: np.ndarray, units: np.ndarray, values: np.ndarray) -> None:
    if (np.diff(units) > 0).all():  # each unit once, the usual case, is much faster
        result[..., units] += values
    else:
        np.add.at(result.T, units, values.T)


def over_readers(structure: Structure, features: Mapping[str, np.ndarray]) -> np.ndarray:
    """Mean of per-input scores over the layers that read a unit, [U].

    Args:
        structure: the units.
        features: by layer name, [inputs] scores of its input channels or features.

    Raises:
        RequestError: for a layer that reads units and has no scores.
    """
    check_observed(structure, structure.read, features)
    total, count = np.zeros(structure.num_units), np.zeros(structure.num_units)
    for layer, rows in structure.read.items():
        for unit in rows if layer in features else ():
            read = unit >= 0
            np.add.at(total, unit[read], features[layer][read])
            np.add.at(count, unit[read], 1)
    return total / np.maximum(count, 1)


def sample_relevance(
    structure: Structure, statistics: Mapping[str, UnitStatistics], what: str, centred: bool, at: str
) -> np.ndarray:
    """Per-sample unit figures [N, U]: ``relevance`` (centred or not) or ``gradient``, summed over layers.

    The sum is over the layers that produce (``at="makers"``) or read (``at="readers"``) the unit. Layers without
    statistics add nothing.
    """

    def of(item: UnitStatistics) -> torch.Tensor:
        if what == "gradient":
            return item.gradient
        return item.centred() if centred else item.relevance

    figures = {name: of(s).to(torch.float64).cpu().numpy() for name, s in statistics.items()}
    return summed(structure, structure.made if at == "makers" else structure.read, figures)


_REDUCE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "abs": lambda values: np.abs(values).mean(0),
    "square": lambda values: (values**2).mean(0),
    "signed": lambda values: values.mean(0),
    "abs-of-mean": lambda values: np.abs(values.mean(0)),
}


def reduce_samples(values_NU: np.ndarray, how: str) -> np.ndarray:
    """Reduce over samples, [U]: ``abs`` mean |v|, ``square`` mean v², ``signed`` mean v, ``abs-of-mean`` |mean v|."""
    check_known("aggregation", how, REDUCTIONS)
    return np.asarray(_REDUCE[how](values_NU))


def normalise_layers(structure: Structure, values: np.ndarray, how: str | None) -> np.ndarray:
    """Scale each group's scores by their ``l1`` or ``l2`` norm or their ``sum``, as some published scripts do.

    A group whose scores add up to less than 0 changes sign with ``sum``; one whose norm or sum is 0 is not changed.
    """
    check_known("normalisation", how, NORMALISATIONS)
    if how is None:
        return values
    result = values.copy()
    for group in structure.groups:
        part = values[group.units]
        size = float(part.sum() if how == "sum" else np.linalg.norm(part, 1 if how == "l1" else 2))
        result[group.units] = part / size if size else part
    return result
