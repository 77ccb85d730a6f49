"""Relevance of inputs and units, by modified gradients."""

from secateur.attribution import composites
from secateur.attribution.collect import UnitStatistics
from secateur.attribution.composites import Composite, LayerContext
from secateur.attribution.engine import Relevance, attribute, unit_statistics
from secateur.attribution.maps import maps
from secateur.attribution.operations import treat
from secateur.attribution.reads import Read, reads
from secateur.attribution.rules import (
    AlphaBeta,
    Epsilon,
    Flat,
    Gamma,
    Pass,
    PlusWeights,
    Rule,
    Stop,
    WSquare,
    ZBox,
    ZPlus,
)
from secateur.attribution.running import running
from secateur.attribution.starts import Start

__all__ = [
    "AlphaBeta",
    "Composite",
    "Epsilon",
    "Flat",
    "Gamma",
    "LayerContext",
    "Pass",
    "PlusWeights",
    "Read",
    "Relevance",
    "Rule",
    "Start",
    "Stop",
    "UnitStatistics",
    "WSquare",
    "ZBox",
    "ZPlus",
    "attribute",
    "composites",
    "maps",
    "reads",
    "running",
    "treat",
    "unit_statistics",
]
