from .checks import check_source
from .choose import closest_subset
from .classes import class_indices
from .dataset import ImageData, LabelledImages, Normalisation, loader
from .fetching import fetch
from .reference import ReferenceSet
from .settings import DataSettings, Resize, SplitSettings, TableSettings
from .sources import open_data, read_table
from .splits import Assignment, read_assignment, write_assignment
from .table import LabelledTable

__all__ = [
    "Assignment",
    "DataSettings",
    "ImageData",
    "LabelledImages",
    "LabelledTable",
    "Normalisation",
    "ReferenceSet",
    "Resize",
    "SplitSettings",
    "TableSettings",
    "check_source",
    "class_indices",
    "closest_subset",
    "fetch",
    "loader",
    "open_data",
    "read_assignment",
    "read_table",
    "write_assignment",
]
