from . import criteria, exporting
from .attribution import Relevance, attribute, composites
from .core.errors import RequestError, SecateurError
from .core.progress import Progress
from .criteria import Scores, register_criterion, score
from .data import DataSettings, ReferenceSet, class_indices, closest_subset, open_data
from .evaluation import Evaluation, evaluate, measure_latency, measure_memory
from .exporting import export
from .models import build
from .pipeline import (
    CompareSettings,
    Compressed,
    PruneSettings,
    SubsetSettings,
    compress,
    prune_to_budgets,
    prune_to_ratios,
    report,
)
from .selection import Budget, Plan, select, select_nominal
from .structure import Structure, trace
from .studies.compare import compare
from .surgery import (
    compensate,
    from_pretrained,
    load,
    mask,
    mask_head,
    prune,
    push_to_hub,
    recalibrate,
    refit,
    save,
    slice_head,
    verify,
)
from .training import DistillationSettings, TrainSettings, fit

__version__: str

__all__ = [
    "Budget",
    "CompareSettings",
    "Compressed",
    "DataSettings",
    "DistillationSettings",
    "Evaluation",
    "Plan",
    "Progress",
    "PruneSettings",
    "ReferenceSet",
    "Relevance",
    "RequestError",
    "Scores",
    "SecateurError",
    "Structure",
    "SubsetSettings",
    "TrainSettings",
    "__version__",
    "attribute",
    "build",
    "class_indices",
    "closest_subset",
    "compare",
    "compensate",
    "composites",
    "compress",
    "criteria",
    "evaluate",
    "export",
    "exporting",
    "fit",
    "from_pretrained",
    "load",
    "mask",
    "mask_head",
    "measure_latency",
    "measure_memory",
    "open_data",
    "prune",
    "prune_to_budgets",
    "prune_to_ratios",
    "push_to_hub",
    "recalibrate",
    "refit",
    "register_criterion",
    "report",
    "save",
    "score",
    "select",
    "select_nominal",
    "slice_head",
    "trace",
    "verify",
]
