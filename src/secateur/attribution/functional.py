"""Linear maps, and autograd functions whose backward pass is a rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch.nn import functional as F

from secateur.attribution.rules import LinearMap, damped
from secateur.core.errors import RequestError

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@dataclass(frozen=True, eq=False)
class ConvolutionMap:
    """A convolution with everything but its input fixed.

    ``size`` is that of the input per spatial dimension; ``like`` a tensor of the input's shape, with any values.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    size: tuple[int, ...]
    like: torch.Tensor | None = None
    channel_dim: ClassVar[int] = 1
    input_dim: ClassVar[int] = 1

    def __call__(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """W x + b."""
        convolve = _CONVOLUTIONS[weight.ndim - 2]
        return convolve(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def transpose(self, s: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Wᵀ s, in the shape of the input."""
        shape, like = (s.shape[0], weight.shape[1] * self.groups, *self.size), self.like
        if like is None or like.shape != shape or like.dtype != s.dtype or _channels_last(like) != _channels_last(s):
            layout = torch.channels_last if _channels_last(s) else torch.contiguous_format
            like = torch.empty(shape, dtype=s.dtype, device=s.device, memory_format=layout)
        result: torch.Tensor = torch.ops.aten.convolution_backward(
            s,
            like,
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
        return replace(self, weight=weight, bias=_shifted(self.bias, scale, shift))

    def one_output(self) -> torch.Tensor:
        """A weight of ones with a single output channel."""
        return torch.ones_like(self.weight[:1])


@dataclass(frozen=True, eq=False)
class TransposedMap:
    """A transposed convolution with everything but its input fixed; weight [in, out / groups, ...]."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    output_padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    channel_dim: ClassVar[int] = 1
    input_dim: ClassVar[int] = 0

    def __call__(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """W x + b."""
        convolve = _TRANSPOSED[weight.ndim - 2]
        return convolve(x, weight, bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation)

    def transpose(self, s: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Wᵀ s, in the shape of the input: a plain convolution."""
        return _CONVOLUTIONS[weight.ndim - 2](s, weight, None, self.stride, self.padding, self.dilation, self.groups)

    def folded(self, scale: torch.Tensor, shift: torch.Tensor) -> TransposedMap:
        """The map followed by scale·z + shift per output channel."""
        grouped = self.weight.unflatten(0, (self.groups, -1))
        per_output = scale.reshape(self.groups, 1, -1, *[1] * (self.weight.ndim - 2))
        return replace(self, weight=(grouped * per_output).flatten(0, 1), bias=_shifted(self.bias, scale, shift))

    def one_output(self) -> torch.Tensor:
        """A weight of ones with a single output channel."""
        return torch.ones_like(self.weight[:, :1])


@dataclass(frozen=True, eq=False)
class MatrixMap:
    """A linear layer on the last dimension."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    groups: ClassVar[int] = 1
    channel_dim: ClassVar[int] = -1
    input_dim: ClassVar[int] = 1

    def __call__(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """W x + b."""
        return F.linear(x, weight, bias)

    def transpose(self, s: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Wᵀ s, in the shape of the input."""
        return s @ weight

    def folded(self, scale: torch.Tensor, shift: torch.Tensor) -> MatrixMap:
        """The map followed by scale·z + shift per output."""
        return MatrixMap(self.weight * scale[:, None], _shifted(self.bias, scale, shift))

    def one_output(self) -> torch.Tensor:
        """A weight of ones with a single output."""
        return torch.ones_like(self.weight[:1])


def _channels_last(tensor: torch.Tensor) -> bool:
    return tensor.ndim == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)


def _shifted(bias: torch.Tensor | None, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    return shift if bias is None else shift + scale * bias


def in_dtype(op: LinearMap, dtype: torch.dtype) -> LinearMap:
    """The map with its tensors in another type, as under autocast in the forward pass."""
    if op.weight.dtype == dtype:
        return op
    return replace(op, weight=op.weight.to(dtype), bias=None if op.bias is None else op.bias.to(dtype))  # type: ignore[type-var]


class WeightedFunction(torch.autograd.Function):
    """A weighted layer: ``compute()`` in the forward pass, ``back(g, wanted)`` in the backward pass.

    ``anchor`` is a scalar that requires a gradient, so that the pass is recorded even where x does not require one.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        anchor: torch.Tensor,
        compute: Callable[[], torch.Tensor],
        back: Callable[[torch.Tensor, bool], torch.Tensor | None],
    ) -> torch.Tensor:
        """The output of the layer."""
        ctx.back = back
        return compute()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Apply the rule."""
        back, ctx.back = ctx.back, None
        return back(grads[0], ctx.needs_input_grad[0]), None, None, None


class AffineFunction(torch.autograd.Function):
    """A batch norm on its own in eval mode, y = scale·x + shift, under the ε-rule; ``kept.z`` holds y."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, compute: Callable[[], torch.Tensor], kept: Any, scale: torch.Tensor, epsilon: float
    ) -> torch.Tensor:
        """The output of the norm."""
        ctx.kept, ctx.scale, ctx.epsilon = kept, scale, epsilon
        return compute()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Scale · g |y| / (|y| + ε)."""
        g = grads[0] * ctx.scale
        if ctx.epsilon:
            g = damped(g, ctx.kept.z, ctx.epsilon)
        ctx.kept.z = None
        return g, None, None, None, None


class NormFunction(torch.autograd.Function):
    """Layer norm over the last ``dims`` dimensions with the gradient stopped through the standard deviation."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        shape: tuple[int, ...],
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        eps: float,
    ) -> torch.Tensor:
        """(x - mean) / std · weight + bias."""
        if x.dtype != (x if weight is None else weight).dtype:  # autocast computes norms in single precision
            x = x.to(torch.float32)
        y, _, rstd = torch.native_layer_norm(x, shape, weight, bias, eps)
        ctx.dims = tuple(range(-len(shape), 0))
        ctx.save_for_backward(rstd, weight)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """(gw - mean(gw)) / std, because the mean is a linear map of x."""
        rstd, weight = ctx.saved_tensors
        g = grads[0] if weight is None else grads[0] * weight
        return (g - g.mean(ctx.dims, keepdim=True)).mul_(rstd.to(g.dtype)), None, None, None, None


class SoftmaxPlusFunction(torch.autograd.Function):
    """A softmax whose Taylor expansion shares relevance by the z⁺-rule.

    At x the softmax s is linear in the terms z_ij = s_j (δ_ij - s_i) x_i; input i takes (z_ij)⁺ / Σ_k (z_kj)⁺ of R_j.
    So a positive logit gets relevance from its own output, and a negative one from all others.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, dim: int, dtype: torch.dtype | None, epsilon: float) -> torch.Tensor:
        """Softmax over ``dim``."""
        y = torch.softmax(x, dim, dtype)
        ctx.dim, ctx.epsilon = dim, epsilon
        ctx.save_for_backward(x, y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """R / x, without a division by x, because each term is proportional to its own x."""
        x, s = ctx.saved_tensors
        seen = s > 0  # a masked logit is -inf
        negative = torch.where(seen, s * x.clamp(max=0), 0).neg()
        total = negative.sum(ctx.dim, keepdim=True)
        own = torch.where(seen, (1 - s) * x.clamp(min=0), 0)
        shared = own + total - negative  # 0 where no term is positive: the softmax absorbs that relevance
        rate = torch.where(shared > 0, grads[0] * s / (shared + ctx.epsilon), 0)
        others = rate.sum(ctx.dim, keepdim=True) - rate
        g = torch.where(x > 0, rate * (1 - s), torch.where(x < 0, -s * others, 0))
        return g.to(x.dtype), None, None, None


def attention_plus(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    epsilon: float,
) -> torch.Tensor:
    """`torch.nn.functional.scaled_dot_product_attention` with `SoftmaxPlusFunction` for its softmax."""
    if dropout_p:
        raise RequestError("relevance of attention with dropout is random; put the network in eval mode")
    if enable_gqa:
        key, value = (t.repeat_interleave(query.shape[-3] // t.shape[-3], -3) for t in (key, value))
    logits = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        ones = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device)
        logits = logits.masked_fill(ones.tril().logical_not(), -torch.inf)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        logits = logits.masked_fill(attn_mask.logical_not(), -torch.inf)
    elif attn_mask is not None:
        logits = logits + attn_mask
    weights: torch.Tensor = SoftmaxPlusFunction.apply(logits, -1, None, epsilon)
    return weights @ value


class IdentityFunction(torch.autograd.Function):
    """An activation y = f(x) that passes relevance unchanged: g_in = g·(f(x) - f(0)) / x.

    f(0) is 0 for most; where it is not (sigmoid), it acts as a bias that absorbs its share; otherwise the slope would
    have a pole at x = 0.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, f: Callable[[torch.Tensor], torch.Tensor], epsilon: float, offset: float
    ) -> torch.Tensor:
        """f(x)."""
        ctx.f, ctx.offset = f, offset
        # without an offset f(x) / x is bounded and needs a stabiliser at x = 0 only
        ctx.epsilon = epsilon if offset else torch.finfo(x.dtype).tiny
        ctx.save_for_backward(x)
        return f(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """The slope of the secant; y is computed again, which is cheaper than keeping it."""
        (x,) = ctx.saved_tensors
        y = ctx.f(x)
        if ctx.offset:
            y = y - ctx.offset
        # sign(0) = 1 as in `stabilise`; copysign differs at -0, where y = 0 as well
        return y.mul_(grads[0]).div_(torch.copysign(x.abs().add_(ctx.epsilon), x)), None, None, None


class RectifiedFunction(torch.autograd.Function):
    """A ReLU for the deconvolutional network: g_in = g⁺, whatever the sign of x."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, f: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """f(x)."""
        return f(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """g⁺."""
        return grads[0].clamp(min=0), None
