"""Batch norms on several ranks: statistics of the whole batch, as one process has them.

`torch.nn.SyncBatchNorm` does so on GPUs alone, and takes the place of modules. Here modules stay as they are, on any
device. Axes: C channels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
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


class _Total(torch.autograd.Function):
    """Sum over ranks; so is that of gradients."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:
        """Args: ``values`` are of one shape on all ranks."""
        total = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        """Every rank's loss depends on the sum."""
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


def _normalised(norm: _BatchNorm, x: torch.Tensor) -> torch.Tensor:
    """What the norm gives, with the statistics of all ranks where it is in training mode."""
    if not norm.training:
        output: torch.Tensor = type(norm).forward(norm, x)
        return output
    norm._check_input_dim(x)
    values = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    shape = [1, -1] + [1] * (x.ndim - 2)
    own_var, own_mean = torch.var_mean(values, [0, *range(2, x.ndim)], correction=0)
    mean, square = own_mean.double(), own_var.double() + own_mean.double().square()
    ones = torch.full_like(mean, x.numel() // x.shape[1])
    total: torch.Tensor = _Total.apply(torch.stack([ones, ones * mean, ones * square]))
    count = total[0].detach()
    if float(count[0]) <= 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {x.size()}")
    mean = total[1] / count
    var = (total[2] / count - mean.square()).clamp(min=0)
    _track(norm, mean.detach(), (var * count / (count - 1)).detach())
    scale = (var + norm.eps).rsqrt().to(values.dtype)
    normal = (values - mean.to(values.dtype).reshape(shape)) * scale.reshape(shape)
    if norm.affine:
        normal = normal * norm.weight.to(values.dtype).reshape(shape) + norm.bias.to(values.dtype).reshape(shape)
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
