"""Times and memory as values, without PyTorch."""

from secateur.core.memory import Memory
from secateur.core.timing import Latency, LatencyShare

__all__ = ["Latency", "LatencyShare", "Memory"]
