from .study import SkinLesionSettings, SkinLesionStudy

__all__ = ["SkinLesionSettings", "SkinLesionStudy"]
