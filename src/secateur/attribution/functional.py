"""Autograd functions whose backward is a rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from secateur.attribution.rules import LinearMap, Rule, stabilise

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@dataclass(frozen=True, eq=False)
class ConvolutionMap:
    """A convolution with everything but its input fixed; the batch norm behind it may be folded in."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def __call__(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """W x + b."""
        convolve = _CONVOLUTIONS[weight.ndim - 2]
        return convolve(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def transpose(self, s: torch.Tensor, weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Wᵀ s, in the shape of x."""
        if s.shape[0] != x.shape[0]:
            s = s.expand(x.shape[0], *s.shape[1:])
        result: torch.Tensor = torch.ops.aten.convolution_backward(
            s,
            x,
            weight,
            None,
            self.stride,
            self.padding,
            self.dilation,
            False,
            [0] * (weight.ndim - 2),
            self.groups,
            [True, False, False],
        )[0]
        return result

    def folded(self, scale: torch.Tensor, shift: torch.Tensor) -> ConvolutionMap:
        """The map followed by scale·z + shift per output channel."""
        weight = self.weight * scale.reshape(-1, *[1] * (self.weight.ndim - 1))
        bias = shift if self.bias is None else shift + scale * self.bias
        return ConvolutionMap(weight, bias, self.stride, self.padding, self.dilation, self.groups)


@dataclass(frozen=True, eq=False)
class MatrixMap:
    """A linear layer on the last dimension."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __call__(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """W x + b."""
        return F.linear(x, weight, bias)

    def transpose(self, s: torch.Tensor, weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Wᵀ s, in the shape of x."""
        return s @ weight

    def folded(self, scale: torch.Tensor, shift: torch.Tensor) -> MatrixMap:
        """The map followed by scale·z + shift per output."""
        bias = shift if self.bias is None else shift + scale * self.bias
        return MatrixMap(self.weight * scale[:, None], bias)


class RuleFunction(torch.autograd.Function):
    """Forward: hands out ``z``, which is ``op(x)`` already computed; backward: the rule.

    A rule that gives relevance instead of a gradient leaves it with ``sink`` and sends no gradient.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, z: torch.Tensor, op: LinearMap, rule: Rule, sink: Any) -> torch.Tensor:
        """A copy of z: the network may go on in place, the rule needs z itself."""
        ctx.op, ctx.rule, ctx.sink = op, rule, sink
        ctx.save_for_backward(x, z)
        return z.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """The rule."""
        x, z = ctx.saved_tensors
        result = ctx.rule.backward(grads[0], x, z, ctx.op)
        if ctx.rule.gives_relevance:
            ctx.sink(result)
            return torch.zeros_like(result), None, None, None, None
        return result, None, None, None, None


class AffineFunction(torch.autograd.Function):
    """A batch norm on its own in eval mode, y = scale·x + shift, under the ε-rule."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, y: torch.Tensor, scale: torch.Tensor, epsilon: float) -> torch.Tensor:
        """A copy of y; see `RuleFunction`."""
        ctx.epsilon = epsilon
        ctx.save_for_backward(y, scale)
        return y.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Scale · g |y| / (|y| + ε)."""
        y, scale = ctx.saved_tensors
        size = y.abs()
        return grads[0] * scale * (size / (size + ctx.epsilon)), None, None, None


class IdentityFunction(torch.autograd.Function):
    """An activation y = f(x) that passes relevance unchanged: g_in = g·y / x."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, y: torch.Tensor, epsilon: float) -> torch.Tensor:
        """A copy of y; see `RuleFunction`."""
        ctx.epsilon = epsilon
        ctx.save_for_backward(x, y)
        return y.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """g·y / x, stabilised."""
        x, y = ctx.saved_tensors
        return grads[0] * y / stabilise(x, ctx.epsilon), None, None


class ProductFunction(torch.autograd.Function):
    """A product of two activations; each factor gets half of the relevance."""

    @staticmethod
    def forward(ctx: Any, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """a·b."""
        ctx.save_for_backward(a, b)
        return a * b

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Half of the plain gradient to each."""
        a, b = ctx.saved_tensors
        return (0.5 * grads[0] * b).sum_to_size(a.shape), (0.5 * grads[0] * a).sum_to_size(b.shape)
