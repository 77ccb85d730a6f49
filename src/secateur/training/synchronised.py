"""Batch norms on several ranks: statistics of the whole batch, as one process has them.

`torch.nn.SyncBatchNorm` does so on GPUs alone, and takes the place of modules. Here modules stay as they are, on any
device. Axes: C channels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import SyncBatchNorm, _BatchNorm

from secateur.core.errors import RequestError
from secateur.core.ranks import Ranks


@contextlib.contextmanager
def synchronised_norms(model: nn.Module, of: Ranks) -> Iterator[None]:
    """Let batch norms in training mode take mean and variance over the batches of all ranks, within the context.

    Args:
        model: in place; afterwards it is as it was.
        of: the ranks; of one, nothing changes.

    Raises:
        RequestError: for a batch norm that computes by other code than PyTorch's own.
    """
    norms = {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
    norms = {name: norm for name, norm in norms.items() if of.several and not isinstance(norm, SyncBatchNorm)}
    for name, norm in norms.items():
        if type(norm).forward is not _BatchNorm.forward:
            raise RequestError(
                f"module '{name}' is a {type(norm).__name__}, a batch norm whose statistics cannot be taken over "
                "several processes; train it in one, or without batch norms of its kind"
            )
    try:
        for norm in norms.values():
            norm.forward = partial(_normalised, norm)  # type: ignore[method-assign]
        yield
    finally:
        for norm in norms.values():
            norm.__dict__.pop("forward", None)


class _Normalise(torch.autograd.Function):
    """y = (x - μ) / sqrt(σ² + eps) with given μ and σ², and the gradient as of a function of x, whose moments they are.

    With x̂ = (x - μ) / sqrt(σ² + eps), and means over the n values of a channel on all ranks:
    ∂L/∂x = (g - mean(g) - x̂ · mean(g · x̂)) / sqrt(σ² + eps), g = γ · ∂L/∂y. What is summed over ranks is two numbers
    per channel; all else is PyTorch's own normalisation with fixed statistics.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, moments: _Moments, eps: float
    ) -> torch.Tensor:
        """Args: ``weight`` and ``bias`` [C] of the norm; ``moments`` of the whole batch."""
        mean, var = moments.mean.to(x.dtype), moments.var.to(x.dtype)
        ctx.save_for_backward(x, weight, mean, var)
        ctx.eps, ctx.count = eps, moments.count
        output: torch.Tensor = torch.native_batch_norm(x, weight, bias, mean, var, False, 0.0, eps)[0]
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of x, weight and bias; those of weight and bias are this rank's part."""
        x, weight, mean, var = ctx.saved_tensors
        if gradient.stride() != x.stride():  # on CPUs, PyTorch 2.15 gives wrong results for some of one sample
            gradient = torch.empty_like(x).copy_(gradient)
        # as if the statistics were fixed
        found, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, var, None, None, False, ctx.eps, [True, True, True]
        )
        total = torch.stack([of_bias, of_weight]).double()
        dist.all_reduce(total)
        of_mean, of_normal = total / ctx.count
        scale = (var.double() + ctx.eps).rsqrt()
        slope = -weight.double() * scale.square() * of_normal
        offset = -weight.double() * scale * of_mean - slope * mean.double()
        shape = [1, -1] + [1] * (x.ndim - 2)
        found.add_(offset.to(x.dtype).reshape(shape)).addcmul_(x, slope.to(x.dtype).reshape(shape))
        return found, of_weight, of_bias, None, None


@dataclass(frozen=True)
class _Moments:
    """Of the values of each channel on all ranks, in double precision.

    Attributes:
        count: of the values, [1].
        mean: [C].
        var: [C], not corrected for the mean.
    """

    count: torch.Tensor
    mean: torch.Tensor
    var: torch.Tensor

    @classmethod
    def of(cls, x: torch.Tensor) -> _Moments:
        """Of this rank's values and those of the others."""
        mean, var = (each.double() for each in torch.batch_norm_update_stats(x, None, None, 0.0))
        count = mean.new_full((1,), x.numel() // x.shape[1])
        total = torch.cat([count, count * mean, count * (var + mean.square())])
        dist.all_reduce(total)
        whole, sums, squares = total.split([1, len(mean), len(mean)])
        mean = sums / whole
        return cls(whole, mean, (squares / whole - mean.square()).clamp(min=0))


def _normalised(norm: _BatchNorm, x: torch.Tensor) -> torch.Tensor:
    """What the norm gives, with the statistics of all ranks where it is in training mode."""
    if not norm.training:
        output: torch.Tensor = type(norm).forward(norm, x)
        return output
    norm._check_input_dim(x)
    values = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    with torch.no_grad():
        moments = _Moments.of(values)
    # a GPU is waited for only where the answer is not known
    if x.numel() // x.shape[1] <= 1 and float(moments.count) <= 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {x.size()}")
    _track(norm, moments.mean, moments.var * moments.count / (moments.count - 1))
    given: tuple[torch.Tensor | None, torch.Tensor | None] = (norm.weight, norm.bias)
    weight = values.new_ones(x.shape[1]) if given[0] is None else given[0].to(values.dtype)
    bias = values.new_zeros(x.shape[1]) if given[1] is None else given[1].to(values.dtype)
    normal: torch.Tensor = _Normalise.apply(values, weight, bias, moments, norm.eps)
    return normal.to(x.dtype)


@torch.no_grad()
def _track(norm: _BatchNorm, mean: torch.Tensor, var: torch.Tensor) -> None:
    """Running statistics, as PyTorch keeps them."""
    if not norm.track_running_stats or norm.running_mean is None or norm.running_var is None:
        return
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    share = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean.to(norm.running_mean), share)
    norm.running_var.lerp_(var.to(norm.running_var), share)
