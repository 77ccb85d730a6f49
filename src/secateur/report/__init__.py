"""Records in, one self-contained HTML file out; no model and no torch is needed to draw it again."""

from __future__ import annotations

from secateur.report.charts import save_curves
from secateur.report.html import load_report, render, write_report
from secateur.report.images import heatmap_png, image_png
from secateur.report.records import (
    SCHEMA_VERSION,
    Agreement,
    AgreementGroup,
    ClassUnit,
    Heatmap,
    LayerKept,
    Measurement,
    Report,
)

__all__ = [
    "SCHEMA_VERSION",
    "Agreement",
    "AgreementGroup",
    "ClassUnit",
    "Heatmap",
    "LayerKept",
    "Measurement",
    "Report",
    "heatmap_png",
    "image_png",
    "load_report",
    "render",
    "save_curves",
    "write_report",
]
