"""Images and labels: sources, splits, classes, normalisation, reference samples, small training sets."""

from secateur.data.choose import closest_subset
from secateur.data.classes import class_indices
from secateur.data.dataset import ImageData, LabelledImages, Normalisation, loader
from secateur.data.reference import ReferenceSet
from secateur.data.sources import DataSettings, open_data

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
