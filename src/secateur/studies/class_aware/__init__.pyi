from .reading import Overhead, at_latency, gains, name_of, overhead, timings

__all__ = [
    "Overhead",
    "at_latency",
    "gains",
    "name_of",
    "overhead",
    "timings",
]
