from .distillation import DistillationSettings
from .fit import TrainingHistory, TrainSettings, fit

__all__ = [
    "DistillationSettings",
    "TrainSettings",
    "TrainingHistory",
    "fit",
]
