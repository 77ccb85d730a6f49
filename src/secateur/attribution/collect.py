"""Unit figures from looks at tensors. Axes: N samples, U units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from secateur.attribution.layers import Look
from secateur.core.errors import RequestError, SecateurError

Positions = Literal["sum", "abs", "keep"]


@dataclass(frozen=True, eq=False)
class UnitStatistics:
    """What one layer's units did on each sample, [N, U] each; sums run over positions (space or tokens).

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
    """Adds looks up, by layer.

    Args:
        samples: N.
        positions: how a unit's positions are put together.
        full: gradients and activations too, not only relevance.
        gradient: take the gradient for the relevance.
    """

    def __init__(self, samples: int, positions: Positions, full: bool, gradient: bool) -> None:
        if positions not in ("sum", "abs", "keep"):
            raise RequestError(f"unknown positions '{positions}'; known: sum, abs, keep")
        self.samples = samples
        self.positions = positions
        self.full = full
        self.gradient = gradient
        self.found: dict[str, list[UnitStatistics]] = {}
        self.absorbed: dict[str, torch.Tensor] = {}

    def look(self, name: str, look: Look) -> None:
        """Take a look in; a layer that is called again adds to itself."""
        zero = torch.zeros((), dtype=look.a.dtype, device=look.a.device)
        relevance = look.r
        if self.gradient:
            assert look.g is not None
            relevance = look.g
        per_unit = self._over_positions(relevance, look.dim, self.positions)
        if not torch.isfinite(per_unit).all():
            raise not_finite(f"layer '{name}'", per_unit)
        gradient = activation = zero
        if self.full:
            gradient = (
                zero
                if look.g is None
                else self._over_positions(look.g, look.dim, "abs" if self.positions == "abs" else "sum")
            )
            activation = self._over_positions(look.a, look.dim, "mean")
        self.found.setdefault(name, []).append(UnitStatistics(per_unit, gradient, activation))

    def account(self, name: str, absorbed: torch.Tensor) -> None:
        """Take in what a place absorbed, [N]."""
        self.absorbed[name] = self.absorbed.get(name, 0) + absorbed

    def _over_positions(self, tensor: torch.Tensor, dim: int, how: str) -> torch.Tensor:
        if tensor.shape[0] != self.samples:
            if tensor.shape[0] % self.samples:
                raise RequestError(
                    f"a layer reads or makes shape {list(tensor.shape)} for {self.samples} samples; units are counted "
                    "per sample, so samples must be the first dimension (windows may be folded into it)"
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
        """By layer, in order of execution."""
        return {name: added(name, self.found[name]) for name in order if name in self.found}


def added(name: str, calls: list[UnitStatistics]) -> UnitStatistics:
    """A layer's calls put together: relevance and gradient are sums, the activation is a mean."""
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
    """The error that names layer and sample."""
    sample = int((~torch.isfinite(relevance)).flatten(1).any(1).nonzero()[0, 0])
    return SecateurError(
        f"relevance or gradient of {where} is not finite for sample {sample}; look for NaN in the weights or inputs, "
        "or take a larger stabiliser"
    )
