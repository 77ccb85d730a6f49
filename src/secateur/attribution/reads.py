"""What each weighted layer reads: means and magnitudes of its input, and how it maps them on.

One forward pass over reference samples, watched by a torch function mode.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from secateur.attribution.borrow import borrowed
from secateur.attribution.functional import ConvolutionMap, MatrixMap
from secateur.attribution.layers import conv_call, convolution_map, linear_call, norm_call
from secateur.attribution.operations import bound
from secateur.core.errors import RequestError


@dataclass(eq=False)
class Read:
    """Input statistics of one weighted layer over samples (and, but for ``mean``, positions).

    Attributes:
        op: the layer's linear map.
        mean: mean input, [C, H, W] before a convolution, [F] before a linear layer.
        magnitude: mean of |x| per input channel or feature.
        square: mean of x² per input channel or feature.
        norm: name of the running mean of a batch norm that reads the layer's output; None without one.
        count: samples seen.
    """

    op: ConvolutionMap | MatrixMap
    mean: torch.Tensor
    magnitude: torch.Tensor
    square: torch.Tensor
    norm: str | None = None
    count: int = 0

    def deviation(self) -> torch.Tensor:
        """Standard deviation of x per input channel or feature, over samples and positions."""
        mean = self.mean.flatten(1).mean(1) if self.mean.ndim > 1 else self.mean
        return (self.square - mean**2).clamp(min=0).sqrt()

    def contribution(self, channels: torch.Tensor) -> torch.Tensor:
        """What the input channels at ``channels`` add to each output, mean over samples and positions, [out]."""
        weight = self.op.weight.detach().to(torch.float64)[:, channels]
        if isinstance(self.op, MatrixMap):
            return weight @ self.mean[channels]
        return self.op(self.mean[None, channels], weight).flatten(2).mean(2)[0]


def reads(model: nn.Module, batches: Iterable[torch.Tensor]) -> dict[str, Read]:
    """Input statistics of every weighted layer, by layer name, in order of execution.

    Args:
        model: any network; it comes back as it was.
        batches: inputs, [N, ...] each.
    """
    found: dict[str, Read] = {}
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with borrowed(model), torch.no_grad():
        for inputs in batches:
            with _Reader(model, found):
                model(inputs.to(device))
    if not found:
        raise RequestError("there are no reference samples to look at")
    return found


class _Reader(TorchFunctionMode):
    def __init__(self, model: nn.Module, found: dict[str, Read]) -> None:
        super().__init__()
        self.found = found
        self._names = {id(p): name.removesuffix(".weight") for name, p in model.named_parameters()}
        self._buffers = {id(b): name for name, b in model.named_buffers()}
        self._made: dict[int, tuple[str, torch.Tensor]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name in ("conv1d", "conv2d", "conv3d"):
            call = bound(conv_call, args, kwargs)
            self._read(call["weight"], call["input"], convolution_map(call["input"], call), result)
        elif name == "linear":
            call = bound(linear_call, args, kwargs)
            self._read(call["weight"], call["input"], MatrixMap(call["weight"], call["bias"]), result)
        elif name == "batch_norm":
            call = bound(norm_call, args, kwargs)
            made = self._made.get(id(call["input"]))
            if made is not None:
                self.found[made[0]].norm = self._buffers.get(id(call["running_mean"]))
        return result

    def _read(self, weight: torch.Tensor, x: torch.Tensor, op: Any, result: torch.Tensor) -> None:
        name = self._names.get(id(weight))
        if name is None:
            return
        self._made[id(result)] = (name, result)
        values = x.detach().to(torch.float64)
        if isinstance(op, MatrixMap):
            rows = values.reshape(-1, values.shape[-1])
            mean, magnitude, square = rows.mean(0), rows.abs().mean(0), (rows**2).mean(0)
        else:
            dims = (0, *range(2, values.ndim))
            mean, magnitude, square = values.mean(0), values.abs().mean(dims), (values**2).mean(dims)
        count = len(values)
        before = self.found.get(name)
        if before is not None:
            share = count / (before.count + count)
            mean = before.mean + share * (mean - before.mean)
            magnitude = before.magnitude + share * (magnitude - before.magnitude)
            square = before.square + share * (square - before.square)
            count += before.count
        self.found[name] = Read(op, mean, magnitude, square, before.norm if before else None, count)
