"""Networks in the formats of other runtimes, checked against PyTorch and timed beside it."""

from secateur.exporting.export import Exported, export
from secateur.exporting.program import load_program
from secateur.exporting.sessions import OnnxSession, OpenVinoSession
from secateur.exporting.side_by_side import ExportRow, RuntimeTimes, export_networks
from secateur.exporting.timing import measure_runtime

__all__ = [
    "ExportRow",
    "Exported",
    "OnnxSession",
    "OpenVinoSession",
    "RuntimeTimes",
    "export",
    "export_networks",
    "load_program",
    "measure_runtime",
]
