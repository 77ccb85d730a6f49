"""Outputs of each weighted layer, after the function that follows it, as one figure per image and channel.

One forward pass over images, watched by a torch function mode. Axes: N images, C channels, P positions (space, tokens).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from secateur.attribution.layers import conv_call, conv_transpose_call, linear_call
from secateur.attribution.operations import bound, in_place
from secateur.attribution.products import Owners, linear_product
from secateur.core.borrowing import borrowed
from secateur.core.errors import RequestError
from secateur.structure.attention import multi_head_attention
from secateur.structure.base import tensors_in

Stage = Literal["next", "activation"]
Reduce = Callable[[torch.Tensor], torch.Tensor]

_CONVOLUTIONS = frozenset("conv1d conv2d conv3d".split())
_TRANSPOSED = frozenset("conv_transpose1d conv_transpose2d conv_transpose3d".split())
_PRODUCTS = frozenset("matmul __matmul__ __rmatmul__ mm addmm".split())
_LAYERS = _CONVOLUTIONS | _TRANSPOSED | _PRODUCTS | {"linear"}
_NORMS = frozenset("batch_norm instance_norm group_norm layer_norm rms_norm".split())
_NONLINEARITIES = frozenset(
    "relu relu6 threshold leaky_relu prelu rrelu elu celu selu gelu silu hardswish mish sigmoid hardsigmoid logsigmoid "
    "tanh hardtanh softplus softsign tanhshrink hardshrink softshrink clamp clip clamp_min clamp_max".split()
)
# the same values in the same order, at most with other dimensions; dropout does nothing in eval mode
_SAME = frozenset(
    "view view_as reshape reshape_as flatten unflatten squeeze unsqueeze ravel contiguous clone detach to type type_as "
    "float double half bfloat16 cpu cuda dropout dropout1d dropout2d dropout3d feature_dropout alpha_dropout "
    "feature_alpha_dropout".split()
)
_PERMUTATIONS = frozenset("permute transpose swapaxes swapdims movedim moveaxis t adjoint".split())
_CONCATENATIONS = frozenset("cat concat concatenate".split())
_SCALES = frozenset("mul multiply div divide true_divide truediv".split())


def maps(
    model: nn.Module, batches: Iterable[torch.Tensor], reduce: Reduce, stage: Stage = "next"
) -> dict[str, torch.Tensor]:
    """A figure of every feature map of the weighted layers, [N, C] float64 on the CPU, by layer name.

    Args:
        model: any network; its state is restored.
        batches: inputs, [N, ...] each.
        reduce: function from maps [N, C, P] to figures [N, C]; neurons that read one vector per image have P = 1.
        stage: ``next``: after the norm or, where there is none, the nonlinearity that reads the layer's output and
            nothing else; the output itself where neither does. ``activation``: after the first nonlinearity that the
            output reaches elementwise (through norms, sums, scales, concatenation), as at ``next`` where there is none.
            An output that has passed a nonlinearity is not followed to a later one: a ReLU after a residual sum belongs
            to the layers that were just added.

    Returns:
        Figures by layer in order of execution; for a layer that is called several times, the mean over its calls. Where
        a layer does not depend on the inputs, every sample has the same figures.

    Raises:
        RequestError: for no inputs, an unknown stage, or code that cannot be watched.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
        >>> by_layer = maps(net, [torch.randn(5, 3, 4, 4)], lambda maps_NCP: maps_NCP.amin(2), "activation")
        >>> {name: list(figures.shape) for name, figures in by_layer.items()}, bool((by_layer["0"] >= 0).all())
        ({'0': [5, 4], '3': [5, 2]}, True)
    """
    if stage not in get_args(Stage):
        raise RequestError(f"unknown stage '{stage}'; known: {', '.join(get_args(Stage))}")
    parts: list[dict[str, torch.Tensor]] = []
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with borrowed(model), torch.no_grad():
        for inputs in batches:
            given = inputs.detach().to(device).clone()  # the network may change its inputs in place
            watch = _Watch(model, given, reduce, stage)
            with watch:
                output = model(given)
            watch.check_seen(output)
            parts.append(watch.figures())
    if not parts:
        raise RequestError("there are no reference samples")
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@dataclass(eq=False)
class _Call:
    """One call of a weighted layer.

    Attributes:
        name: name of the layer.
        rows: number of rows of its weight.
        first: the first row that this call uses (packed projections are called in parts).
        figure: [N, C], replaced when a norm or nonlinearity is reached.
        normed, activated: whether one was reached.
        constant: whether the call does not depend on the inputs.
    """

    name: str
    rows: int
    first: int
    figure: torch.Tensor
    normed: bool = False
    activated: bool = False
    constant: bool = False


@dataclass(frozen=True, eq=False)
class _Channels:
    """Where a call's channels are in a tensor: from ``start`` along ``dim``; ``bare``: nothing but shapes changed."""

    call: _Call
    dim: int
    start: int = 0
    bare: bool = True


class _Watch(TorchFunctionMode):
    def __init__(self, model: nn.Module, inputs: torch.Tensor, reduce: Reduce, stage: Stage) -> None:
        super().__init__()
        self.samples, self.reduce, self.stage = len(inputs), reduce, stage
        self.calls: list[_Call] = []
        self._owners = Owners(model)
        # for tensors that depend on the inputs, and for those that depend on weights alone
        self._channels: Any = WeakTensorKeyDictionary()
        self._constants: Any = WeakTensorKeyDictionary()
        self._channels[inputs] = ()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "multi_head_attention_forward":
            with self:
                return multi_head_attention(*args, **kwargs)
        if name == "einsum":
            product = linear_product(name, args, kwargs, self._owners.owns_matrix)
            if product is not None:
                with self:
                    return product()
        tensors = list(tensors_in((args, kwargs)))
        known = [t for t in tensors if t in self._channels]
        table = self._channels if known else self._constants
        result = func(*args, **kwargs)
        if known or name in _LAYERS or any(t in table for t in tensors):
            tracked: tuple[_Channels, ...] = ()
            if isinstance(result, torch.Tensor):
                known = [t for t in tensors if t in table]
                tracked = self._follow(func, name, args, kwargs, known, result, table)
            for tensor in tensors_in((result, args[:1] if in_place(name, kwargs) else ())):
                table[tensor] = tracked
        return result

    def figures(self) -> dict[str, torch.Tensor]:
        """Figures [N, C] by layer, the mean over its calls."""
        sums: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        for call in self.calls:
            figure = call.figure.to("cpu", torch.float64)
            rows = max(call.rows, figure.shape[1])
            total, count = sums.setdefault(call.name, (figure.new_zeros(self.samples, rows), figure.new_zeros(rows)))
            total[:, call.first : call.first + figure.shape[1]] += figure
            count[call.first : call.first + figure.shape[1]] += 1
        return {name: total / count.clamp(min=1) for name, (total, count) in sums.items()}

    def check_seen(self, output: Any) -> None:
        """Refuse an output that was computed by code that a function mode does not see."""
        tensors = list(tensors_in(output))
        if tensors and not any(t in self._channels for t in tensors):
            raise RequestError(
                "the network's output comes from code that cannot be watched (a scripted or compiled module, or an "
                "autograd function of its own), or does not depend on the inputs; give the network in plain PyTorch"
            )

    def _follow(
        self, func: Any, name: str, args: Any, kwargs: Any, known: list[torch.Tensor], result: torch.Tensor, table: Any
    ) -> tuple[_Channels, ...]:
        """Channels of calls in the result; at a norm or a nonlinearity, their figures are updated."""
        made = self._call_of(name, args, kwargs, result, constant=table is self._constants)
        if made is not None:
            return made
        x = args[0] if args else kwargs.get("input")
        known_channels: tuple[_Channels, ...] = table.get(x, ()) if isinstance(x, torch.Tensor) else ()
        if _is(name, _NORMS):
            for channels in known_channels:
                if channels.bare and not channels.call.normed:
                    channels.call.figure, channels.call.normed = self._figure(channels, result), True
            return _passed(known_channels)
        if _is(name, _NONLINEARITIES):
            for channels in known_channels:
                wanted = self.stage == "activation" or (channels.bare and not channels.call.normed)
                if wanted and not channels.call.activated:
                    channels.call.figure, channels.call.activated = self._figure(channels, result), True
            return ()
        if name in _SAME and known_channels:
            return _reshaped(known_channels, x.shape, result.shape)
        if name in _PERMUTATIONS and known_channels:
            return _permuted(known_channels, func, args, kwargs)
        if _is(name, frozenset({"add"})):
            return tuple(p for t in known if t.shape == result.shape for p in _passed(table[t]))
        if _is(name, _SCALES) and len(known) == 1 and known[0].shape == result.shape:
            return _passed(table[known[0]])
        if _is(name, _CONCATENATIONS):
            return self._concatenated(args, kwargs, result.ndim, table)
        return ()

    def _call_of(
        self, name: str, args: Any, kwargs: Any, result: torch.Tensor, constant: bool
    ) -> tuple[_Channels, ...] | None:
        """The channels of a weighted layer's call; None for any other operation."""
        if name in _CONVOLUTIONS or name in _TRANSPOSED:
            weight = bound(conv_call if name in _CONVOLUTIONS else conv_transpose_call, args, kwargs)["weight"]
            dim = 1
        elif name == "linear":
            weight, dim = bound(linear_call, args, kwargs)["weight"], result.ndim - 1
        elif name in _PRODUCTS:
            # a product with a matrix that is a parameter is a linear layer
            weights = [t for t in tensors_in((args, kwargs)) if t.ndim == 2 and self._owners.of(t) is not None]
            if not weights or (constant and len(weights) > 1):  # the product of two weights is not a layer's call
                return None
            weight = weights[0]
            left = weight is args[0] and name not in ("__rmatmul__", "addmm")
            dim = result.ndim - (2 if left else 1)
        else:
            return None
        owner = self._owners.of(weight)
        if owner is None:
            return ()
        call = _Call(owner.name, owner.rows, owner.first, torch.empty(0), constant=constant)
        channels = _Channels(call, dim)
        call.figure = self._figure(channels, result, result.shape[dim])
        self.calls.append(call)
        return (channels,)

    def _figure(self, channels: _Channels, tensor: torch.Tensor, count: int | None = None) -> torch.Tensor:
        """Figures [N, C] of a call's channels in a tensor."""
        dim = channels.dim
        if channels.call.constant:  # all other dimensions are positions; every sample has the same map
            count = channels.call.figure.shape[1] if count is None else count
            flat_CP = tensor.detach().movedim(dim, 0).narrow(0, channels.start, count).flatten(1)
            return self.reduce(flat_CP[None]).expand(self.samples, -1)
        if tensor.shape[0] != self.samples or dim == 0:
            if dim == 0 or tensor.shape[0] % self.samples:
                raise RequestError(
                    f"layer '{channels.call.name}' produces shape {list(tensor.shape)} for {self.samples} samples; "
                    "channels are counted per sample, so samples must be the first dimension (windows may be folded "
                    "into it)"
                )
            dim, tensor = dim + 1, tensor.unflatten(0, (self.samples, -1))  # windows
        count = channels.call.figure.shape[1] if count is None else count
        maps_NC = tensor.detach().movedim(dim, 1).narrow(1, channels.start, count)
        return self.reduce(maps_NC.flatten(2) if maps_NC.ndim > 2 else maps_NC.unsqueeze(2))

    def _concatenated(self, args: Any, kwargs: Any, ndim: int, table: Any) -> tuple[_Channels, ...]:
        """Channels after concatenation along them; along other dimensions, maps are no longer those of one layer."""
        parts = args[0] if args else kwargs["tensors"]
        dim = kwargs.get("dim", args[1] if len(args) > 1 else 0) % ndim
        joined, offset = [], 0
        for part in parts:
            if part.ndim != ndim:  # an empty tensor of one dimension, as in a new cache
                continue
            for channels in table.get(part, ()):
                if channels.dim == dim:
                    joined.append(replace(channels, start=channels.start + offset, bare=False))
            offset += part.shape[dim]
        return tuple(joined)


def _is(name: str, names: frozenset[str]) -> bool:
    """Whether an operation is one of the named ones, also as ``name_``, ``__name__``, ``__iname__``, ``__rname__``."""
    if not name.startswith("__"):
        return name.removesuffix("_") in names
    bare = name.strip("_")
    return bare in names or (bare[:1] in ("i", "r") and bare[1:] in names)


def _passed(known_channels: tuple[_Channels, ...]) -> tuple[_Channels, ...]:
    return tuple(replace(channels, bare=False) for channels in known_channels)


def _reshaped(known_channels: tuple[_Channels, ...], before: torch.Size, after: torch.Size) -> tuple[_Channels, ...]:
    """Channels after a reshape that keeps their dimension: same size, and the same number of values before it."""
    moved = []
    for channels in known_channels:
        ahead = math.prod(before[: channels.dim])
        for dim, size in enumerate(after):
            if size == before[channels.dim] and math.prod(after[:dim]) == ahead:
                moved.append(replace(channels, dim=dim))
                break
    return tuple(moved)


def _permuted(known_channels: tuple[_Channels, ...], func: Any, args: Any, kwargs: Any) -> tuple[_Channels, ...]:
    """Where a permutation of dimensions moves the channels, seen on a tensor whose dimensions all differ in size."""
    x = args[0] if args else kwargs["input"]
    probe = torch.empty(tuple(range(2, 2 + x.ndim)), device="meta")
    moved = func(probe, *args[1:], **kwargs) if args else func(**kwargs | {"input": probe})
    return tuple(replace(channels, dim=list(moved.shape).index(2 + channels.dim)) for channels in known_channels)
