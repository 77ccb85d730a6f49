from .charts import save_curves
from .conditions import Conditions
from .fields import Field, field_png, save_fields
from .films import film_png, overlay_png, to_base64
from .gains import save_gains
from .html import load_report, render, write_report
from .images import heatmap_png, image_png
from .look import COLORMAPS, colormap
from .ranks import ranks_chart, save_ranks
from .records import (
    SCHEMA_VERSION,
    Agreement,
    AgreementGroup,
    ClassUnit,
    Film,
    FilmTrack,
    Heatmap,
    LayerKept,
    Measurement,
    Report,
)
from .samples import samples_chart, save_samples
from .subsets import save_subset_curves

__all__ = [
    "COLORMAPS",
    "SCHEMA_VERSION",
    "Agreement",
    "AgreementGroup",
    "ClassUnit",
    "Conditions",
    "Field",
    "Film",
    "FilmTrack",
    "Heatmap",
    "LayerKept",
    "Measurement",
    "Report",
    "colormap",
    "field_png",
    "film_png",
    "heatmap_png",
    "image_png",
    "load_report",
    "overlay_png",
    "ranks_chart",
    "render",
    "samples_chart",
    "save_curves",
    "save_fields",
    "save_gains",
    "save_ranks",
    "save_samples",
    "save_subset_curves",
    "to_base64",
    "write_report",
]
