"""The filters of layers as rows of matrices. Axes: C filters, D weights of each."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from secateur.structure import Structure


def filters(model: nn.Module, structure: Structure) -> dict[str, torch.Tensor]:
    """The weights of each output channel, for the layers that produce units, [C, D] float64, by layer name."""
    weights = dict(model.named_parameters())
    out_dim = {axis.tensor: axis.dim for axis in structure.axes if axis.role == "out"}
    return {
        layer.name: weights[layer.weight].detach().to(torch.float64).movedim(out_dim[layer.weight], 0).flatten(1)
        for layer in structure.layers
        if layer.weight in out_dim
    }


def lamp_scores(sizes: np.ndarray) -> np.ndarray:
    """s_i / Σ_{j: s_j ≥ s_i} s_j, [units]; 0 where s_i is 0.

    Example:
        >>> lamp_scores(np.array([1.0, 3.0, 2.0, 2.0])).tolist()
        [0.125, 1.0, 0.2857142857142857, 0.2857142857142857]
    """
    ascending = np.sort(sizes)
    at_least = ascending[::-1].cumsum()[::-1][np.searchsorted(ascending, sizes)]
    return np.asarray(np.divide(sizes, at_least, out=np.zeros_like(sizes), where=at_least > 0))
