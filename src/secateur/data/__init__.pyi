from .choose import closest_subset
from .classes import class_indices
from .dataset import ImageData, LabelledImages, Normalisation, loader
from .reference import ReferenceSet
from .sources import DataSettings, open_data

__all__ = [
    "DataSettings",
    "ImageData",
    "LabelledImages",
    "Normalisation",
    "ReferenceSet",
    "class_indices",
    "closest_subset",
    "loader",
    "open_data",
]
