from .compare_settings import CompareSettings, SubsetSettings
from .compression import compress, prune_to_budgets
from .explanation import Explanation, explain, strongest_units
from .jobs import PruneRun
from .nominal import prune_to_ratios
from .pruning_curve import CurveMeter, PruningCurve, RatePoint
from .recipe import Recipe, known_recipes, load_recipe, load_settings
from .reporting import report
from .run import Prepared, check_classes, prepare
from .settings import Compressed, PruneSettings, Step

__all__ = [
    "CompareSettings",
    "Compressed",
    "CurveMeter",
    "Explanation",
    "Prepared",
    "PruneRun",
    "PruneSettings",
    "PruningCurve",
    "RatePoint",
    "Recipe",
    "Step",
    "SubsetSettings",
    "check_classes",
    "compress",
    "explain",
    "known_recipes",
    "load_recipe",
    "load_settings",
    "prepare",
    "prune_to_budgets",
    "prune_to_ratios",
    "report",
    "strongest_units",
]
