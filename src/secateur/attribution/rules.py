"""Rules that pass relevance through a linear map z = Wx + b, as modified gradients.

With activation a and modified gradient g, relevance is R = a·g. A rule turns the gradient g at z into the gradient at
x; x⁺, x⁻ (W⁺, W⁻) are the positive and negative parts. Denominators are stabilised: z' = z + ε·sign(z), sign(0) = 1.

Sources: Bach et al. (2015) for ε and αβ; Montavon et al. (2017, 2019) for γ, z⁺, w² and z^B; Lapuschkin et al. (2019)
for flat; Andéol et al. (2021) for γ with inputs of both signs; Zhang et al. (2018) for z⁺ in excitation backprop.

PyTorch is imported inside the functions: names and parameters of rules are checked before it is loaded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from secateur.core.errors import RequestError

if TYPE_CHECKING:
    import torch

STABILISER = 1e-6


class LinearMap(Protocol):
    """A convolution, transposed convolution or matrix product: ``map(x, W, b)`` and its transpose."""

    @property
    def weight(self) -> torch.Tensor:
        """W."""
        ...

    @property
    def bias(self) -> torch.Tensor | None:
        """B."""
        ...

    @property
    def groups(self) -> int:
        """Groups of a convolution."""
        ...

    @property
    def channel_dim(self) -> int:
        """Dimension of the channels in input and output."""
        ...

    @property
    def input_dim(self) -> int:
        """Dimension of the input channels in W."""
        ...

    def __call__(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """W x + b."""
        ...

    def transpose(self, s: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Wᵀ s, in the shape of the input."""
        ...

    def one_output(self) -> torch.Tensor:
        """A weight of ones with a single output channel."""
        ...


def stabilise(z: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Z + ε·sign(z), with sign(0) = 1."""
    import torch

    return z + epsilon * torch.where(z >= 0, 1.0, -1.0).to(z.dtype)


def damped(g: torch.Tensor, z: torch.Tensor, epsilon: float, scratch: torch.Tensor | None = None) -> torch.Tensor:
    """The gradient times |z| / (|z| + ε), computed as g - g·ε / (|z| + ε) with few passes over the activations."""
    import torch

    if epsilon == 0:
        return g
    size = torch.abs(z, out=scratch).add_(epsilon)
    return torch.addcdiv(g, g, size, value=-epsilon, out=size)


class Rule(ABC):
    """How relevance passes a convolution or linear layer.

    A rule with ``gives_relevance`` returns R at x itself, not the modified gradient: it is for the layer that reads the
    network's input, where x may be 0. A rule without ``needs_input`` does not use x, which then need not be kept.
    """

    gives_relevance: ClassVar[bool] = False
    needs_input: ClassVar[bool] = True

    @abstractmethod
    def backward(
        self, g: torch.Tensor, r: torch.Tensor, x: torch.Tensor, z: torch.Tensor, op: LinearMap
    ) -> torch.Tensor:
        """Modified gradient at x (or R at x).

        Args:
            g: modified gradient at z.
            r: relevance g·z; the rule may overwrite it, which saves a large allocation.
            x: input.
            z: output, ``op(x)``.
            op: the linear map.
        """


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

    def backward(
        self, g: torch.Tensor, r: torch.Tensor, x: torch.Tensor, z: torch.Tensor, op: LinearMap
    ) -> torch.Tensor:
        """Wᵀ (g |z| / (|z| + ε))."""
        return op.transpose(damped(g, z, self.epsilon, r), op.weight)


@dataclass(frozen=True)
class AlphaBeta(Rule):
    """LRP-αβ: R_i = Σ_j (α (x_i w_ij)⁺/z_j⁺ - β (x_i w_ij)⁻/z_j⁻) R_j, with α - β = 1.

    Biases are part of z⁺ and z⁻ and get their share; without ``bias`` they get none, and inputs share all of R_j.
    """

    alpha: float = 2.0
    beta: float = 1.0
    epsilon: float = STABILISER
    bias: bool = True

    def __post_init__(self) -> None:
        if self.alpha < 1 or abs(self.alpha - self.beta - 1) > 1e-9:
            raise RequestError(f"the αβ-rule needs α >= 1 and α - β = 1, got α={self.alpha}, β={self.beta}")

    def backward(
        self, g: torch.Tensor, r: torch.Tensor, x: torch.Tensor, z: torch.Tensor, op: LinearMap
    ) -> torch.Tensor:
        """Distribute positive and negative contributions separately."""
        import torch

        parts = _Parts(x, op)
        plus = op.weight.clamp(min=0)
        minus = op.weight.clamp(max=0) if self.beta or parts.below is not None else None
        # ε is added to the bias, which saves a pass over the activations
        given = op.bias if self.bias else None
        z = parts.forward(plus, minus, _offset(op, z, 0.0 if given is None else given.clamp(min=0), self.epsilon))
        result = parts.back(torch.div(r, z, out=z), plus, minus, self.alpha)
        if self.beta:
            assert minus is not None
            bias = _offset(op, z, 0.0 if given is None else given.clamp(max=0), -self.epsilon)
            z = parts.forward(minus, plus, bias)
            result += parts.back(torch.div(r, z, out=z), minus, plus, -self.beta)
        return result


def _offset(op: LinearMap, z: torch.Tensor, bias: torch.Tensor | float, epsilon: float) -> torch.Tensor:
    """The sum of a bias and ε, per output channel."""
    return z.new_full((z.shape[op.channel_dim],), epsilon) + bias


class _Parts:
    """Separate weights for x⁺ and x⁻; where x⁻ = 0, as after a ReLU, half of the work is skipped."""

    def __init__(self, x: torch.Tensor, op: LinearMap) -> None:
        import torch

        self.op = op
        self.below = None if x.numel() == 0 or float(x.amin()) >= 0 else x < 0
        if self.below is None:
            self.parts = [x]
        elif op.groups == 1:
            # one map with twice the inputs: layers that read images are as fast with six channels as with three
            self.parts = [torch.cat([x.clamp(min=0), x.clamp(max=0)], op.channel_dim)]
        else:
            self.parts = [x.clamp(min=0), x.clamp(max=0)]

    def forward(self, for_pos: torch.Tensor, for_neg: torch.Tensor | None, bias: torch.Tensor) -> torch.Tensor:
        """x⁺·for_pos + x⁻·for_neg + bias."""
        import torch

        if self.below is None:
            return self.op(self.parts[0], for_pos, bias)
        assert for_neg is not None
        if len(self.parts) == 1:
            return self.op(self.parts[0], torch.cat([for_pos, for_neg], self.op.input_dim), bias)
        return self.op(self.parts[0], for_pos, bias).add_(self.op(self.parts[1], for_neg))

    def back(self, s: torch.Tensor, for_pos: torch.Tensor, for_neg: torch.Tensor | None, factor: float) -> torch.Tensor:
        """Factor · for_posᵀ s where x >= 0, factor · for_negᵀ s elsewhere; ``s`` is overwritten."""
        import torch

        if factor != 1:
            if s.numel() <= for_pos.numel():
                s = s.mul_(factor)
            else:
                for_pos, for_neg = for_pos * factor, None if for_neg is None else for_neg * factor
        if self.below is None:
            return self.op.transpose(s, for_pos)
        assert for_neg is not None
        if len(self.parts) == 1:
            both = self.op.transpose(s, torch.cat([for_pos, for_neg], self.op.input_dim))
            pos, neg = both.chunk(2, self.op.channel_dim)
        else:
            pos, neg = self.op.transpose(s, for_pos), self.op.transpose(s, for_neg)
        return torch.where(self.below, neg, pos)


class ZPlus(AlphaBeta):
    """LRP-z⁺: only positive contributions; the αβ-rule with α = 1, β = 0."""

    def __init__(self, epsilon: float = STABILISER, bias: bool = True) -> None:
        super().__init__(1.0, 0.0, epsilon, bias)


@dataclass(frozen=True)
class PlusWeights(Rule):
    """z⁺ by the sign of the weights alone: R_i = Σ_j x_i w_ij⁺ / Σ_i' x_i' w_i'j⁺ · R_j, without biases.

    The same as z⁺ without biases where no input is negative; where some are, as after a layer without ReLU,
    contributions and relevance have both signs, as in the scripts of Yeom et al. (2021) for the 2-D toy study.

    Example:
        >>> import torch
        >>> from secateur.attribution import Composite, attribute
        >>> net = torch.nn.Linear(2, 1, bias=False)
        >>> _ = net.weight.data.copy_(torch.tensor([[1.0, -3.0]]))
        >>> rules = Composite("example", lambda layer: PlusWeights())
        >>> attribute(net, torch.tensor([[2.0, 0.5]]), [0], rules).input.round(decimals=3).tolist()
        [[1.0, 0.0]]
    """

    epsilon: float = STABILISER

    def backward(
        self, g: torch.Tensor, r: torch.Tensor, x: torch.Tensor, z: torch.Tensor, op: LinearMap
    ) -> torch.Tensor:
        """W⁺ᵀ (R / (W⁺x + ε sign))."""
        plus = op.weight.clamp(min=0)
        return op.transpose(r / stabilise(op(x, plus), self.epsilon), plus)


@dataclass(frozen=True)
class Gamma(Rule):
    """LRP-γ for inputs of both signs.

    Where z_j > 0, contributions use W + γW⁺ for positive and W + γW⁻ for negative inputs; where z_j < 0, the other way
    round; each is divided by the sum of which it is a part (bias included, b + γb⁺ or b + γb⁻).
    """

    gamma: float = 0.25
    epsilon: float = STABILISER

    def __post_init__(self) -> None:
        if self.gamma < 0:
            raise RequestError(f"the γ-rule needs γ >= 0, got {self.gamma}")

    def backward(
        self, g: torch.Tensor, r: torch.Tensor, x: torch.Tensor, z: torch.Tensor, op: LinearMap
    ) -> torch.Tensor:
        """Two cases by the sign of z, two weights by the sign of x.

        With P = |W||x|: the positive part of z (less its bias) is (z + P) / 2, the negative one (z - P) / 2, without
        cancellation where each is used; and W + γW⁺, W + γW⁻ are (1 + γ/2) W ± γ/2 |W|.
        """
        import torch

        if self.gamma == 0:
            return op.transpose(damped(g, z, self.epsilon, r), op.weight)
        half = self.gamma / 2
        absolute = op.weight.abs().mul_(half)
        below = x < 0 if float(x.amin()) < 0 else None
        bias = _offset(op, z, 0.0 if op.bias is None else op.bias.abs() * half, self.epsilon)
        # (1 + γ/2) z ± (γ/2 (P + |b|) + ε), by the sign of z
        size = op(x if below is None else x.abs(), absolute, bias)
        size = torch.copysign(size, z, out=size).add_(z, alpha=1 + half)
        s = torch.div(r, size, out=r)
        if below is None and (float(z.amin()) >= 0 or not bool(((z < 0) & (s != 0)).any())):
            # a ReLU passes no gradient where z < 0
            return op.transpose(s, torch.add(absolute, op.weight, alpha=1 + half))
        result = op.transpose(s, op.weight * (1 + half))
        s.mul_(torch.sign(size, out=size))
        through = op.transpose(s, absolute)
        return result.add_(through) if below is None else result.add_(through.mul_(torch.sign(x)))


@dataclass(frozen=True)
class Flat(Rule):
    """Flat rule for the input layer: relevance is shared equally among the inputs of each output."""

    epsilon: float = STABILISER
    gives_relevance: ClassVar[bool] = True

    def backward(
        self, g: torch.Tensor, r: torch.Tensor, x: torch.Tensor, z: torch.Tensor, op: LinearMap
    ) -> torch.Tensor:
        """R at x."""
        import torch

        if op.groups == 1:
            # the shares of all outputs are the same: add them up first
            ones, r = op.one_output(), r.sum(op.channel_dim, keepdim=True)
        else:
            ones = torch.ones_like(op.weight)
        return op.transpose(r / op(torch.ones_like(x[:1]), ones).add_(self.epsilon), ones)


@dataclass(frozen=True)
class WSquare(Rule):
    """w²-rule for the input layer: R_i = Σ_j w_ij² / Σ_i' w_i'j² · R_j."""

    epsilon: float = STABILISER
    gives_relevance: ClassVar[bool] = True

    def backward(
        self, g: torch.Tensor, r: torch.Tensor, x: torch.Tensor, z: torch.Tensor, op: LinearMap
    ) -> torch.Tensor:
        """R at x."""
        import torch

        square = op.weight**2
        return op.transpose(r / op(torch.ones_like(x[:1]), square).add_(self.epsilon), square)


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

    def backward(
        self, g: torch.Tensor, r: torch.Tensor, x: torch.Tensor, z: torch.Tensor, op: LinearMap
    ) -> torch.Tensor:
        """R at x."""
        import torch

        plus, minus = op.weight.clamp(min=0), op.weight.clamp(max=0)
        low, high = torch.full_like(x[:1], self.low), torch.full_like(x[:1], self.high)
        denominator = op(x, op.weight) - op(low, plus) - op(high, minus)
        s = r / stabilise(denominator, self.epsilon)
        # W = W⁺ + W⁻, so two transposes are enough
        return (x - self.low) * op.transpose(s, plus) + (x - self.high) * op.transpose(s, minus)


@dataclass(frozen=True)
class Pass(Rule):
    """Passes relevance on unchanged, for a layer with as many inputs as outputs."""

    epsilon: float = STABILISER

    def backward(
        self, g: torch.Tensor, r: torch.Tensor, x: torch.Tensor, z: torch.Tensor, op: LinearMap
    ) -> torch.Tensor:
        """G z / x, stabilised."""
        if x.shape != z.shape:
            raise RequestError(f"the pass rule needs equal shapes, got {tuple(x.shape)} and {tuple(z.shape)}")
        return r / stabilise(x, self.epsilon)


@dataclass(frozen=True)
class Stop(Rule):
    """Passes no relevance."""

    def backward(
        self, g: torch.Tensor, r: torch.Tensor, x: torch.Tensor, z: torch.Tensor, op: LinearMap
    ) -> torch.Tensor:
        """Zero."""
        import torch

        return torch.zeros_like(x)
