"""What happened in a training, epoch by epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from secateur.training.settings import TrainSettings


@dataclass
class TrainingHistory:
    """What happened, one row per epoch: epoch, learning_rate (first), train_loss, val_loss, val_accuracy.

    Without validation images the last two are left out, ``best_epoch`` is the last one and ``best_accuracy``
    stays at -1.

    Attributes:
        rows: see above.
        best_epoch: that has the best validation metric (``settings.monitor``).
        best_accuracy: on the validation images, of that epoch.
        stopped_early: before ``settings.epochs``, by ``settings.patience``.
        seconds: that each epoch took, with validation; two histories that differ in these alone are equal.
    """

    rows: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = -1
    best_accuracy: float = -1.0
    stopped_early: bool = False
    seconds: list[float] = field(default_factory=list, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def add(self, row: dict[str, float], seconds: float, settings: TrainSettings) -> bool:
        """Enter an epoch, and stop early if it is time; whether it is the best one so far."""
        self.seconds += [math.nan] * (len(self.rows) - len(self.seconds))  # of states that did not keep them
        self.rows.append(row)
        self.seconds.append(seconds)
        if "val_loss" not in row:
            self.best_epoch = int(row["epoch"])
            return True
        metrics = [_metric(each, settings) for each in self.rows]
        better = len(metrics) == 1 or metrics[-1] > max(metrics[:-1])
        if better:
            self.best_epoch, self.best_accuracy = int(row["epoch"]), row["val_accuracy"]
        if settings.patience is not None and self._epochs_without_improvement(metrics, settings) >= settings.patience:
            self.stopped_early = True
        return better

    @staticmethod
    def _epochs_without_improvement(metrics: list[float], settings: TrainSettings) -> int:
        """Since the metric last rose by more than ``min_delta`` above its last such rise."""
        reference, last = metrics[0], 0
        for index, metric in enumerate(metrics):
            if metric - reference > settings.min_delta:
                reference, last = metric, index
        return len(metrics) - 1 - last

    def epochs(self) -> Iterator[Epoch]:
        """Those that are done, as an earlier process did them."""
        for index in range(len(self.rows)):
            yield self.epoch(index, resumed=True)

    def epoch(self, index: int, *, resumed: bool = False) -> Epoch:
        """One of those that are done."""
        row = dict(self.rows[index])
        row.pop("epoch")
        seconds = self.seconds[index] if index < len(self.seconds) else math.nan
        return Epoch(index, row | ({} if math.isnan(seconds) else {"seconds": seconds}), resumed)


@dataclass(frozen=True)
class Epoch:
    """A finished epoch, as ``fit(..., on_epoch=...)`` reports it.

    Attributes:
        index: from 0.
        metrics: learning_rate (at its beginning), train_loss, val_loss and val_accuracy (with validation samples),
            seconds.
        resumed: done by an earlier process whose state this training goes on from.
    """

    index: int
    metrics: Mapping[str, float]
    resumed: bool = False


def _metric(row: Mapping[str, float], settings: TrainSettings) -> float:
    """The monitored metric; the higher the better."""
    metric = row["val_accuracy"] if settings.monitor == "val_accuracy" else -row["val_loss"]
    return -math.inf if math.isnan(metric) else metric
