"""What a network does and what it costs."""

from secateur.evaluation.cost import count_macs, count_params, size_on_disk
from secateur.evaluation.latency import Latency, LatencyShare, compare_latency, measure_latency
from secateur.evaluation.metrics import Evaluation, evaluate

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
