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

from secateur.attribution.functional import ConvolutionMap, MatrixMap
from secateur.attribution.layers import conv_call, convolution_map, linear_call, norm_call
from secateur.attribution.operations import bound
from secateur.core.borrowing import borrowed
from secateur.core.errors import RequestError
from secateur.structure.attention import multi_head_attention


@dataclass(eq=False)
class Read:
    """Input statistics of one weighted layer over samples (and, but for ``mean``, positions).

    Attributes:
        op: the layer's linear map.
        mean: mean input, [C, H, W] before a convolution, [F] before a linear layer.
        magnitude: mean of |x| per input channel or feature.
        square: mean of x² per input channel or feature.
        made_mean, made_magnitude, made_square: mean of y, |y| and y² per output channel or feature.
        norm: name of the running mean of a batch norm that reads the layer's output; None without one.
        count: samples seen.
    """

    op: ConvolutionMap | MatrixMap
    mean: torch.Tensor
    magnitude: torch.Tensor
    square: torch.Tensor
    made_mean: torch.Tensor
    made_magnitude: torch.Tensor
    made_square: torch.Tensor
    norm: str | None = None
    count: int = 0

    def deviation(self) -> torch.Tensor:
        """Standard deviation of x per input channel or feature, over samples and positions."""
        mean = self.mean.flatten(1).mean(1) if self.mean.ndim > 1 else self.mean
        return (self.square - mean**2).clamp(min=0).sqrt()

    def made_deviation(self) -> torch.Tensor:
        """Standard deviation of y per output channel or feature, over samples and positions."""
        return (self.made_square - self.made_mean**2).clamp(min=0).sqrt()

    def contribution(self, channels: torch.Tensor) -> torch.Tensor:
        """What the inputs at ``channels`` of the weight add to each output, mean over samples and positions, [out].

        In a grouped convolution, ``channels`` are places within every group.
        """
        weight = self.op.weight.detach().to(torch.float64)
        if isinstance(self.op, MatrixMap):
            return weight[:, channels] @ self.mean[channels]
        if self.op.groups > 1:
            place = torch.arange(len(self.mean), device=channels.device) % weight.shape[1]
            chosen = torch.isin(place, channels).reshape(-1, *[1] * (self.mean.ndim - 1))
            return self.op((self.mean * chosen)[None], weight).flatten(2).mean(2)[0]
        return self.op(self.mean[None, channels], weight[:, channels]).flatten(2).mean(2)[0]


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
        name = getattr(func, "__name__", "")
        if name == "multi_head_attention_forward":
            with self:
                return multi_head_attention(*args, **kwargs)
        result = func(*args, **kwargs)
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
            now = [rows.mean(0), *_sizes(rows)[1:]]
            now += _sizes(result.detach().to(torch.float64).reshape(-1, result.shape[-1]))
        else:
            now = [values.mean(0), *_sizes(values)[1:], *_sizes(result.detach().to(torch.float64))]
        count = len(values)
        before = self.found.get(name)
        if before is not None:
            share = count / (before.count + count)
            was = [before.mean, before.magnitude, before.square]
            was += [before.made_mean, before.made_magnitude, before.made_square]
            now = [old + share * (new - old) for old, new in zip(was, now, strict=True)]
            count += before.count
        norm = before.norm if before else None
        self.found[name] = Read(op, now[0], now[1], now[2], now[3], now[4], now[5], norm, count)


def _sizes(values: torch.Tensor) -> list[torch.Tensor]:
    """Mean of v, |v| and v² per channel, [N, C, ...]."""
    dims = (0, *range(2, values.ndim))
    return [values.mean(dims), values.abs().mean(dims), (values**2).mean(dims)]
