from .compare_settings import CompareSettings, SubsetSettings
from .comparing import check_compare, compare
from .comparison import COLUMNS, class_rows, layer_rows, write_table
from .compression import compress, prune_to_budgets
from .explanation import Explanation, explain, strongest_units
from .jobs import PruneRun
from .nominal import prune_to_ratios
from .recipe import Recipe, known_recipes, load_recipe, load_settings
from .reporting import report
from .run import Prepared, check_classes, prepare
from .settings import Compressed, PruneSettings, Step
from .timed import busy_networks

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
    "prune_to_budgets",
    "prune_to_ratios",
    "report",
    "strongest_units",
    "write_table",
]
