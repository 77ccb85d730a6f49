"""Statistics of the inputs and outputs of each weighted layer, with its linear map.

One forward pass over reference samples, watched by a torch function mode.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from secateur.attribution.functional import ConvolutionMap, MatrixMap, TransposedMap
from secateur.attribution.layers import (
    conv_call,
    conv_transpose_call,
    convolution_map,
    linear_call,
    norm_call,
    transposed_map,
)
from secateur.attribution.operations import bound
from secateur.attribution.products import MATRIX_PRODUCTS, Owner, Owners, linear_product
from secateur.core.borrowing import borrowed
from secateur.core.errors import RequestError
from secateur.core.ranks import Ranks
from secateur.structure.attention import multi_head_attention

_CONVOLUTIONS = frozenset("conv1d conv2d conv3d".split())
_TRANSPOSED = frozenset("conv_transpose1d conv_transpose2d conv_transpose3d".split())


@dataclass(eq=False)
class Read:
    """Input statistics of one weighted layer over samples (and, but for ``mean``, positions).

    Attributes:
        op: the layer's linear map.
        mean: mean input, [C, H, W] before a convolution, [F] before a linear layer; None for a layer that is called
            with inputs of several sizes.
        average: mean of x per input channel or feature.
        magnitude: mean of |x| per input channel or feature.
        square: mean of x² per input channel or feature.
        made_mean, made_magnitude, made_square: mean of y, |y| and y² per output channel or feature.
        norm: name of the running mean of a batch norm that reads the layer's output; None without one.
        count: number of samples.
        whole: whether every call used the whole weight.
    """

    op: ConvolutionMap | TransposedMap | MatrixMap
    mean: torch.Tensor | None
    average: torch.Tensor
    magnitude: torch.Tensor
    square: torch.Tensor
    made_mean: torch.Tensor
    made_magnitude: torch.Tensor
    made_square: torch.Tensor
    norm: str | None = None
    count: int = 0
    whole: bool = True

    def deviation(self) -> torch.Tensor:
        """Standard deviation of x per input channel or feature, over samples and positions."""
        return (self.square - self.average**2).clamp(min=0).sqrt()

    def made_deviation(self) -> torch.Tensor:
        """Standard deviation of y per output channel or feature, over samples and positions."""
        return (self.made_square - self.made_mean**2).clamp(min=0).sqrt()

    @property
    def has_contribution(self) -> bool:
        """Whether `contribution` is defined: not for transposed convolutions, inputs of several sizes, or weights that
        are used in parts.
        """  # noqa: D205
        return self.whole and self.mean is not None and not isinstance(self.op, TransposedMap)

    def contribution(self, channels: torch.Tensor) -> torch.Tensor:
        """The mean contribution of the inputs at ``channels`` to each output, over samples and positions, [out].

        In a grouped convolution, ``channels`` are indices within every group.

        Raises:
            RequestError: where it is not defined, see `has_contribution`.
        """
        if not self.has_contribution or self.mean is None or isinstance(self.op, TransposedMap):
            raise RequestError("the mean contribution of this layer's inputs is not defined; leave it out")
        weight = self.op.weight.detach().to(torch.float64)
        if isinstance(self.op, MatrixMap):
            return weight[:, channels] @ self.mean[channels]
        if self.op.groups > 1:
            index = torch.arange(len(self.mean), device=channels.device) % weight.shape[1]
            removed = torch.isin(index, channels).reshape(-1, *[1] * (self.mean.ndim - 1))
            return self.op((self.mean * removed)[None], weight).flatten(2).mean(2)[0]
        return self.op(self.mean[None, channels], weight[:, channels]).flatten(2).mean(2)[0]


_ALONE = Ranks()


def reads(model: nn.Module, batches: Iterable[torch.Tensor], of: Ranks = _ALONE) -> dict[str, Read]:
    """Input statistics of every weighted layer, by layer name, in order of execution.

    Args:
        model: any network; its state is restored.
        batches: inputs, [N, ...] each.
        of: ranks that each pass their own batches; the statistics are over all of them.

    Raises:
        RequestError: without inputs, for a network without a layer that can be watched, or for a weight that is used
            both as it is and transposed.
    """
    by_layer: dict[str, _Sums] = {}
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    count = 0
    with borrowed(model), torch.no_grad():
        for inputs in batches:
            with _Reader(model, by_layer):
                model(inputs.to(device).clone())  # the network may change its inputs in place
            count += 1
    if not count:
        raise RequestError("there are no reference samples")
    if not by_layer:
        raise RequestError("no weighted layer of the network can be watched; give the network in plain PyTorch")
    if of.several:
        of.check_same("which layers read the reference samples", list(by_layer))
        for sums in by_layer.values():
            sums.add_ranks(of)
    return {name: sums.read() for name, sums in by_layer.items()}


class _Sums:
    """Sums for one layer over its calls, weighted by their samples; those of outputs by row of the weight."""

    def __init__(self, op: Any, inputs: int, rows: int) -> None:
        self.op, self.count, self.whole = op, 0, True
        self.norm: str | None = None
        self.mean: torch.Tensor | None = None
        device = op.weight.device
        self.read_sums = torch.zeros(3, inputs, dtype=torch.float64, device=device)
        self.made_sums = torch.zeros(3, rows, dtype=torch.float64, device=device)
        self.made_count = torch.zeros(rows, dtype=torch.float64, device=device)

    def add(self, count: int, mean: torch.Tensor, read: torch.Tensor, made: torch.Tensor, first: int) -> None:
        if self.count == 0:
            self.mean = mean * count
        elif self.mean is not None:
            self.mean = self.mean + mean * count if self.mean.shape == mean.shape else None
        self.read_sums += read * count
        self.made_sums[:, first : first + made.shape[1]] += made * count
        self.made_count[first : first + made.shape[1]] += count
        self.count += count

    def add_ranks(self, of: Ranks) -> None:
        """Add the sums of the other ranks."""
        calls = of.gather((self.count, None if self.mean is None else tuple(self.mean.shape)))
        self.count = sum(count for count, _ in calls)
        one_size = self.mean is not None and len({shape for _, shape in calls}) == 1
        self.mean = of.total(self.mean) if one_size and self.mean is not None else None
        self.read_sums, self.made_sums = of.total(self.read_sums), of.total(self.made_sums)
        self.made_count = of.total(self.made_count)

    def read(self) -> Read:
        mean = None if self.mean is None else self.mean / self.count
        average, magnitude, square = self.read_sums / self.count
        made_mean, made_magnitude, made_square = self.made_sums / self.made_count.clamp(min=1)
        return Read(
            self.op, mean, average, magnitude, square, made_mean, made_magnitude, made_square, self.norm, self.count,
            self.whole,
        )  # fmt: skip


class _Reader(TorchFunctionMode):
    def __init__(self, model: nn.Module, found: dict[str, _Sums]) -> None:
        super().__init__()
        self.found = found
        self._owners = Owners(model)
        self._buffers = {id(b): name for name, b in model.named_buffers()}
        self._made: dict[int, tuple[str, torch.Tensor]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "multi_head_attention_forward":
            with self:
                return multi_head_attention(*args, **kwargs)
        if name in MATRIX_PRODUCTS:
            product = linear_product(name, args, kwargs, self._owners.owns_matrix)
            if product is not None:
                with self:
                    return product()
        result = func(*args, **kwargs)
        if name in _CONVOLUTIONS:
            call = bound(conv_call, args, kwargs)
            self._read(call, convolution_map(call["input"], call), result)
        elif name in _TRANSPOSED:
            call = bound(conv_transpose_call, args, kwargs)
            self._read(call, transposed_map(call["input"], call), result)
        elif name == "linear":
            call = bound(linear_call, args, kwargs)
            self._read(call, MatrixMap(call["weight"], call["bias"]), result)
        elif name == "batch_norm":
            call = bound(norm_call, args, kwargs)
            made = self._made.get(id(call["input"]))
            if made is not None:
                self.found[made[0]].norm = self._buffers.get(id(call["running_mean"]))
        return result

    def _read(self, call: dict[str, Any], op: Any, result: torch.Tensor) -> None:
        owner: Owner | None = self._owners.of(call["weight"])
        if owner is None:
            return
        self._made[id(result)] = (owner.name, result)
        values, made = call["input"].detach().to(torch.float64), result.detach().to(torch.float64)
        count = len(values)
        if isinstance(op, MatrixMap):
            values, made = values.reshape(-1, values.shape[-1]), made.reshape(-1, made.shape[-1])
        read, made_sizes = _sizes(values), _sizes(made)
        if owner.name not in self.found:
            rows = max(owner.rows, made_sizes.shape[1])
            self.found[owner.name] = _Sums(op, read.shape[1], rows)
        sums = self.found[owner.name]
        if sums.read_sums.shape != read.shape:
            raise RequestError(
                f"the weight of '{owner.name}' reads {sums.read_sums.shape[1]} and {read.shape[1]} channels (it is "
                "used transposed, too), which have no common mean; use a criterion such as lrp, and repair=refit"
            )
        sums.whole = sums.whole and not owner.rows
        sums.add(count, values.mean(0), read, made_sizes, owner.first)


def _sizes(values: torch.Tensor) -> torch.Tensor:
    """Mean of v, |v| and v² per channel of [N, C, ...], [3, C]."""
    dims = (0, *range(2, values.ndim))
    return torch.stack([values.mean(dims), values.abs().mean(dims), (values**2).mean(dims)])
