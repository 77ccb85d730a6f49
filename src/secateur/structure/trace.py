"""Watching one forward pass to learn which channels belong together.

Every tensor carries an integer *label* per index of its dimensions: the number of the unit that the index belongs to,
or 0. Weighted layers give their outputs fresh labels; data movement (views, permutations, slices, concatenation,
padding, ...) moves the labels by the very same operation; where two labelled tensors meet element by element, their
labels are declared one (union-find). What no rule covers locks the units that reach it, with the reason, so that the
result is never wrong, only smaller. The pass is a real one, on the example input: control flow is followed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.core.errors import RequestError
from secateur.structure.groups import FIXED, Axis, Group, Layer, Locked, Role, Structure
from secateur.structure.labels import Attachment, LabelTable

_MOVES = frozenset(
    "view _unsafe_view reshape _reshape_alias permute transpose t expand unsqueeze squeeze slice select split "
    "split_with_sizes unsafe_split unbind roll flip index index_select constant_pad_nd pixel_shuffle pixel_unshuffle "
    "channel_shuffle native_channel_shuffle unfold repeat reflection_pad2d replication_pad2d".split()
)
_JOINS = frozenset({"cat", "stack"})
_SAME = frozenset(
    "clone contiguous alias detach _to_copy lift_fresh relu hardtanh relu6 gelu silu sigmoid hardswish hardsigmoid "
    "tanh "
    "leaky_relu elu celu selu softplus mish exp log neg abs pow sqrt rsqrt reciprocal clamp clamp_min clamp_max "
    "dropout "
    "native_dropout prelu _prelu_kernel square erf round floor ceil logical_not sign bernoulli".split()
)
_PAIRWISE = frozenset("add sub rsub mul div maximum minimum where addcmul addcdiv lerp".split())
_WINDOWED = frozenset(
    "_adaptive_avg_pool2d adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d avg_pool1d avg_pool2d "
    "avg_pool3d "
    "max_pool1d max_pool2d max_pool2d_with_indices max_pool3d_with_indices upsample_nearest2d upsample_bilinear2d "
    "upsample_bicubic2d _upsample_nearest_exact2d _upsample_bilinear2d_aa".split()
)
_REDUCTIONS = frozenset("mean sum amax amin var std var_mean".split())
_BATCH_NORMS = frozenset(
    "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm "
    "miopen_batch_norm "
    "_batch_norm_no_update _batch_norm_with_update batch_norm _batch_norm_impl_index".split()
)
_WITHOUT_DATA = frozenset(
    "sym_size size stride numel _local_scalar_dense is_same_size empty_like zeros_like ones_like".split()
)


def trace(model: nn.Module, example_inputs: Any) -> Structure:
    """Find the groups of units of a network that can be removed together.

    Args:
        model: any module; it is run once in eval mode without gradients and comes back as it was.
        example_inputs: a tensor, or a tuple of positional arguments, or a dict of keyword arguments.

    Returns:
        The structure: groups, what is locked with the reason, and the cost of everything.

    Raises:
        RequestError: when the network fails on the example input, holds NaN, or has nothing to remove.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 2))
        >>> structure = trace(net, torch.zeros(1, 3, 8, 8))
        >>> [(group.name, group.size) for group in structure.groups]
        [('0', 8)]
        >>> structure.locked[0].reason
        'is an output of the network'
    """
    args, kwargs = _arguments(example_inputs)
    tensors = [t for t in (*args, *kwargs.values()) if isinstance(t, torch.Tensor)]
    batch = int(tensors[0].shape[0]) if tensors and tensors[0].ndim else 1
    watcher = _Watcher(model, batch)
    with _borrowed(model):
        try:
            with torch.no_grad(), watcher:
                output = model(*args, **kwargs)
        except RequestError:
            raise
        except Exception as error:  # the user's own code may raise anything; the remedy is the same
            line = (str(error).splitlines() or [""])[0]
            raise RequestError(
                f"the network fails on the example input of shape {[tuple(t.shape) for t in tensors]}: "
                f"{type(error).__name__}: {line}"
            ) from error
    for tensor in _tensors(output):
        watcher.table.lock(tensor, "is an output of the network")
    structure = _structure(model, watcher, tuple(tuple(t.shape) for t in tensors))
    if not structure.groups:
        reasons = "; ".join(f"{item.name}: {item.reason}" for item in structure.locked[:3])
        raise RequestError(f"the network has no prunable units ({reasons or 'it has no weighted layer'})")
    return structure


def _arguments(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example_inputs, torch.Tensor):
        return (example_inputs,), {}
    if isinstance(example_inputs, dict):
        return (), example_inputs
    if isinstance(example_inputs, (tuple, list)):
        return tuple(example_inputs), {}
    raise RequestError(f"example_inputs must be a tensor, tuple or dict, got {type(example_inputs).__name__}")


@contextlib.contextmanager
def _borrowed(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; every module's own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)


class _Watcher(TorchDispatchMode):
    """Labels every tensor of one forward pass."""

    def __init__(self, model: nn.Module, batch: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.batch = batch
        state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self.table = LabelTable(state)
        self.layers: list[Layer] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = func._schema.name.split("::")[-1]
        inplace = name.endswith("_") and not name.startswith("__")
        name = name.rstrip("_") if inplace else name
        if name in _WITHOUT_DATA:
            return result
        self.table.hold((args, kwargs, result))
        self._label(name, func, args, kwargs, result, inplace)
        return result

    def _label(self, name: str, func: Any, args: Any, kwargs: Any, result: Any, inplace: bool) -> None:
        table = self.table
        if name in ("convolution", "_convolution"):
            self._convolution(args, result)
        elif name == "addmm":
            self._linear(args[1], args[2], args[0], result)
        elif name == "mm":
            self._linear(args[0], args[1], None, result)
        elif name == "linear":
            self._linear(args[0], args[1], args[2] if len(args) > 2 else None, result, transposed=True)
        elif name in _BATCH_NORMS:
            self._batch_norm(args, result)
        elif name == "as_strided" and result.shape == args[0].shape and set(result.shape[2:]) == {1}:
            table.copy(args[0], result)  # pooling to one position in channels-last layout only renames strides
        elif name == "native_layer_norm":
            axes = range(args[0].ndim - len(args[1]), args[0].ndim)
            table.lock_if_varies(args[0], axes, "is normalised across units by a layer norm")
            table.copy(args[0], result[0])
        elif name in ("_softmax", "_log_softmax"):
            table.lock_if_varies(args[0], [args[1] % args[0].ndim], "passes a softmax across units")
            table.copy(args[0], result)
        elif name in _SAME and (name not in ("prelu", "_prelu_kernel")):
            first = result[0] if isinstance(result, tuple) else result
            table.copy(args[0], first)
        elif name in _PAIRWISE or name in ("prelu", "_prelu_kernel"):
            operands = [t for t in _tensors((args, kwargs)) if t is not result or inplace]
            if inplace and operands[0]._is_view():
                # the rest of the storage would not learn of labels that come in from the side
                table.lock_newcomers(operands[0], operands[1:], "is written into a part of another tensor")
            table.pairwise(operands, result)
        elif name in _MOVES and not inplace:
            table.move(func, args, kwargs, result)
        elif name in _JOINS:
            table.join(func, args, kwargs, result)
        elif name in _WINDOWED:
            first = result[0] if isinstance(result, tuple) else result
            if not table.lock_if_varies(args[0], range(2, args[0].ndim), f"meets a window of {name} across units"):
                table.copy(args[0], first)
        elif name in _REDUCTIONS:
            dims = args[1] if len(args) > 1 and isinstance(args[1], (list, tuple)) and args[1] else range(args[0].ndim)
            dims = [d % args[0].ndim for d in dims]
            keepdim = kwargs.get("keepdim", args[2] if len(args) > 2 else False)
            if not table.lock_if_varies(args[0], dims, f"is reduced across units by {name}"):
                for item in _tensors(result):
                    table.reduce(args[0], item, dims, bool(keepdim))
        else:
            for tensor in _tensors((args, kwargs)):
                table.lock(tensor, f"reaches operation '{name}', which has no structure rule")

    def _convolution(self, args: Any, result: torch.Tensor) -> None:
        x, weight, bias = args[:3]
        transposed, groups = bool(args[6]), int(args[8])
        table = self.table
        name = table.parameter_name(weight)
        if name is None:
            table.lock(x, "is read by a convolution whose weight is computed, not a parameter")
            return
        labels = table.along(x, 1)
        if labels is None:
            table.lock(x, f"is mixed with positions where '{name}' reads it")
            labels = np.zeros(x.shape[1], np.int64)
        channels = result.shape[1]
        fresh = table.fresh(channels)
        out_dim, in_dim = (1, 0) if transposed else (0, 1)
        if groups == 1:
            table.attach(name, in_dim, "in", labels)
            table.attach(name, out_dim, "out", fresh)
        else:
            # whole groups go together with their inputs: each is a function of its own
            inputs, outputs = labels.reshape(groups, -1), fresh.reshape(groups, -1)
            for ins, outs in zip(inputs, outputs, strict=True):
                members = [*ins.tolist(), *outs.tolist()]
                for member in members[1:]:
                    table.union(members[0], member)
                if 0 in ins.tolist():
                    table.lock_label(int(outs[0]), f"comes from fixed inputs through the grouped convolution '{name}'")
            # in both layouts dim 0 runs over the groups; transposed weights are [in, out / groups, ...]
            table.attach(name, 0, "along", fresh if not transposed else labels)
        if bias is not None:
            self._bias(bias, fresh)
        table.set_along(result, 1, fresh)
        # a transposed convolution uses each weight once per input position, a plain one once per output position
        visited, width = (x, x.shape[1]) if transposed else (result, channels)
        self.layers.append(Layer(_layer_name(name), name, visited.numel() // max(1, width * self.batch)))

    def _linear(
        self, x: torch.Tensor, weight: torch.Tensor, bias: Any, result: torch.Tensor, transposed: bool = False
    ) -> None:
        table = self.table
        found = table.matrix_parameter(weight)
        if found is None:
            for tensor in (x, weight):
                table.lock(tensor, "is multiplied with another activation, which has no structure rule")
            return
        name, first_dim = found  # parameter dimension behind dimension 0 of the matrix as passed
        in_dim = 1 - first_dim if transposed else first_dim
        labels = table.along(x, x.ndim - 1)
        if labels is None:
            table.lock(x, f"is mixed with positions where '{name}' reads it")
            labels = np.zeros(x.shape[-1], np.int64)
        fresh = table.fresh(result.shape[-1])
        table.attach(name, in_dim, "in", labels)
        table.attach(name, 1 - in_dim, "out", fresh)
        if bias is not None:
            self._bias(bias, fresh)
        table.set_along(result, result.ndim - 1, fresh)
        positions = result.numel() // max(1, result.shape[-1] * self.batch)
        self.layers.append(Layer(_layer_name(name), name, positions))

    def _bias(self, bias: torch.Tensor, fresh: np.ndarray) -> None:
        name = self.table.parameter_name(bias)
        if name is not None:
            self.table.attach(name, 0, "along", fresh)
        elif self.table.has_labels(bias):
            for label in fresh:
                self.table.lock_label(int(label), "has a computed bias")

    def _batch_norm(self, args: Any, result: Any) -> None:
        table = self.table
        x = args[0]
        labels = table.along(x, 1)
        if labels is None:
            table.lock(x, "is mixed with positions where a batch norm reads it")
            return
        for tensor in args[1:5]:
            name = table.parameter_name(tensor) if isinstance(tensor, torch.Tensor) else None
            if name is not None:
                table.attach(name, 0, "along", labels)
        table.set_along(result[0] if isinstance(result, tuple) else result, 1, labels)


def _structure(model: nn.Module, watcher: _Watcher, input_shapes: tuple[tuple[int, ...], ...]) -> Structure:
    table = watcher.table
    owners = {id(p): name for name, p in model.named_parameters()}
    layers = tuple(watcher.layers)
    attachments = table.attachments
    makers: dict[int, list[str]] = {}
    order: dict[str, int] = {}
    for index, layer in enumerate(layers):
        order.setdefault(layer.weight, index)
    for item in attachments:
        if item.role == "out" or (item.role == "along" and item.tensor in order):
            for root in dict.fromkeys(table.roots(item.labels).tolist()):
                names = makers.setdefault(root, [])
                if root and item.tensor not in names:
                    names.append(item.tensor)
    removable: dict[tuple[str, ...], list[int]] = {}
    locked: dict[tuple[tuple[str, ...], str], list[int]] = {}
    for root, names in makers.items():
        if root == 0:
            continue
        names.sort(key=order.__getitem__)
        reason = table.reason(root)
        if reason is None:
            removable.setdefault(tuple(names), []).append(root)
        else:
            locked.setdefault((tuple(names), reason), []).append(root)
    widths: dict[int, int] = {}
    for item in attachments:
        if item.role != "in" and item.tensor in order:
            roots, counts = np.unique(table.roots(item.labels), return_counts=True)
            for root, count in zip(roots.tolist(), counts.tolist(), strict=True):
                widths[root] = max(widths.get(root, 0), count)
    groups: list[Group] = []
    number: dict[int, int] = {}
    for names_, roots_ in sorted(removable.items(), key=lambda pair: order[pair[0][0]]):
        first = len(number)
        for root in roots_:
            number[root] = len(number)
        label = tuple(_layer_name(n) for n in names_)
        groups.append(Group(label[0], label, first, len(roots_), max(widths[r] for r in roots_)))
    axes = _axes(attachments, table, number)
    fixed = tuple(
        Locked(_layer_name(names_[0]), tuple(map(_layer_name, names_)), sum(widths[r] for r in roots_), reason)
        for (names_, reason), roots_ in sorted(locked.items(), key=lambda pair: order[pair[0][0][0]])
    )
    ran = {item.tensor for item in attachments}
    idle = tuple(
        sorted({_layer_name(n) for n, p in model.named_parameters() if n not in ran and p.ndim > 1 and id(p) in owners})
    )
    shapes = {name: tuple(t.shape) for name, t in (*model.named_parameters(), *model.named_buffers())}
    return Structure(tuple(groups), fixed, layers, tuple(axes), shapes, frozenset(owners.values()), input_shapes, idle)


def _axes(attachments: list[Attachment], table: LabelTable, number: dict[int, int]) -> list[Axis]:
    merged: dict[tuple[str, int], tuple[Role, np.ndarray]] = {}
    for item in attachments:
        unit = np.array([number.get(root, FIXED) for root in table.roots(item.labels).tolist()])
        key = (item.tensor, item.dim)
        if key in merged and not np.array_equal(merged[key][1], unit):
            raise AssertionError(f"'{item.tensor}' was read with different units; its labels should be one")
        merged[key] = (item.role, unit)
    return [Axis(name, dim, role, unit) for (name, dim), (role, unit) in merged.items() if (unit >= 0).any()]


def _layer_name(weight: str) -> str:
    return weight.removesuffix(".weight")
