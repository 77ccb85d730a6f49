from .findings import at_latency, gains, timings
from .page import gain_table, latency_table
from .study import ClassAwareStudy

__all__ = [
    "ClassAwareStudy",
    "at_latency",
    "gain_table",
    "gains",
    "latency_table",
    "timings",
]
