"""Images and labels: sources, splits, normalisation, reference samples."""

from secateur.data.dataset import ImageData, LabelledImages, Normalisation, loader
from secateur.data.reference import ReferenceSet
from secateur.data.sources import DataSettings, open_data

__all__ = [
    "DataSettings",
    "ImageData",
    "LabelledImages",
    "Normalisation",
    "ReferenceSet",
    "loader",
    "open_data",
]
