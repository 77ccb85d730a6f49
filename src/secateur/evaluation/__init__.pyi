from .cost import count_macs, count_params, size_on_disk
from .latency import compare_latency, measure_latency
from .metrics import Evaluation, evaluate
from .times import Latency, LatencyShare

__all__ = [
    "Evaluation",
    "Latency",
    "LatencyShare",
    "compare_latency",
    "count_macs",
    "count_params",
    "evaluate",
    "measure_latency",
    "size_on_disk",
]
