"""Gradients of the parameters of each unit, and figures summed over them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from secateur.core.borrowing import borrowed
from secateur.criteria.samples import Share, device_of, sample_losses, tracked
from secateur.data import ReferenceSet
from secateur.structure import Structure


def over_parameters(structure: Structure, figures: Mapping[str, torch.Tensor], *, absolute: bool = False) -> np.ndarray:
    """Sum figures of parameters' elements over all elements that are removed with each unit, [U].

    Args:
        structure: the units.
        figures: by parameter name, a figure for each element; parameters may be missing.
        absolute: take the absolute value of a unit's sum in each tensor.
    """
    result = np.zeros(structure.num_units)
    for axis in structure.axes:
        if axis.tensor not in figures:
            continue
        sums = figures[axis.tensor].movedim(axis.dim, 0).reshape(axis.unit.shape[1], -1).sum(1).cpu().numpy()
        here = np.zeros(structure.num_units)
        for unit in axis.unit:
            np.add.at(here, unit[unit >= 0], sums[unit >= 0])
        result += np.abs(here) if absolute else here
    return result


def coupled(model: nn.Module, structure: Structure) -> dict[str, nn.Parameter]:
    """Parameters that are removed with units, by name, without buffers."""
    known = dict(model.named_parameters())
    return {axis.tensor: known[axis.tensor] for axis in structure.axes if axis.tensor in known}


def gradient_sums(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], reference: ReferenceSet, batch_size: int, power: int
) -> dict[str, torch.Tensor]:
    """Σ over batches of (gradient of the batch's summed cross-entropy)^power, float64; of frozen parameters as well.

    With several ranks, each processes its share of the samples.
    """
    share = Share.of(reference)
    sums = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in parameters.items()}
    device = device_of(model)
    with borrowed(model), torch.enable_grad():
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        for inputs, targets in tracked(share.samples, batch_size):
            output = model(inputs.detach().to(device).clone())  # the network may change its inputs in place
            loss = sample_losses(output, targets).sum()
            gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            for total, gradient in zip(sums.values(), gradients, strict=True):
                if gradient is not None:
                    total += gradient.to(torch.float64) ** power
    return {name: share.ranks.total(total) for name, total in sums.items()}
