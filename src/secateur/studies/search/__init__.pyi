from .settings import SearchStudySettings, SpaceSettings
from .study import SearchStudy

__all__ = ["SearchStudy", "SearchStudySettings", "SpaceSettings"]
