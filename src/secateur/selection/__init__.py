"""Budgets, strategies and plans: pure functions on scores, and on measured times where latency is asked for."""

from secateur.selection.budget import Budget, UnreachableBudgetError
from secateur.selection.latency import LatencyModel
from secateur.selection.nominal import select_nominal
from secateur.selection.plan import Cut, Plan, merge_cuts
from secateur.selection.select import STRATEGIES, select
from secateur.selection.timing import LatencyTable

__all__ = [
    "STRATEGIES",
    "Budget",
    "Cut",
    "LatencyModel",
    "LatencyTable",
    "Plan",
    "UnreachableBudgetError",
    "merge_cuts",
    "select",
    "select_nominal",
]
