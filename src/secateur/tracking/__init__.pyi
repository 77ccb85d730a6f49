from .base import Run, Tracker
from .registry import TRACKERS, check_trackers
from .settings import TrackingSettings
from .tracking import Tracking

__all__ = [
    "TRACKERS",
    "Run",
    "Tracker",
    "Tracking",
    "TrackingSettings",
    "check_trackers",
]
