"""Names of the strategies, without what they compute with."""

from __future__ import annotations

AUTO = "auto"
"""In settings: the criterion's own strategy."""

STRATEGY_NAMES = ("global", "per-cost", "per-layer", "isomorphic")
NOMINAL_STRATEGIES = ("per-layer", "global", "isomorphic")
"""Those that a nominal ratio can go by: it counts units, whatever they cost."""
