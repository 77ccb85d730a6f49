from .settings import PrototypeStudySettings, VariantSettings, WaySettings
from .study import PrototypeStudy

__all__ = ["PrototypeStudy", "PrototypeStudySettings", "VariantSettings", "WaySettings"]
