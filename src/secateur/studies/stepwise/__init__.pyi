from .settings import ProtocolSettings, StepSettings, StepwiseSettings, ours, published
from .study import StepwiseStudy

__all__ = ["ProtocolSettings", "StepSettings", "StepwiseSettings", "StepwiseStudy", "ours", "published"]
