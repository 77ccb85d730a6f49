"""Several prototype networks as one: their logits are added up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from secateur.core.errors import RequestError
from secateur.models.prototype_network import PrototypeNetwork


class PrototypeEnsemble(nn.Module):
    """Networks whose logits are summed, so that each prototype of each keeps its contribution.

    Args:
        networks: with the same classes, in the same order; backbones and image sizes may differ only as far as all of
            them take the same input.

    Raises:
        RequestError: for no network, or other numbers of classes.

    Example:
        >>> from secateur.models import build
        >>> nets = [build("prototype-network", num_classes=3, per_class=2, channels=8) for _ in range(2)]
        >>> x = torch.rand(2, 3, 32, 32)
        >>> bool(torch.allclose(PrototypeEnsemble(nets)(x), nets[0](x) + nets[1](x)))
        True
    """

    def __init__(self, networks: Sequence[PrototypeNetwork]) -> None:
        super().__init__()
        if not networks:
            raise RequestError("an ensemble needs at least one network")
        counts = [network.num_classes for network in networks]
        if len(set(counts)) > 1:
            raise RequestError(f"networks of an ensemble have the same classes, got {', '.join(map(str, counts))}")
        self.networks = nn.ModuleList(networks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images to logits [N, C]."""
        return cast(torch.Tensor, sum(network(x) for network in self.networks))
