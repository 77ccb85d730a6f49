"""Estimates how long work would take from a few measured passes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from secateur.core.borrowing import borrowed
from secateur.criteria import Criterion, score
from secateur.criteria.samples import first_balanced
from secateur.data import LabelledImages, ReferenceSet
from secateur.pipeline.settings import PruneSettings
from secateur.structure import Structure

_IMAGES = 64
_SAMPLES = 16
TRAINING = 3.0
"""A training pass costs about three forward passes: one forward, two for the gradients of inputs and weights."""

_MEANS = 2.0
_REPAIR = {"none": 0.0, "mean": _MEANS, "refit": 15.0}
"""Forward passes over its samples that a repair costs; a refit 10 (ResNet-18 at 224 pixels) to 20 (ResNet-20)."""


def removal_seconds(settings: PruneSettings, scorings: int, scoring: float, image: float, samples: int) -> float:
    """Seconds of scoring, masking and repairing for one budget.

    Args:
        settings: settings of pruning.
        scorings: number of scorings.
        scoring: seconds of each.
        image: seconds of a forward pass per image.
        samples: number of reference samples.
    """
    passes = scorings * _MEANS if settings.schedule == "rescored" and settings.repair != "none" else 0.0
    repairs = scorings if settings.schedule == "iterative" else 1
    repair = repairs * _REPAIR[settings.repair] * (settings.repair_samples or samples)
    return scorings * scoring + image * (passes * samples + repair)


def seconds(work: Callable[[], object]) -> float:
    """Seconds of a second call; the first one also allocates memory and compiles kernels."""
    work()
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def forward_seconds(model: nn.Module, images: LabelledImages, device: torch.device) -> float:
    """Seconds of a forward pass per image, with the image's preparation.

    Args:
        model: the network, which is not changed or moved.
        images: images, some of which are passed through it.
        device: device of the model.
    """
    count = min(_IMAGES, len(images))

    def once() -> None:
        with borrowed(model), torch.no_grad():
            model(images.batch(range(count))[0].to(device))

    return seconds(once) / count


def scoring_seconds(
    model: nn.Module, structure: Structure, reference: ReferenceSet, criterion: Criterion, batch_size: int
) -> float | None:
    """Seconds of one scoring on all reference samples, from a few of them; None for criteria that are too slow."""
    if not criterion.quick:
        return None
    count = min(len(reference), max(_SAMPLES, criterion.asks_for or 0))
    few = first_balanced(reference, count, criterion.name)
    return seconds(lambda: score(model, structure, few, criterion, batch_size=batch_size)) * len(reference) / count


@dataclass(frozen=True)
class Estimate:
    """Estimated time of some work.

    Attributes:
        seconds: total; None where it is not known.
        parts: the summands in words.
    """

    seconds: float | None
    parts: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.seconds is None:
            return "time: not estimated (the criterion takes a pass for each unit)"
        detail = f" ({', '.join(self.parts)})" if self.parts else ""
        return f"time: about {duration(self.seconds)} on this machine{detail}"


def duration(seconds: float) -> str:
    """Seconds in words, to two digits at most.

    Example:
        >>> duration(3.4), duration(75), duration(5400)
        ('3 s', '1 min', '1.5 h')
    """
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
