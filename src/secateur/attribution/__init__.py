"""Relevance of inputs and units, by modified gradients."""

from secateur.attribution import composites
from secateur.attribution.composites import Composite, LayerContext
from secateur.attribution.engine import Relevance, UnitStatistics, attribute, unit_statistics
from secateur.attribution.reads import Read, reads
from secateur.attribution.rules import AlphaBeta, Epsilon, Flat, Gamma, Rule, WSquare, ZBox, ZPlus

__all__ = [
    "AlphaBeta",
    "Composite",
    "Epsilon",
    "Flat",
    "Gamma",
    "LayerContext",
    "Read",
    "Relevance",
    "Rule",
    "UnitStatistics",
    "WSquare",
    "ZBox",
    "ZPlus",
    "attribute",
    "composites",
    "reads",
    "unit_statistics",
]
