"""What a network does and what it costs."""

from secateur.evaluation.cost import count_macs, count_params, size_on_disk
from secateur.evaluation.latency import Latency, LatencyShare, measure_latency, measure_share
from secateur.evaluation.metrics import Evaluation, evaluate

__all__ = [
    "Evaluation",
    "Latency",
    "LatencyShare",
    "count_macs",
    "count_params",
    "evaluate",
    "measure_latency",
    "measure_share",
    "size_on_disk",
]
