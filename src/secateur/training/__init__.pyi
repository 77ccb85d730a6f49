from .curves import curves
from .fit import fit
from .history import Epoch, TrainingHistory
from .objective import Objective, ParameterGroup
from .settings import DistillationSettings, TrainSettings
from .weight_mask import WeightMask

__all__ = [
    "DistillationSettings",
    "Epoch",
    "Objective",
    "ParameterGroup",
    "TrainSettings",
    "TrainingHistory",
    "WeightMask",
    "curves",
    "fit",
]
