"""Collects the statistics of units during a backward pass. Axes: N samples, U units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from secateur.attribution.layers import Observation
from secateur.core.errors import RequestError, SecateurError

Positions = Literal["sum", "abs", "keep"]


@dataclass(frozen=True, eq=False)
class UnitStatistics:
    """Statistics of one layer's units on each sample, [N, U] each; sums run over positions (space or tokens).

    Attributes:
        relevance: Σ a·g, the relevance of the unit; with positions ``abs`` Σ |a·g|, with ``keep`` a·g itself.
        gradient: Σ g, the (modified) gradient; with ``abs`` Σ |g|; 0 where a rule gives relevance alone.
        activation: mean of a over positions.
    """

    relevance: torch.Tensor
    gradient: torch.Tensor
    activation: torch.Tensor

    def centred(self) -> torch.Tensor:
        """Σ (a - ā)·g with ā the unit's mean activation over samples and positions, [N, U]."""
        return self.relevance - self.activation.mean(0, keepdim=True) * self.gradient


class Collector:
    """Adds up what is observed of each layer's units.

    Args:
        samples: number of samples, N.
        positions: how the positions of a unit are combined.
        full: collect gradients and activations too, not only relevance.
        gradient: use the gradient as relevance.
    """

    def __init__(self, samples: int, positions: Positions, full: bool, gradient: bool) -> None:
        if positions not in ("sum", "abs", "keep"):
            raise RequestError(f"unknown positions '{positions}'; known: sum, abs, keep")
        self.samples = samples
        self.positions = positions
        self.full = full
        self.gradient = gradient
        self.by_layer: dict[str, list[UnitStatistics]] = {}
        self.absorbed: dict[str, torch.Tensor] = {}

    def observe(self, name: str, observation: Observation) -> None:
        """Add what was observed in one call of a layer."""
        zero = torch.zeros((), dtype=observation.a.dtype, device=observation.a.device)
        relevance = observation.r
        if self.gradient:
            assert observation.g is not None
            relevance = observation.g
        per_unit = self._over_positions(relevance, observation.dim, self.positions)
        if not torch.isfinite(per_unit).all():
            raise not_finite(f"layer '{name}'", per_unit)
        gradient = activation = zero
        if self.full:
            gradient = (
                zero
                if observation.g is None
                else self._over_positions(observation.g, observation.dim, "abs" if self.positions == "abs" else "sum")
            )
            activation = self._over_positions(observation.a, observation.dim, "mean")
        self.by_layer.setdefault(name, []).append(UnitStatistics(per_unit, gradient, activation))

    def account(self, name: str, absorbed: torch.Tensor) -> None:
        """Add the relevance that was absorbed at some part of the network, [N]."""
        self.absorbed[name] = self.absorbed.get(name, 0) + absorbed

    def _over_positions(self, tensor: torch.Tensor, dim: int, how: str) -> torch.Tensor:
        if tensor.shape[0] != self.samples:
            if tensor.shape[0] % self.samples:
                raise RequestError(
                    f"a layer reads or produces shape {list(tensor.shape)} for {self.samples} samples; units are "
                    "counted per sample, so samples must be the first dimension (windows may be folded into it)"
                )
            dim = dim + 1 if dim >= 0 else dim
            tensor = tensor.unflatten(0, (self.samples, -1))  # windows
        if how == "keep":
            return tensor.clone()
        dims = [d for d in range(1, tensor.ndim) if d != dim % tensor.ndim]
        if how == "abs":
            tensor = tensor.abs()
        if not dims:
            return tensor.to(_wide(tensor.dtype), copy=True)
        return tensor.mean(dims, dtype=_wide(tensor.dtype)) if how == "mean" else tensor.sum(
            dims, dtype=_wide(tensor.dtype)
        )  # fmt: skip

    def statistics(self, order: dict[str, int]) -> dict[str, UnitStatistics]:
        """Statistics by layer, in order of execution."""
        return {name: added(name, self.by_layer[name]) for name in order if name in self.by_layer}


def added(name: str, calls: list[UnitStatistics]) -> UnitStatistics:
    """Combine the calls of a layer: relevance and gradient are summed, activations averaged."""
    if len(calls) == 1:
        return calls[0]
    if len({call.relevance.shape for call in calls}) > 1:
        raise RequestError(f"layer '{name}' is called with several shapes; its positions cannot be kept, use 'sum'")
    total = calls[0].relevance, calls[0].gradient, calls[0].activation
    for call in calls[1:]:
        total = total[0] + call.relevance, total[1] + call.gradient, total[2] + call.activation
    return UnitStatistics(total[0], total[1], total[2] / len(calls))


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def not_finite(where: str, relevance: torch.Tensor) -> SecateurError:
    """The error for relevance that is not finite; it names layer and sample."""
    sample = int((~torch.isfinite(relevance)).flatten(1).any(1).nonzero()[0, 0])
    return SecateurError(
        f"relevance or gradient of {where} is not finite for sample {sample}; look for NaN in the weights or inputs, "
        "or use a larger stabiliser"
    )
