"""Budgets, strategies and plans: pure functions on scores."""

from secateur.selection.budget import Budget
from secateur.selection.plan import Cut, Plan, merge_cuts
from secateur.selection.select import STRATEGIES, select

__all__ = ["STRATEGIES", "Budget", "Cut", "Plan", "merge_cuts", "select"]
