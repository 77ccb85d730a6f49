"""Training and fine-tuning."""

from secateur.training.fit import TrainingHistory, TrainSettings, fit

__all__ = ["TrainSettings", "TrainingHistory", "fit"]
