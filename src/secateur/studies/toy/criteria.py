"""Criteria as the published scripts compute them, and all others in the same setting."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from secateur.criteria import Criterion, get, parse

PUBLISHED: dict[str, dict[str, Any]] = {
    "lrp": {"composite": "plus-weights", "start": "logit", "reduce": "signed", "normalise": "sum", "at": "makers"},
    "taylor": {"reduce": "abs-of-mean", "normalise": "l2", "at": "makers"},
    "grad": {"reduce": "abs-of-mean", "normalise": "l2", "at": "makers"},
    "weight": {"p": 1, "normalise": "l1"},
}
"""Scores at the outputs of the hidden linear layers, put together over the reference samples, scaled per layer.

``lrp``: Σ_n R_nj / Σ_j Σ_n R_nj with the z⁺-rule on W⁺ and the true class's logit as start; ``taylor``: |Σ_n x·g| and
``grad``: |Σ_n g|, over their L2 norm in the layer; ``weight``: Σ|w_j| over the layer's sum.
"""


def criterion_for(text: str, seed: int) -> Criterion:
    """A criterion by its text, ``name`` or ``name:key=value,...``; keys override the study's settings.

    Criteria that the study does not have are scaled by their L2 norm per layer where they can be, too.

    Args:
        text: see above.
        seed: of the run, for criteria that draw.

    Raises:
        RequestError: for an unknown name or key.

    Example:
        >>> criterion_for("weight", seed=0)
        Weight(p=1, normalise='l1')
        >>> criterion_for("activation", seed=0)
        Activation(normalise='l2')
    """
    name, given = parse(text)
    plain = get(name)
    takes: set[str] = {field.name for field in fields(plain)} if is_dataclass(plain) else set()
    usual = PUBLISHED.get(name, {"normalise": "l2", "at": "makers"}) | {"seed": seed}
    return get(name, **({key: value for key, value in usual.items() if key in takes} | given))
