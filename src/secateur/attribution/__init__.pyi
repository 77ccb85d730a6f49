from . import composites
from .collect import UnitStatistics
from .composites import Composite, LayerContext
from .engine import attribute, unit_statistics
from .execution import running
from .feature_maps import maps
from .names import Start
from .operations import treat
from .reading import Read, reads
from .relevance import Relevance
from .rules import AlphaBeta, Epsilon, Flat, Gamma, Pass, PlusWeights, Rule, Stop, WSquare, ZBox, ZPlus

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
