"""Names of the steps that criteria share."""

from __future__ import annotations

from collections.abc import Iterable

from secateur.core.errors import RequestError

NORMALISATIONS = (None, "l1", "l2", "sum")
"""Normalisation per layer, see `secateur.criteria.aggregation.normalise_layers`."""

ACTIVATIONS = (None, "relu", "leaky-relu", "sigmoid", "tanh")
"""Activations that criteria of maps may apply to them, see `secateur.criteria.maps`."""

REDUCTIONS = ("abs", "square", "signed", "abs-of-mean")
"""Reduction over samples, see `secateur.criteria.aggregation.reduce_samples`."""


def check_known(what: str, name: object, known: Iterable[object]) -> None:
    """Refuse a name that is not among the known ones."""
    if name not in list(known):
        listed = ", ".join(str(item) for item in known if item is not None)
        raise RequestError(f"unknown {what} '{name}'; known: {listed}")
