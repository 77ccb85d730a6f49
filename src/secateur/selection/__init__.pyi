from .budget import Budget, UnreachableBudgetError
from .latency import LatencyModel
from .nominal import select_nominal
from .plan import Cut, Plan, merge_cuts
from .planning import STRATEGIES, select
from .timing import LatencyTable

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
