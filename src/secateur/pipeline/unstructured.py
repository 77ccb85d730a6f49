"""Masks of single weights, for comparison: networks get sparse, neither smaller nor faster.

Source: Han et al., "Learning both weights and connections for efficient neural networks" (2015) for the magnitude; Lee
et al., "SNIP" (2019) for |w·∂L/∂w|.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from secateur.attribution.borrow import borrowed
from secateur.core.errors import RequestError
from secateur.core.randomness import torch_generator
from secateur.data import ReferenceSet

WEIGHT_SCORES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "magnitude": lambda weight, gradient: weight.abs(),
    "gradient": lambda weight, gradient: gradient.abs(),
    "taylor": lambda weight, gradient: (weight * gradient).abs(),
}


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
    if by != "random" and by not in WEIGHT_SCORES:
        raise RequestError(f"unknown score of weights '{by}'; known: {', '.join([*WEIGHT_SCORES, 'random'])}")
    weights = {name: p for name, p in model.named_parameters() if p.ndim > 1}
    if by == "random":
        generator = torch_generator(seed, "weights", *reference.indices[:8])
        return {name: torch.rand(p.shape, generator=generator) for name, p in weights.items()}
    gradients = {name: torch.zeros_like(p) for name, p in weights.items()}
    if by != "magnitude":
        gradients = _loss_gradients(model, weights, reference, batch_size)
    return {name: WEIGHT_SCORES[by](p.detach(), gradients[name]).float().cpu() for name, p in weights.items()}


def _loss_gradients(
    model: nn.Module, weights: dict[str, nn.Parameter], reference: ReferenceSet, batch_size: int
) -> dict[str, torch.Tensor]:
    total = {name: torch.zeros_like(p) for name, p in weights.items()}
    place = next(model.parameters()).device
    with borrowed(model), torch.enable_grad():
        for parameter in weights.values():
            parameter.requires_grad_(True)
        for inputs, targets in reference.batches(batch_size):
            loss = F.cross_entropy(model(inputs.to(place)), targets.to(place), reduction="sum") / len(reference)
            found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
            for name, gradient in zip(weights, found, strict=True):
                total[name] += 0 if gradient is None else gradient
    return total


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
