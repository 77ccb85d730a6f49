"""How figures of channels and samples become scores of units. Axes: N samples, U units."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch

from secateur.attribution import UnitStatistics
from secateur.core.errors import RequestError
from secateur.structure import Structure


def over_makers(structure: Structure, channels: Mapping[str, np.ndarray]) -> np.ndarray:
    """Sum channel scores of the layers that make a unit, [..., U].

    Args:
        structure: the units.
        channels: layer name to [..., C] scores of its output channels; leading dimensions (samples) are kept.
    """
    return _summed(structure, structure.made, channels)


def _summed(structure: Structure, units: Mapping[str, np.ndarray], channels: Mapping[str, np.ndarray]) -> np.ndarray:
    lead = next(iter(channels.values())).shape[:-1] if channels else ()
    result = np.zeros((*lead, structure.num_units))
    for layer, rows in units.items():
        # a layer may be missing: its output does not depend on the input, or does not matter for the logits
        for unit in rows if layer in channels else ():
            belongs = unit >= 0
            _add(result, unit[belongs], channels[layer][..., belongs])
    return result


def _add(result: np.ndarray, units: np.ndarray, values: np.ndarray) -> None:
    if (np.diff(units) > 0).all():  # each once, the usual case: much faster
        result[..., units] += values
    else:
        np.add.at(result.T, units, values.T)


def over_readers(structure: Structure, features: Mapping[str, np.ndarray]) -> np.ndarray:
    """Mean of per-input scores over the layers that read a unit, [U].

    Args:
        structure: the units.
        features: layer name to [inputs] scores of its input channels or features.
    """
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
    """Per-sample unit figures [N, U]: ``relevance`` (centred or not) or ``gradient``, summed over the layers that make
    (``at="makers"``) or read (``at="readers"``) the unit.
    """  # noqa: D205

    def of(item: UnitStatistics) -> torch.Tensor:
        if what == "gradient":
            return item.gradient
        return item.centred() if centred else item.relevance

    found = {name: of(s).to(torch.float64).cpu().numpy() for name, s in statistics.items()}
    return _summed(structure, structure.made if at == "makers" else structure.read, found)


REDUCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "abs": lambda values: np.abs(values).mean(0),
    "square": lambda values: (values**2).mean(0),
    "signed": lambda values: values.mean(0),
    "abs-of-mean": lambda values: np.abs(values.mean(0)),
}


def reduce_samples(values_NU: np.ndarray, how: str) -> np.ndarray:
    """Over samples, [U]: ``abs`` mean |v|, ``square`` mean v², ``signed`` mean v, ``abs-of-mean`` |mean v|."""
    check_known("aggregation", how, REDUCTIONS)
    return np.asarray(REDUCTIONS[how](values_NU))


def check_known(what: str, name: object, known: Iterable[object]) -> None:
    """Refuse a name that is not among the known ones."""
    if name not in list(known):
        listed = ", ".join(str(item) for item in known if item is not None)
        raise RequestError(f"unknown {what} '{name}'; known: {listed}")


NORMALISATIONS = (None, "l1", "l2", "sum")


def normalise_layers(structure: Structure, values: np.ndarray, how: str | None) -> np.ndarray:
    """Scale each group's scores by their ``l1`` or ``l2`` norm or their ``sum``, as some published scripts do.

    A group whose scores add up to less than 0 changes sign with ``sum``; one whose norm or sum is 0 stays as it is.
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
