"""Names of the strategies, importable without their dependencies."""

from __future__ import annotations

AUTO = "auto"
"""In settings: the strategy of the criterion."""

STRATEGY_NAMES = ("global", "per-cost", "per-layer", "isomorphic")
NOMINAL_STRATEGIES = ("per-layer", "global", "isomorphic")
"""Strategies for a nominal ratio, which counts units, whatever they cost."""
