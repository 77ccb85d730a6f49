"""Ridge regression of a layer's weights from sums over its inputs, and the inputs of its linear map as columns.

Axes: G groups, I inputs of an output, O outputs of a group.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from secateur.core.ranks import Ranks


class Moments:
    """Sums over rows of inputs X and residuals R, in double precision, by group."""

    def __init__(self) -> None:
        self.count = 0
        self.xx = torch.zeros((), dtype=torch.float64)  # [G, I, I]
        self.rx = torch.zeros((), dtype=torch.float64)  # [G, O, I]
        self.x = torch.zeros((), dtype=torch.float64)  # [G, I]
        self.r = torch.zeros((), dtype=torch.float64)  # [G, O]
        self.rr = torch.zeros((), dtype=torch.float64)

    def add(self, x: torch.Tensor, r: torch.Tensor) -> None:
        """Add rows of inputs [rows, G, I] and residuals [rows, G, O]."""
        x_GRI, r_GOR = x.transpose(0, 1), r.permute(1, 2, 0)
        self.count += len(x)
        self.xx = self.xx + (x_GRI.mT @ x_GRI).double()
        self.rx = self.rx + (r_GOR @ x_GRI).double()
        self.x, self.r = self.x + x.double().sum(0), self.r + r.double().sum(0)
        self.rr = self.rr + r.double().square().sum()

    def __add__(self, other: Moments) -> Moments:
        total = Moments()
        for name in ("count", "xx", "rx", "x", "r", "rr"):
            setattr(total, name, getattr(self, name) + getattr(other, name))
        return total

    def of_all(self, ranks: Ranks) -> Moments:
        """The sums over the rows of all ranks; every rank must have added rows."""
        if not ranks.several:
            return self
        result, sums = Moments(), [self.xx, self.rx, self.x, self.r, self.rr]
        count = torch.tensor([self.count], dtype=torch.float64, device=self.xx.device)
        total = ranks.total(torch.cat([count, *(part.flatten() for part in sums)]))
        parts = total[1:].split([part.numel() for part in sums])
        result.xx, result.rx, result.x, result.r, result.rr = (
            part.reshape(own.shape) for part, own in zip(parts, sums, strict=True)
        )
        result.count = round(float(total[0]))
        return result

    def mean(self) -> torch.Tensor:
        """Mean residual, [G, O]."""
        return self.r / self.count

    def solve(self, strength: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Change of the weights [G, O, I] and of the bias [G, O] for a strength of the regularisation."""
        x, r = self.x / self.count, self.r / self.count
        cov = self.xx / self.count - x[..., :, None] * x[..., None, :]
        cross = self.rx / self.count - r[..., :, None] * x[..., None, :]
        diagonal = cov.diagonal(dim1=-2, dim2=-1)
        ridge = strength * diagonal.mean(-1).clamp_min(torch.finfo(cov.dtype).tiny)
        system = cov + torch.diag_embed(ridge[:, None].expand_as(diagonal))
        factor, failed = torch.linalg.cholesky_ex(system)
        if failed.any():  # λ is too small for the precision of the sums: a direction has no variance left
            return torch.zeros_like(cross), r
        change = torch.cholesky_solve(cross.mT, factor).mT
        return change, r - (change @ x[..., None])[..., 0]

    def error(self, change: torch.Tensor | None, bias: torch.Tensor | None) -> float:
        """Remaining sum of squared differences."""
        remaining = self.rr
        if bias is not None:
            remaining = remaining - 2 * (bias * self.r).sum() + self.count * bias.square().sum()
        if change is not None:
            remaining = remaining - 2 * (change * self.rx).sum() + ((change @ self.xx) * change).sum()
            if bias is not None:
                remaining = remaining + 2 * (bias * (change @ self.x[..., None])[..., 0]).sum()
        return max(0.0, float(remaining))


class Rows:
    """The rows themselves, for layers with more inputs than rows: the equations then have one unknown per row.

    Args:
        x: inputs [rows, G, I].
        r: residuals [rows, G, O].
    """

    def __init__(self, x: torch.Tensor, r: torch.Tensor) -> None:
        self.x, self.r, self.count = x, r, len(x)

    @cached_property
    def _centred(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Inputs [G, rows, I] and their mean, residuals [G, rows, O] and theirs, products of rows [G, rows, rows]."""
        x, r = self.x.transpose(0, 1), self.r.transpose(0, 1).double()
        x_mean, r_mean = x.double().mean(1, keepdim=True), r.mean(1, keepdim=True)
        centred = x - x_mean.to(x)
        return centred, x_mean, r - r_mean, r_mean, (centred @ centred.mT).double()

    def mean(self) -> torch.Tensor:
        """Mean residual, [G, O]."""
        return self.r.double().mean(0)

    def solve(self, strength: float) -> tuple[torch.Tensor, torch.Tensor]:
        """The same as `Moments.solve`, by the dual equations."""
        x, x_mean, r, r_mean, products = self._centred
        diagonal = products.diagonal(dim1=-2, dim2=-1)
        ridge = strength * (diagonal.sum(-1) / x.shape[-1]).clamp_min(torch.finfo(products.dtype).tiny)
        factor, failed = torch.linalg.cholesky_ex(products + torch.diag_embed(ridge[:, None].expand_as(diagonal)))
        if failed.any():
            return torch.zeros(len(x), r.shape[-1], x.shape[-1], dtype=r.dtype, device=r.device), r_mean[:, 0]
        change = (x.mT @ torch.cholesky_solve(r, factor).to(x)).mT.double()
        return change, r_mean[:, 0] - (change @ x_mean.mT)[..., 0]

    def error(self, change: torch.Tensor | None, bias: torch.Tensor | None) -> float:
        """Remaining sum of squared differences."""
        remaining = self.r.double()
        if change is not None:
            remaining = remaining - (self.x.transpose(0, 1) @ change.to(self.x).mT).transpose(0, 1).double()
        if bias is not None:
            remaining = remaining - bias
        return float(remaining.square().sum())

    def of_all(self, ranks: Ranks) -> Rows:
        """The rows of all ranks, in their order."""
        return Rows(ranks.joined(self.x), ranks.joined(self.r)) if ranks.several else self

    def __add__(self, other: Rows) -> Rows:
        return Rows(torch.cat([self.x, other.x]), torch.cat([self.r, other.r]))


def columns_of(module: nn.Module, x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """The inputs from which each output is computed at some positions, [items, count, G, I].

    Args:
        module: a layer.
        x: its inputs for some items.
        index: positions in the output, [items, count].
    """
    items = torch.arange(len(x), device=x.device)[:, None]
    if not isinstance(module, _ConvNd):
        flat = x.flatten(1, -2) if x.ndim > 2 else x[:, None, :]
        return flat[items, index][:, :, None, :]
    space, stride, kernel = len(module.kernel_size), tuple(module.stride), tuple(module.kernel_size)
    dilation = tuple(module.dilation)
    if isinstance(module, _ConvTransposeNd):  # a convolution of stride 1 over inputs with zeros in between
        spread = x.new_zeros(*x.shape[:2], *((n - 1) * s + 1 for n, s in zip(x.shape[2:], stride, strict=True)))
        spread[_every(stride)] = x
        pads: list[int] = []
        for axis in range(space):
            outside = dilation[axis] * (kernel[axis] - 1) - int(module.padding[axis])
            pads = [outside, outside + module.output_padding[axis], *pads]
        windows, stride = F.pad(spread, pads), (1,) * space
    elif module.padding_mode == "zeros":
        windows = F.pad(x, module._reversed_padding_repeated_twice)
    else:
        windows = F.pad(x, module._reversed_padding_repeated_twice, mode=module.padding_mode)
    for axis in range(space):
        reach = dilation[axis] * (kernel[axis] - 1) + 1
        windows = windows.unfold(2 + axis, reach, stride[axis])
    windows = windows[_every(dilation)]
    at: Any = (items, slice(None), *torch.unravel_index(index, windows.shape[2 : 2 + space]))
    columns: torch.Tensor = windows[at]  # [items, count, C, *kernel]
    grouped: torch.Tensor = columns.unflatten(2, (module.groups, -1)).flatten(3)
    return grouped


def _every(steps: tuple[int, ...]) -> Any:
    """Index of every value at a given step along the last dimensions."""
    return (..., *(slice(None, None, step) for step in steps))


def add_to_weight(module: nn.Module, change: torch.Tensor) -> None:
    """Add [G, O, I] to a layer's weights."""
    weight = module.get_parameter("weight")
    if isinstance(module, _ConvTransposeNd):  # [in, out / groups, *kernel], kernels the other way round
        space = len(module.kernel_size)
        change = change.unflatten(-1, (-1, *module.kernel_size)).flip(tuple(range(-space, 0)))
        change = change.transpose(1, 2)
    weight.add_(change.reshape(weight.shape).to(weight))
