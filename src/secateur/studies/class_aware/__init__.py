"""Which criterion keeps some classes best: readings of a comparison over subsets of classes.

The comparison itself is `secateur.compare` with ``subsets``; the recipes ``class-aware-*`` hold the protocols.
"""

from secateur.studies.class_aware.reading import Overhead, at_latency, gains, name_of, overhead, timings

__all__ = ["Overhead", "at_latency", "gains", "name_of", "overhead", "timings"]
