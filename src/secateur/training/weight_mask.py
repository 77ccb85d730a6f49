"""Masks of single weights that a training keeps: what is 0 stays 0."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from secateur.core.errors import RequestError


@dataclass(frozen=True, eq=False)
class WeightMask:
    """Which single weights of a network stay; all others are held at 0.

    Attributes:
        kept: booleans of each masked parameter's shape, by name as in ``named_parameters``; parameters that are not
            named are not masked.

    Example:
        >>> mask = WeightMask({"weight": torch.tensor([[True, False, True]])})
        >>> mask.share, mask.applied_to(nn.Linear(3, 1)).weight[0, 1].item()
        (0.6666666666666666, 0.0)
    """

    kept: Mapping[str, torch.Tensor]

    @classmethod
    def of_zeros(cls, model: nn.Module) -> WeightMask:
        """Of a network that is masked already: weights that are exactly 0, in parameters of several dimensions.

        Example:
            >>> net = nn.Linear(2, 1)
            >>> net.weight.data[0, 1] = 0
            >>> WeightMask.of_zeros(net).kept["weight"].tolist()
            [[True, False]]
        """
        return cls({name: (p.detach() != 0).cpu() for name, p in model.named_parameters() if p.ndim > 1})

    @property
    def share(self) -> float:
        """Of the masked parameters' weights, those that stay."""
        return self.count / max(1, sum(keep.numel() for keep in self.kept.values()))

    @property
    def count(self) -> int:
        """Weights that stay."""
        return sum(int(keep.sum()) for keep in self.kept.values())

    @cached_property
    def digest(self) -> str:
        """Hash of the mask; a resumed training must go on under the same mask."""
        found = hashlib.sha256()
        for name, keep in self.kept.items():
            found.update(f"{name} {list(keep.shape)}".encode())
            found.update(keep.cpu().contiguous().numpy().tobytes())
        return found.hexdigest()[:16]

    def applied_to(self, model: nn.Module) -> nn.Module:
        """A copy of the network with zeros where the mask says so."""
        masked = copy.deepcopy(model)
        self.bind(masked).clear_weights()
        return masked

    def bind(
        self, model: nn.Module, part: Callable[[torch.Tensor, nn.Parameter], torch.Tensor] | None = None
    ) -> BoundMask:
        """The mask of this very network's parameters, on their device.

        Args:
            model: that is masked.
            part: what belongs with a parameter's values here, of a tensor of its shape; None: all of it, on its device.

        Raises:
            RequestError: for a parameter that the network lacks, or has in another shape.
        """
        parameters = dict(model.named_parameters())
        pairs = []
        for name, keep in self.kept.items():
            parameter = parameters.get(name)
            if parameter is None or parameter.shape != keep.shape:
                has = "no such parameter" if parameter is None else f"one of shape {tuple(parameter.shape)}"
                raise RequestError(
                    f"the weight mask has '{name}' of shape {tuple(keep.shape)}, the network has {has}; "
                    "make the mask of this network"
                )
            gone = ~keep
            pairs.append((parameter, gone.to(parameter.device) if part is None else part(gone, parameter)))
        return BoundMask(pairs)


class BoundMask:
    """A `WeightMask` on the parameters of one network.

    Args:
        pairs: each parameter, with True where it is held at 0.
    """

    def __init__(self, pairs: list[tuple[nn.Parameter, torch.Tensor]]) -> None:
        self._pairs = pairs

    def clear_weights(self) -> None:
        """Set masked weights to 0."""
        with torch.no_grad():
            for parameter, gone in self._pairs:
                parameter.masked_fill_(gone, 0)

    def clear_gradients(self) -> None:
        """Set their gradients to 0: momentum, Adam's moments and the norm that is clipped then see none of them.

        Decay of a weight that is 0 is 0 as well, so an optimiser's step leaves it as it is.
        """
        for parameter, gone in self._pairs:
            if parameter.grad is not None:
                parameter.grad.masked_fill_(gone, 0)
