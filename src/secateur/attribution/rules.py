"""Rules that pass relevance through a linear map z = Wx + b, as modified gradients.

With activation a and modified gradient g, relevance is R = a·g. A rule turns the gradient g at z into the gradient at
x; x⁺, x⁻ (W⁺, W⁻) are the positive and negative parts. Denominators are stabilised: z' = z + ε·sign(z), sign(0) = 1.

Sources: Bach et al. (2015) for ε and αβ; Montavon et al. (2017, 2019) for γ, z⁺, w² and z^B; Lapuschkin et al. (2019)
for flat; Andéol et al. (2021) for γ with inputs of both signs; Zhang et al. (2018) for z⁺ in excitation backprop.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch

from secateur.core.errors import RequestError

STABILISER = 1e-6


class LinearMap(Protocol):
    """A convolution, transposed convolution or matrix product: ``map(x, W, b)`` and its transpose."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    groups: int
    channel_dim: int

    def __call__(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """W x + b."""
        ...

    def transpose(self, s: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Wᵀ s, in the shape of the input."""
        ...

    def one_output(self) -> torch.Tensor:
        """A weight of ones that makes a single output channel."""
        ...


def stabilise(z: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Z + ε·sign(z), with sign(0) = 1."""
    return z + epsilon * torch.where(z >= 0, 1.0, -1.0).to(z.dtype)


class Rule(ABC):
    """How relevance passes a convolution or linear layer.

    A rule with ``gives_relevance`` returns R at x itself, not the modified gradient: it is for the layer that reads the
    network's input, where x may be 0. A rule without ``needs_input`` does not look at x, which then need not be kept.
    """

    gives_relevance: ClassVar[bool] = False
    needs_input: ClassVar[bool] = True

    @abstractmethod
    def backward(self, g: torch.Tensor, x: torch.Tensor, z: torch.Tensor, op: LinearMap) -> torch.Tensor:
        """Modified gradient at x (or R at x) from the modified gradient ``g`` at ``z = op(x)``."""


@dataclass(frozen=True)
class Epsilon(Rule):
    """LRP-ε: R_i = Σ_j x_i w_ij / (z_j + ε sign z_j) · R_j; ε = 0 is LRP-0, which is gradient times input.

    Example:
        >>> Epsilon(1e-6).epsilon
        1e-06
    """

    epsilon: float = STABILISER
    needs_input: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.epsilon < 0:
            raise RequestError(f"the ε-rule needs ε >= 0, got {self.epsilon}")

    def backward(self, g: torch.Tensor, x: torch.Tensor, z: torch.Tensor, op: LinearMap) -> torch.Tensor:
        """Wᵀ (g |z| / (|z| + ε))."""
        if self.epsilon:
            # g - g·ε / (|z| + ε): one pass less over the activations
            g = torch.addcdiv(g, g, z.abs().add_(self.epsilon), value=-self.epsilon)
        return op.transpose(g, op.weight)


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
        parts = _parts(x)
        bias = op.bias
        result = _shared(
            relevance.mul(self.alpha) if self.alpha != 1 else relevance,
            parts, plus, minus, None if bias is None else bias.clamp(min=0), op, self.epsilon,
        )  # fmt: skip
        if self.beta:
            relevance.mul_(-self.beta)
            negative_bias = None if bias is None else bias.clamp(max=0)
            result += _shared(relevance, parts, minus, plus, negative_bias, op, -self.epsilon)
        return result


Parts = tuple[torch.Tensor, torch.Tensor | None]


def _parts(x: torch.Tensor) -> Parts:
    """x⁺ and x⁻; None for x⁻ = 0, as behind a ReLU, which saves half of the work."""
    return (x, None) if x.numel() == 0 or float(x.amin()) >= 0 else (x.clamp(min=0), x.clamp(max=0))


def _shared(
    relevance: torch.Tensor,
    parts: Parts,
    for_pos: torch.Tensor,
    for_neg: torch.Tensor,
    bias: torch.Tensor | None,
    op: LinearMap,
    epsilon: float,
) -> torch.Tensor:
    """Share relevance out in proportion to x⁺·for_pos + x⁻·for_neg + bias, which has one sign: that of ``epsilon``."""
    pos, neg = parts
    z = op(pos, for_pos, bias)
    if neg is not None:
        z += op(neg, for_neg)
    s = torch.div(relevance, z.add_(epsilon), out=z)
    through = op.transpose(s, for_pos)
    return through if neg is None else torch.where(neg < 0, op.transpose(s, for_neg), through)


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
        pos, neg = _parts(x)
        bias = None if op.bias is None else op.bias + self.gamma * op.bias.clamp(min=0)
        denominator = op(pos, plus, bias)
        if neg is not None:
            denominator += op(neg, minus)
        below = z < 0
        # behind a ReLU nothing comes back where z < 0, which saves half of the work
        both = bool((relevance[below] != 0).any())
        s = relevance / denominator.add(self.epsilon)
        if not both:
            through = op.transpose(s, plus)
            return through if neg is None else torch.where(neg < 0, op.transpose(s, minus), through)
        s = s.masked_fill_(below, 0)
        # the two denominators are z + γz⁺ and z + γz⁻, and z⁺ + z⁻ = z
        other = z.mul(2 + self.gamma).sub_(denominator).sub_(self.epsilon)
        t = relevance.div_(other).masked_fill_(~below, 0)
        through = op.transpose(s, plus) + op.transpose(t, minus)
        if neg is None:
            return through
        return torch.where(neg < 0, op.transpose(s, minus) + op.transpose(t, plus), through)


@dataclass(frozen=True)
class Flat(Rule):
    """Flat rule for the input layer: relevance is shared equally among the inputs of each output."""

    epsilon: float = STABILISER
    gives_relevance: ClassVar[bool] = True

    def backward(self, g: torch.Tensor, x: torch.Tensor, z: torch.Tensor, op: LinearMap) -> torch.Tensor:
        """R at x."""
        relevance = g * z
        if op.groups == 1:
            # every output shares in the same way: add them up first
            ones, relevance = op.one_output(), relevance.sum(op.channel_dim, keepdim=True)
        else:
            ones = torch.ones_like(op.weight)
        return op.transpose(relevance / op(torch.ones_like(x[:1]), ones).add_(self.epsilon), ones)


@dataclass(frozen=True)
class WSquare(Rule):
    """w²-rule for the input layer: R_i = Σ_j w_ij² / Σ_i' w_i'j² · R_j."""

    epsilon: float = STABILISER
    gives_relevance: ClassVar[bool] = True

    def backward(self, g: torch.Tensor, x: torch.Tensor, z: torch.Tensor, op: LinearMap) -> torch.Tensor:
        """R at x."""
        square = op.weight**2
        return op.transpose(g * z / op(torch.ones_like(x[:1]), square).add_(self.epsilon), square)


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
        # W = W⁺ + W⁻, so two transposes are enough
        return (x - self.low) * op.transpose(s, plus) + (x - self.high) * op.transpose(s, minus)


@dataclass(frozen=True)
class Pass(Rule):
    """Hands relevance on unchanged, R_i = R_i: for a layer with as many inputs as outputs."""

    epsilon: float = STABILISER

    def backward(self, g: torch.Tensor, x: torch.Tensor, z: torch.Tensor, op: LinearMap) -> torch.Tensor:
        """g z / x, stabilised."""
        if x.shape != z.shape:
            raise RequestError(f"the pass rule needs equal shapes, got {tuple(x.shape)} and {tuple(z.shape)}")
        return g * z / stabilise(x, self.epsilon)


@dataclass(frozen=True)
class Stop(Rule):
    """Lets no relevance through."""

    def backward(self, g: torch.Tensor, x: torch.Tensor, z: torch.Tensor, op: LinearMap) -> torch.Tensor:
        """Zero."""
        return torch.zeros_like(x)
