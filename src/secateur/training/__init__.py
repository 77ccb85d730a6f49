"""Training and fine-tuning."""

from secateur.training.distillation import DistillationSettings
from secateur.training.fit import TrainingHistory, TrainSettings, fit

__all__ = ["DistillationSettings", "TrainSettings", "TrainingHistory", "fit"]
