"""Whole experiments in memory: one-shot, re-scored, iterative, compared."""

from secateur.pipeline.compare import COLUMNS, CompareSettings, compare, write_table
from secateur.pipeline.compress import Compressed, PruneSettings, Step, compress, prune_to_budgets
from secateur.pipeline.explain import Explanation, explain, strongest_units
from secateur.pipeline.recipe import Recipe, known_recipes, load_recipe, load_settings
from secateur.pipeline.run import Prepared, PruneRun, check_classes, prepare, prune_network, train_network

__all__ = [
    "COLUMNS",
    "CompareSettings",
    "Compressed",
    "Explanation",
    "Prepared",
    "PruneRun",
    "PruneSettings",
    "Recipe",
    "Step",
    "check_classes",
    "compare",
    "compress",
    "explain",
    "known_recipes",
    "load_recipe",
    "load_settings",
    "prepare",
    "prune_network",
    "prune_to_budgets",
    "strongest_units",
    "train_network",
    "write_table",
]
