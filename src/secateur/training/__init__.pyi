from .fit import TrainingHistory, fit
from .settings import DistillationSettings, TrainSettings

__all__ = [
    "DistillationSettings",
    "TrainSettings",
    "TrainingHistory",
    "fit",
]
