"""Rules that pass relevance through a linear map z = Wx + b, as modified gradients.

With activation a and modified gradient g, relevance is R = a·g. A rule turns the gradient g at z into the gradient at
x; x⁺, x⁻ (W⁺, W⁻) are the positive and negative parts. Denominators are stabilised: z' = z + ε·sign(z), sign(0) = 1.

Sources: Bach et al. (2015) for ε and αβ; Montavon et al. (2017, 2019) for γ, z⁺, w² and z^B; Lapuschkin et al. (2019)
for flat; Andéol et al. (2021) for γ with inputs of both signs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch

from secateur.core.errors import RequestError

STABILISER = 1e-6


class LinearMap(Protocol):
    """A convolution or matrix product: ``map(x, W, b)`` and its transpose."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __call__(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """W x + b."""
        ...

    def transpose(self, s: torch.Tensor, weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Wᵀ s, in the shape of x."""
        ...


def stabilise(z: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Z + ε·sign(z), with sign(0) = 1."""
    return z + epsilon * torch.where(z >= 0, 1.0, -1.0).to(z.dtype)


class Rule(ABC):
    """How relevance passes a convolution or linear layer.

    A rule with ``gives_relevance`` returns R at x itself, not the modified gradient: it is for the layer that reads the
    network's input, where x may be 0.
    """

    gives_relevance: ClassVar[bool] = False

    @abstractmethod
    def backward(self, g: torch.Tensor, x: torch.Tensor, z: torch.Tensor, op: LinearMap) -> torch.Tensor:
        """Modified gradient at x (or R at x) from the modified gradient ``g`` at ``z = op(x)``."""


@dataclass(frozen=True)
class Epsilon(Rule):
    """LRP-ε: R_i = Σ_j x_i w_ij / (z_j + ε sign z_j) · R_j; ε = 0 is LRP-0."""

    epsilon: float = STABILISER

    def backward(self, g: torch.Tensor, x: torch.Tensor, z: torch.Tensor, op: LinearMap) -> torch.Tensor:
        """Wᵀ (g |z| / (|z| + ε))."""
        if self.epsilon == 0:
            return op.transpose(g, op.weight, x)
        size = z.abs()
        return op.transpose(g * (size / (size + self.epsilon)), op.weight, x)


@dataclass(frozen=True)
class AlphaBeta(Rule):
    """LRP-αβ: R_i = Σ_j (α (x_i w_ij)⁺/z_j⁺ - β (x_i w_ij)⁻/z_j⁻) R_j, with α - β = 1 and biases in z⁺, z⁻."""

    alpha: float = 2.0
    beta: float = 1.0
    epsilon: float = STABILISER

    def __post_init__(self) -> None:
        if self.alpha < 1 or abs(self.alpha - self.beta - 1) > 1e-9:
            raise RequestError(f"the αβ-rule needs α >= 1 and α - β = 1, got α={self.alpha}, β={self.beta}")

    def backward(self, g: torch.Tensor, x: torch.Tensor, z: torch.Tensor, op: LinearMap) -> torch.Tensor:
        """Positive and negative contributions, each shared out on its own."""
        relevance = g * z
        plus, minus = op.weight.clamp(min=0), op.weight.clamp(max=0)
        pos, neg = x.clamp(min=0), x.clamp(max=0)
        signed = bool((x < 0).any())
        terms = [(self.alpha, plus, minus, None if op.bias is None else op.bias.clamp(min=0))]
        if self.beta:
            terms.append((-self.beta, minus, plus, None if op.bias is None else op.bias.clamp(max=0)))
        result = torch.zeros_like(x)
        for factor, with_pos, with_neg, bias in terms:
            denominator = op(pos, with_pos, bias)
            if signed:
                denominator = denominator + op(neg, with_neg)
            s = factor * relevance / stabilise(denominator, self.epsilon)
            through = op.transpose(s, with_pos, x)
            result += torch.where(x >= 0, through, op.transpose(s, with_neg, x)) if signed else through
        return result


class ZPlus(AlphaBeta):
    """LRP-z⁺: only positive contributions; the αβ-rule with α = 1, β = 0."""

    def __init__(self, epsilon: float = STABILISER) -> None:
        super().__init__(1.0, 0.0, epsilon)


@dataclass(frozen=True)
class Gamma(Rule):
    """LRP-γ for inputs of both signs.

    Where z_j > 0, contributions use W + γW⁺ for positive and W + γW⁻ for negative inputs; where z_j < 0, the other way
    round; each is divided by the sum it belongs to (bias included, b + γb⁺ or b + γb⁻).
    """

    gamma: float = 0.25
    epsilon: float = STABILISER

    def __post_init__(self) -> None:
        if self.gamma < 0:
            raise RequestError(f"the γ-rule needs γ >= 0, got {self.gamma}")

    def backward(self, g: torch.Tensor, x: torch.Tensor, z: torch.Tensor, op: LinearMap) -> torch.Tensor:
        """Two cases by the sign of z, two weights by the sign of x."""
        relevance = g * z
        plus = op.weight + self.gamma * op.weight.clamp(min=0)
        minus = op.weight + self.gamma * op.weight.clamp(max=0)
        pos, neg = x.clamp(min=0), x.clamp(max=0)
        signed = bool((x < 0).any())
        result = torch.zeros_like(x)
        for case, with_pos, with_neg, sign in ((z > 0, plus, minus, 1), (z < 0, minus, plus, -1)):
            bias = op.bias
            if bias is not None:
                bias = bias + self.gamma * (bias.clamp(min=0) if sign > 0 else bias.clamp(max=0))
            denominator = op(pos, with_pos, bias)
            if signed:
                denominator = denominator + op(neg, with_neg)
            s = torch.where(case, relevance / stabilise(denominator, self.epsilon), 0)
            through = op.transpose(s, with_pos, x)
            result += torch.where(x >= 0, through, op.transpose(s, with_neg, x)) if signed else through
        return result


@dataclass(frozen=True)
class Flat(Rule):
    """Flat rule for the input layer: relevance is shared equally among the inputs of each output."""

    epsilon: float = STABILISER
    gives_relevance: ClassVar[bool] = True

    def backward(self, g: torch.Tensor, x: torch.Tensor, z: torch.Tensor, op: LinearMap) -> torch.Tensor:
        """R at x."""
        ones = torch.ones_like(op.weight)
        s = g * z / stabilise(op(torch.ones_like(x[:1]), ones), self.epsilon)
        return op.transpose(s, ones, x)


@dataclass(frozen=True)
class WSquare(Rule):
    """w²-rule for the input layer: R_i = Σ_j w_ij² / Σ_i' w_i'j² · R_j."""

    epsilon: float = STABILISER
    gives_relevance: ClassVar[bool] = True

    def backward(self, g: torch.Tensor, x: torch.Tensor, z: torch.Tensor, op: LinearMap) -> torch.Tensor:
        """R at x."""
        square = op.weight**2
        s = g * z / stabilise(op(torch.ones_like(x[:1]), square), self.epsilon)
        return op.transpose(s, square, x)


@dataclass(frozen=True)
class ZBox(Rule):
    """z^B-rule for inputs in a box [low, high]: R_i = Σ_j (x_i w_ij - l w_ij⁺ - h w_ij⁻) / Σ_i'(...) · R_j."""

    low: float
    high: float
    epsilon: float = STABILISER
    gives_relevance: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise RequestError(f"the z^B-rule needs low < high, got {self.low} and {self.high}")

    def backward(self, g: torch.Tensor, x: torch.Tensor, z: torch.Tensor, op: LinearMap) -> torch.Tensor:
        """R at x."""
        plus, minus = op.weight.clamp(min=0), op.weight.clamp(max=0)
        low, high = torch.full_like(x[:1], self.low), torch.full_like(x[:1], self.high)
        denominator = op(x, op.weight) - op(low, plus) - op(high, minus)
        s = g * z / stabilise(denominator, self.epsilon)
        return (
            x * op.transpose(s, op.weight, x)
            - self.low * op.transpose(s, plus, x)
            - self.high * op.transpose(s, minus, x)
        )
