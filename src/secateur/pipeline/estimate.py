"""How long work would take, from a few measured passes."""

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
"""Forward passes of its samples a repair takes; a refit 10 (ResNet-18 at 224 pixels) to 20 (ResNet-20)."""


def removal_seconds(settings: PruneSettings, scorings: int, scoring: float, image: float, samples: int) -> float:
    """Of scoring, closing and repairing, for one budget.

    Args:
        settings: how.
        scorings: how often units are scored.
        scoring: seconds of each.
        image: seconds of a forward pass, per image.
        samples: that the criterion looks at.
    """
    passes = scorings * _MEANS if settings.schedule == "rescored" and settings.repair != "none" else 0.0
    repairs = scorings if settings.schedule == "iterative" else 1
    repair = repairs * _REPAIR[settings.repair] * (settings.repair_samples or samples)
    return scorings * scoring + image * (passes * samples + repair)


def seconds(work: Callable[[], object]) -> float:
    """Of a call, the second time: the first one pays for memory and compiled kernels."""
    work()
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def forward_seconds(model: nn.Module, images: LabelledImages, device: torch.device) -> float:
    """Of a forward pass, per image, with the image's preparation.

    Args:
        model: untouched; wherever it is, it is measured where it is.
        images: some of which pass.
        device: of the model.
    """
    count = min(_IMAGES, len(images))

    def once() -> None:
        with borrowed(model), torch.no_grad():
            model(images.batch(range(count))[0].to(device))

    return seconds(once) / count


def scoring_seconds(
    model: nn.Module, structure: Structure, reference: ReferenceSet, criterion: Criterion, batch_size: int
) -> float | None:
    """Of one scoring on all reference samples, from a few of them; None for criteria that take too long to try."""
    if not criterion.quick:
        return None
    count = min(len(reference), max(_SAMPLES, criterion.asks_for or 0))
    few = first_balanced(reference, count, criterion.name)
    return seconds(lambda: score(model, structure, few, criterion, batch_size=batch_size)) * len(reference) / count


@dataclass(frozen=True)
class Estimate:
    """Time that work would take.

    Attributes:
        seconds: in all; None: not known.
        parts: what they were added up from, in words.
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
