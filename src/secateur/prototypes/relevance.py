"""Prototypical relevance: from a prototype's similarity back to the pixels. Axes: N images, P prototypes.

Source: Gautam, Höhne, Hansen, Jenssen and Kampffmeyer, "This looks more like that" (2022).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from secateur.attribution import attribute
from secateur.attribution.composites import Composite
from secateur.models.prototype_network import PrototypeNetwork, Similarity, similarity_maps

COMPOSITE = "epsilon-plus-flat"
"""z⁺ for convolutions, ε for sums and linear layers, a flat rule at the pixels."""


def prototype_relevance(
    network: PrototypeNetwork,
    inputs: torch.Tensor,
    rows: Sequence[int] | torch.Tensor,
    composite: str | Composite = COMPOSITE,
    *,
    batch_size: int = 64,
) -> torch.Tensor:
    """Relevance of pixels for the similarity of one prototype to each image.

    The similarity at its best position (of linear ones, its logarithmic form) is spread over the channels there, in
    proportion to 1 / ((z - p)⁴ + 1e-12), and from there by the rules of the composite.

    Args:
        network: comes back as it was.
        inputs: images [N, C, H, W].
        rows: of the prototype of each image, [N].
        composite: rules below the feature map.
        batch_size: images per pass.

    Returns:
        [N, C, H, W]; its sum over an image is the similarity, less what biases absorb.

    Example:
        >>> from secateur.models import build
        >>> net = build("prototype-network", num_classes=2, per_class=2, channels=8)
        >>> prototype_relevance(net, torch.rand(3, 3, 32, 32), [0, 1, 3]).shape
        torch.Size([3, 3, 32, 32])
    """
    targets = torch.as_tensor(rows, dtype=torch.int64)
    if network.num_prototypes == 1:  # one output is taken for the log-odds of class 1
        targets = torch.ones_like(targets)
    inputs = inputs.to(network.prototypes.weight)
    found = attribute(_Similarities(network), inputs, targets, composite, start="logit", batch_size=batch_size)
    return found.input


class _Similarities(nn.Module):
    """The network without its last layer: similarities are its outputs.

    -d², the linear similarity, is 0 at the prototype's own patch, where nothing could be spread; its logarithmic form
    has the same best position and the same shares.
    """

    def __init__(self, network: PrototypeNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images to similarities [N, P]."""
        layer = self.network.prototypes
        kind: Similarity = "cosine" if layer.similarity == "cosine" else "log"
        return similarity_maps(self.network.feature_map(x), layer.weight, kind).amax((2, 3))
