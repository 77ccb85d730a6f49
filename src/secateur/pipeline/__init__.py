"""Whole experiments in memory: one-shot, re-scored, iterative, compared."""

from secateur.pipeline.compare import check_compare, compare
from secateur.pipeline.comparison import COLUMNS, CompareSettings, class_rows, layer_rows, write_table
from secateur.pipeline.compress import compress, prune_to_budgets
from secateur.pipeline.explain import Explanation, explain, strongest_units
from secateur.pipeline.nominal import prune_to_ratios
from secateur.pipeline.recipe import Recipe, known_recipes, load_recipe, load_settings
from secateur.pipeline.run import Prepared, PruneRun, check_classes, prepare, prune_network, train_network
from secateur.pipeline.settings import Compressed, PruneSettings, Step
from secateur.pipeline.tasks import SubsetSettings
from secateur.pipeline.timed import busy_networks

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
    "SubsetSettings",
    "busy_networks",
    "check_classes",
    "check_compare",
    "class_rows",
    "compare",
    "compress",
    "explain",
    "known_recipes",
    "layer_rows",
    "load_recipe",
    "load_settings",
    "prepare",
    "prune_network",
    "prune_to_budgets",
    "prune_to_ratios",
    "strongest_units",
    "train_network",
    "write_table",
]
