"""Records in, one self-contained HTML file out; no model and no torch is needed to draw it again."""

from __future__ import annotations

from secateur.report.charts import save_curves
from secateur.report.fields import Field, field_png, save_fields
from secateur.report.films import film_png, overlay_png, to_base64
from secateur.report.gains import save_gains
from secateur.report.html import load_report, render, write_report
from secateur.report.images import heatmap_png, image_png
from secateur.report.look import COLORMAPS, colormap
from secateur.report.ranks import ranks_chart, save_ranks
from secateur.report.records import (
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
from secateur.report.samples import samples_chart, save_samples
from secateur.report.subsets import save_subset_curves
from secateur.report.trackers import TRACKERS, check_tracker, log_rows

__all__ = [
    "COLORMAPS",
    "SCHEMA_VERSION",
    "TRACKERS",
    "Agreement",
    "AgreementGroup",
    "ClassUnit",
    "Field",
    "Film",
    "FilmTrack",
    "Heatmap",
    "LayerKept",
    "Measurement",
    "Report",
    "check_tracker",
    "colormap",
    "field_png",
    "film_png",
    "heatmap_png",
    "image_png",
    "load_report",
    "log_rows",
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
