"""Criteria: a model and a few labelled samples in, one score per unit out."""

from secateur.criteria import (  # noqa: F401 - they register themselves
    activation,
    filters,
    gradient,
    lrp,
    norm,
    parameters,
    random,
    shapley,
    weight,
)
from secateur.criteria.base import (
    Criterion,
    SampleCriterion,
    Scores,
    View,
    get,
    known,
    parse,
    register,
    score,
    score_each,
    with_seed,
)
from secateur.criteria.maps import kept_at

__all__ = [
    "Criterion",
    "SampleCriterion",
    "Scores",
    "View",
    "get",
    "kept_at",
    "known",
    "parse",
    "register",
    "score",
    "score_each",
    "with_seed",
]
