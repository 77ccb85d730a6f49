"""Criteria: a model and a few labelled samples in, one score per unit out."""

from secateur.criteria import activation, gradient, lrp, random, weight  # noqa: F401 - they register themselves
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
)

__all__ = ["Criterion", "SampleCriterion", "Scores", "View", "get", "known", "parse", "register", "score", "score_each"]
