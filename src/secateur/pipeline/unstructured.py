"""Masks of single weights, for comparison and for teachers: networks become sparse, but not smaller or faster.

Source: Han et al., "Learning both weights and connections for efficient neural networks" (2015) for the magnitude; Lee
et al., "SNIP" (2019) for |w·∂L/∂w|.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from secateur.core.errors import RequestError
from secateur.core.randomness import torch_generator
from secateur.criteria.coupled import gradient_sums
from secateur.data import ReferenceSet
from secateur.training import TrainSettings, WeightMask, fit

WEIGHT_SCORES = ("magnitude", "gradient", "taylor", "random")


def weight_scores(
    model: nn.Module, reference: ReferenceSet, by: str, seed: int = 0, batch_size: int = 64
) -> dict[str, torch.Tensor]:
    """One score per weight of all parameters with more than one dimension, by name.

    Args:
        model: a network; its state is restored.
        reference: labelled samples, for the gradient of the mean cross-entropy.
        by: ``magnitude`` |w|, ``gradient`` |∂L/∂w|, ``taylor`` |w·∂L/∂w| or ``random``.
        seed: seed of the random scores.
        batch_size: samples per pass.
    """
    if by not in WEIGHT_SCORES:
        raise RequestError(f"unknown score of weights '{by}'; known: {', '.join(WEIGHT_SCORES)}")
    weights = {name: p for name, p in model.named_parameters() if p.ndim > 1}
    if by == "random":
        generator = torch_generator(seed, "weights", *reference.indices[:8])
        return {name: torch.rand(p.shape, generator=generator) for name, p in weights.items()}
    if by == "magnitude":
        return _magnitudes(model)
    sums = gradient_sums(model, weights, reference, batch_size, power=1)
    scores = {name: total / len(reference) for name, total in sums.items()}
    if by == "taylor":
        scores = {name: p.detach() * scores[name] for name, p in weights.items()}
    return {name: figure.abs().float().cpu() for name, figure in scores.items()}


def weight_mask(scores: Mapping[str, torch.Tensor], share: float) -> WeightMask:
    """The mask that keeps the highest-scored ``share`` of weights, over all layers together.

    Args:
        scores: scores by `weight_scores`.
        share: share in [0, 1], which is met exactly up to one weight.
    """
    every = torch.cat([score.flatten() for score in scores.values()])
    count = round(share * len(every))
    kept = torch.zeros(len(every), dtype=torch.bool)
    # a stable order, so that equal scores are always treated the same way
    kept[torch.from_numpy(np.argsort(-every.numpy(), kind="stable")[:count].copy())] = True
    parts = kept.split([score.numel() for score in scores.values()])
    return WeightMask(
        {name: keep.reshape(score.shape) for (name, score), keep in zip(scores.items(), parts, strict=True)}
    )


def mask_weights(model: nn.Module, scores: Mapping[str, torch.Tensor], share: float) -> tuple[nn.Module, float]:
    """A copy in which only the highest-scored ``share`` of weights is not zero, see `weight_mask`.

    Returns:
        The copy, and the exact share of weights that are left.
    """
    mask = weight_mask(scores, share)
    return mask.applied_to(model), mask.share


def masked_teacher(
    model: nn.Module,
    params: int,
    train: Dataset[Any],
    val: Dataset[Any] | None,
    settings: TrainSettings,
    state_file: str | Path | None = None,
) -> nn.Module:
    """A teacher as large as its student: the network masked by magnitude, and retrained under its mask.

    The smallest weights of all layers together become zero until ``params`` parameters are left (biases and norm
    parameters are not masked, and count). Then it is trained with the same settings on the labels only.

    Args:
        model: the unpruned network; it is not changed.
        params: number of parameters of the student.
        train: see `secateur.fit`.
        val: see `secateur.fit`.
        settings: settings of the student's training.
        state_file: see `secateur.fit`, for the teacher's training.

    Raises:
        RequestError: when the network's biases and norm parameters alone are more than ``params``.
    """
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    magnitudes = _magnitudes(model)
    weights = sum(sizes[name] for name in magnitudes)
    left = params - (sum(sizes.values()) - weights)
    if left < 1:
        raise RequestError(
            f"distillation.teacher 'masked': the network's biases and norms alone are more than the {params:,} "
            "parameters of the pruned network; set distillation.teacher to 'unpruned', or a larger budget"
        )
    mask = weight_mask(magnitudes, min(1.0, left / weights))
    teacher = mask.applied_to(model)
    plain = settings.model_copy(update={"distillation": None})
    fit(teacher, train, val, plain, state_file, weight_mask=mask)
    return teacher


def teacher_of(
    model: nn.Module,
    pruned: nn.Module,
    train: Dataset[Any],
    val: Dataset[Any] | None,
    settings: TrainSettings,
    *,
    mask: WeightMask | None = None,
    state_file: str | Path | None = None,
) -> nn.Module | None:
    """The teacher of a pruned network by ``settings.distillation``: None, the unpruned network, or a masked one.

    The masked teacher is the published one, see `masked_teacher`.

    Args:
        model: the unpruned network.
        pruned: the student.
        train: see `secateur.fit`.
        val: see `secateur.fit`.
        settings: settings of the student's training.
        mask: mask of the student, where single weights were masked.
        state_file: see `masked_teacher`.
    """
    if settings.distillation is None:
        return None
    if settings.distillation.teacher == "unpruned":
        return model
    params = sum(p.numel() for p in pruned.parameters())
    if mask is not None:
        params -= sum(keep.numel() for keep in mask.kept.values()) - mask.count
    return masked_teacher(model, params, train, val, settings, state_file)


def _magnitudes(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().abs().float().cpu() for name, p in model.named_parameters() if p.ndim > 1}
