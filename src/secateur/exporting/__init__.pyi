from .conversion import Exported, export
from .memory import measure_onnx_memory
from .program import load_program
from .sessions import OnnxSession, OpenVinoSession
from .side_by_side import ExportRow, RuntimeTimes, export_networks
from .timing import measure_runtime

__all__ = [
    "ExportRow",
    "Exported",
    "OnnxSession",
    "OpenVinoSession",
    "RuntimeTimes",
    "export",
    "export_networks",
    "load_program",
    "measure_onnx_memory",
    "measure_runtime",
]
