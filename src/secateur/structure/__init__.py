"""What can be removed from a network, found by watching it run once."""

from secateur.structure.groups import Axis, Cost, Group, Layer, Locked, Structure
from secateur.structure.trace import trace

__all__ = ["Axis", "Cost", "Group", "Layer", "Locked", "Structure", "trace"]
