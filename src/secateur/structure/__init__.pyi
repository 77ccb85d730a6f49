from .groups import Axis, Call, Cost, Group, Layer, Locked
from .structure import Structure
from .tracing import trace

__all__ = [
    "Axis",
    "Call",
    "Cost",
    "Group",
    "Layer",
    "Locked",
    "Structure",
    "trace",
]
