"""What can be removed from a network, found by watching it run once."""

from secateur.structure.groups import Axis, Call, Cost, Group, Layer, Locked
from secateur.structure.structure import Structure
from secateur.structure.trace import trace

__all__ = ["Axis", "Call", "Cost", "Group", "Layer", "Locked", "Structure", "trace"]
