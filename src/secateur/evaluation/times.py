"""Times as values, without PyTorch."""

from secateur.core.timing import Latency, LatencyShare

__all__ = ["Latency", "LatencyShare"]
