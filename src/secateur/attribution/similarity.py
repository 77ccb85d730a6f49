"""How relevance passes the comparison of a feature map with prototypes. Axes: N samples, D channels, P prototypes.

Source: Gautam, Höhne, Hansen, Jenssen and Kampffmeyer, "This looks more like that: enhancing self-explaining models by
prototypical relevance propagation" (2022).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_SHARPNESS = 1e-12
"""Keeps shares finite where a prototype is compared with an identical patch."""
_VALUES_AT_ONCE = 2**24


def similarity_relevance(
    relevance: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, similarity: str = "log", rest: float = 0.0
) -> torch.Tensor:
    """Distribute the relevance of similarities over the channels of the compared patches.

    For distances, channel c of a patch gets a share in proportion to 1 / ((x_c - p_c)⁴ + 1e-12): it counts by how close
    it is to the prototype. A channel at rest gets none, because none of its inputs were active. For the cosine, shares
    are x_c p_c / Σ x p.

    Args:
        relevance: relevance of the similarity maps, [N, P, H', W'].
        x: feature maps [N, D, H, W].
        weight: prototypes [P, D, h, w].
        similarity: ``log``, ``linear`` or ``cosine``, see `secateur.models.prototype_network.similarity_maps`.
        rest: value of a channel whose input is 0: 0 after a ReLU, 0.5 after a sigmoid.

    Returns:
        Relevance of the feature maps, [N, D, H, W]; per sample its sum is that of ``relevance``.

    Example:
        >>> x, prototypes = torch.tensor([[[[1.0]], [[3.0]]]]), torch.tensor([[[[1.0]], [[2.0]]]])
        >>> similarity_relevance(torch.ones(1, 1, 1, 1), x, prototypes).flatten().round(decimals=3).tolist()
        [1.0, 0.0]
    """
    result = torch.zeros_like(x)
    channels_last = result.movedim(1, -1)
    height, width = weight.shape[2:]
    patches = x.unfold(2, height, 1).unfold(3, width, 1)  # a view: [N, D, H', W', h, w]
    positions = relevance.nonzero()
    for n, p, i, j in (chunk.T for chunk in positions.split(max(1, _VALUES_AT_ONCE // weight[0].numel()))):
        patch, prototype = patches[n, :, i, j], weight[p]
        if similarity == "cosine":
            share = patch * prototype
        else:
            share = torch.where(patch != rest, 1 / ((patch - prototype) ** 4 + _SHARPNESS), 0)
        total = share.sum((1, 2, 3), keepdim=True)
        part = torch.where(total != 0, relevance[n, p, i, j][:, None, None, None] * share / total, 0)
        for down in range(height):
            for across in range(width):
                channels_last.index_put_((n, i + down, j + across), part[:, :, down, across], accumulate=True)
    return result


class SimilarityFunction(torch.autograd.Function):
    """Similarities whose backward pass is `similarity_relevance`, as a modified gradient.

    The gradient is relevance divided by the distance of a channel from rest, not by its value, so that all of it passes
    a sigmoid.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        similarity: str,
        rest: float,
        compute: Callable[[], torch.Tensor],
    ) -> torch.Tensor:
        """The similarity maps, [N, P, H', W']."""
        maps = compute()
        ctx.similarity, ctx.rest = similarity, rest
        ctx.save_for_backward(x, weight, maps)
        return maps

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Modified gradient of the feature maps."""
        x, weight, maps = ctx.saved_tensors
        relevance = similarity_relevance(gradients[0] * maps, x, weight, ctx.similarity, ctx.rest)
        active = x - ctx.rest
        return torch.where(active != 0, relevance / active, 0), None, None, None, None
