from .cost import count_macs, count_params, size_on_disk
from .faithfulness import Faithfulness, pixel_flipping
from .latency import compare_latency, measure_latency
from .memory import measure_memory
from .metrics import Evaluation, area_under_curve, evaluate
from .times import Latency, LatencyShare, Memory

__all__ = [
    "Evaluation",
    "Faithfulness",
    "Latency",
    "LatencyShare",
    "Memory",
    "area_under_curve",
    "compare_latency",
    "count_macs",
    "count_params",
    "evaluate",
    "measure_latency",
    "measure_memory",
    "pixel_flipping",
    "size_on_disk",
]
