from .checks import check_source
from .choose import closest_subset
from .classes import class_indices
from .dataset import ImageData, LabelledImages, Normalisation, loader
from .fetching import fetch
from .reference import ReferenceSet
from .settings import DataSettings, Resize
from .sources import open_data

__all__ = [
    "DataSettings",
    "ImageData",
    "LabelledImages",
    "Normalisation",
    "ReferenceSet",
    "Resize",
    "check_source",
    "class_indices",
    "closest_subset",
    "fetch",
    "loader",
    "open_data",
]
