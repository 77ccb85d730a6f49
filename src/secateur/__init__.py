"""Prune neural networks by what they find relevant.

Example:
    >>> import torch
    >>> import secateur as sc
    >>> from torch.utils.data import TensorDataset
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    >>> data = TensorDataset(torch.randn(30, 4), torch.arange(30) % 3)
    >>> structure = sc.trace(net, data[:1][0])
    >>> reference = sc.ReferenceSet.sample(data, per_class=5)
    >>> scores = sc.score(net, structure, reference, "lrp")
    >>> plan = sc.select(scores, sc.Budget(units=0.5))
    >>> sc.prune(net, plan)[0].out_features
    8
"""

from secateur import criteria, exporting
from secateur.attribution import Relevance, attribute, composites
from secateur.core.errors import RequestError, SecateurError
from secateur.criteria import Scores, score
from secateur.criteria import register as register_criterion
from secateur.data import DataSettings, ReferenceSet, class_indices, closest_subset, open_data
from secateur.evaluation import Evaluation, evaluate, measure_latency
from secateur.exporting import export
from secateur.models import build
from secateur.pipeline import (
    CompareSettings,
    Compressed,
    PruneSettings,
    SubsetSettings,
    compare,
    compress,
    prune_to_budgets,
    prune_to_ratios,
)
from secateur.selection import Budget, Plan, select, select_nominal
from secateur.structure import Structure, trace
from secateur.surgery import (
    compensate,
    from_pretrained,
    load,
    mask,
    mask_head,
    prune,
    push_to_hub,
    recalibrate,
    save,
    slice_head,
    verify,
)
from secateur.training import DistillationSettings, TrainSettings, fit

__version__ = "0.1.0"

__all__ = [
    "Budget",
    "CompareSettings",
    "Compressed",
    "DataSettings",
    "DistillationSettings",
    "Evaluation",
    "Plan",
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
    "open_data",
    "prune",
    "prune_to_budgets",
    "prune_to_ratios",
    "push_to_hub",
    "recalibrate",
    "register_criterion",
    "save",
    "score",
    "select",
    "select_nominal",
    "slice_head",
    "trace",
    "verify",
]
