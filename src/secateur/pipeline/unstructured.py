"""Masks of single weights, for comparison: networks get sparse, neither smaller nor faster.

Source: Han et al., "Learning both weights and connections for efficient neural networks" (2015) for the magnitude; Lee
et al., "SNIP" (2019) for |w·∂L/∂w|.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

from secateur.core.errors import RequestError
from secateur.core.randomness import torch_generator
from secateur.criteria.coupled import gradient_sums
from secateur.data import ReferenceSet

WEIGHT_SCORES = ("magnitude", "gradient", "taylor", "random")


def weight_scores(
    model: nn.Module, reference: ReferenceSet, by: str, seed: int = 0, batch_size: int = 64
) -> dict[str, torch.Tensor]:
    """One score per weight of all parameters with more than one dimension, by name.

    Args:
        model: it comes back as it was.
        reference: labelled samples, for the gradient of the mean cross-entropy.
        by: ``magnitude`` |w|, ``gradient`` |∂L/∂w|, ``taylor`` |w·∂L/∂w| or ``random``.
        seed: of chance.
        batch_size: samples per pass.
    """
    if by not in WEIGHT_SCORES:
        raise RequestError(f"unknown score of weights '{by}'; known: {', '.join(WEIGHT_SCORES)}")
    weights = {name: p for name, p in model.named_parameters() if p.ndim > 1}
    if by == "random":
        generator = torch_generator(seed, "weights", *reference.indices[:8])
        return {name: torch.rand(p.shape, generator=generator) for name, p in weights.items()}
    if by == "magnitude":
        return {name: p.detach().abs().float().cpu() for name, p in weights.items()}
    sums = gradient_sums(model, weights, reference, batch_size, power=1)
    found = {name: total / len(reference) for name, total in sums.items()}
    if by == "taylor":
        found = {name: p.detach() * found[name] for name, p in weights.items()}
    return {name: figure.abs().float().cpu() for name, figure in found.items()}


def mask_weights(model: nn.Module, scores: dict[str, torch.Tensor], share: float) -> tuple[nn.Module, float]:
    """A copy in which only the highest-scored ``share`` of weights is not zero, over all layers together.

    Returns:
        The copy, and the share of weights that were left, exactly.
    """
    every = torch.cat([score.flatten() for score in scores.values()])
    count = round(share * len(every))
    kept = torch.zeros(len(every), dtype=torch.bool)
    # a stable order, so that equal scores fall the same way every time
    kept[torch.from_numpy(np.argsort(-every.numpy(), kind="stable")[:count].copy())] = True
    masked = copy.deepcopy(model)
    parameters = dict(masked.named_parameters())
    for (name, score), keep in zip(scores.items(), kept.split([s.numel() for s in scores.values()]), strict=True):
        with torch.no_grad():
            parameters[name].mul_(keep.reshape(score.shape).to(parameters[name].device))
    return masked, count / len(every)
