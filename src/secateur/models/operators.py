"""Maps operators of exported programs to layers, functions and methods of `torch`.

Nothing in these tables reads or writes files, or runs code, with any arguments.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from secateur.models.program_file import DTYPES, BadProgram

EVAL = "export the network after model.eval()"

FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(torch, name) for name in (
        "abs exp log sqrt rsqrt sin cos tanh sigmoid relu selu celu neg reciprocal floor ceil round sign erf pow div "
        "cat stack chunk split unbind flatten unflatten transpose t squeeze unsqueeze select roll index_select narrow "
        "mean sum amax amin var std cumsum argmax matmul bmm mm addmm baddbmm einsum clamp clamp_min clamp_max "
        "minimum maximum where masked_fill logical_and logical_or logical_not arange full zeros ones full_like "
        "zeros_like ones_like swapaxes log_softmax bitwise_and bitwise_or bitwise_not prelu conv1d conv2d conv3d "
        "conv_transpose1d conv_transpose2d conv_transpose3d max_pool1d max_pool2d max_pool3d pixel_shuffle "
        "pixel_unshuffle rot90 flip channel_shuffle repeat_interleave gather tril triu movedim"
    ).split()},
    **{name: getattr(F, name) for name in (
        "linear gelu silu mish hardswish hardsigmoid hardtanh leaky_relu relu6 softplus softsign logsigmoid glu "
        "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d "
        "scaled_dot_product_attention pad one_hot normalize"
    ).split()},
    **{name: getattr(operator, name) for name in "eq ne lt le gt ge floordiv truediv mod getitem not_".split()},
    "split_with_sizes": torch.split,
    "constant_pad_nd": F.pad,
    "linalg_vector_norm": torch.linalg.vector_norm,
    "_adaptive_avg_pool2d": F.adaptive_avg_pool2d,
}  # fmt: skip

METHODS = {
    **{name: name for name in "view reshape expand expand_as permute contiguous repeat detach clone".split()},
    "sym_size": "size",
    "_unsafe_view": "reshape",
}

DROPPED = frozenset(
    "_assert_scalar _assert_tensor_metadata sym_constrain_range sym_constrain_range_for_size _assert_async".split()
)
"""Checks that the exporter added."""

ALIASES = frozenset(
    "view reshape expand permute contiguous flatten unflatten transpose t squeeze unsqueeze select narrow slice split "
    "split_with_sizes chunk unbind detach alias dropout feature_dropout alpha_dropout to getitem movedim swapaxes "
    "expand_as".split()
)
"""Operators whose result may share the memory of their first argument."""

FIRST_ONLY = frozenset(
    "_native_batch_norm_legit_no_training native_layer_norm native_group_norm max_pool2d_with_indices".split()
)
"""Operators with several results, of which only the first is used."""


def _no_dropout(graph: fx.Graph, x: Any, p: float = 0.5, train: bool = False) -> Any:
    if train:
        raise BadProgram(f"it was exported in training mode; {EVAL}")
    return x


def _same(graph: fx.Graph, x: Any) -> Any:
    return x


def _add(function: Callable[..., Any], swapped: bool = False) -> Callable[..., Any]:
    def rewrite(graph: fx.Graph, x: Any, other: Any, alpha: Any = 1) -> Any:
        if alpha != 1:
            scaled = graph.call_function(operator.mul, (x if swapped else other, alpha))
            x, other = (scaled, other) if swapped else (x, scaled)
        return graph.call_function(function, (other, x) if swapped else (x, other))

    return rewrite


def _multiply(graph: fx.Graph, x: Any, other: Any) -> Any:
    return graph.call_function(operator.mul, (x, other))


def _slice(graph: fx.Graph, x: Any, dim: int = 0, start: Any = None, end: Any = None, step: Any = 1) -> Any:
    part = slice(start or None, None if end == 2**63 - 1 else end, None if step == 1 else step)
    whole = slice(None)
    index: Any = (*[whole] * dim, part) if dim >= 0 else (..., part, *[whole] * (-1 - dim))
    return graph.call_function(operator.getitem, (x, index))


def _index(graph: fx.Graph, x: Any, indices: list[Any]) -> Any:
    return graph.call_function(operator.getitem, (x, tuple(slice(None) if i is None else i for i in indices)))


def _softmax(graph: fx.Graph, x: Any, dim: int, other: Any = None, dtype: Any = None) -> Any:
    keywords = {"dtype": dtype} if dtype is not None else {}
    return graph.call_function(torch.softmax, (x, dim), keywords)


def _elu(graph: fx.Graph, x: Any, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Any:
    if scale != 1 or input_scale != 1:
        raise BadProgram("it has a scaled ELU")
    return graph.call_function(F.elu, (x, alpha))


def _to(graph: fx.Graph, x: Any, dtype: Any = None, *rest: Any, **keywords: Any) -> Any:
    if not isinstance(dtype, torch.dtype):
        dtype = next((item for item in rest if isinstance(item, torch.dtype)), None)
    return x if dtype is None else graph.call_method("to", (x, dtype))


def _batch_norm(
    graph: fx.Graph, x: Any, weight: Any, bias: Any, mean: Any, var: Any, training: bool, momentum: float, eps: float,
    cudnn: bool = False,
) -> Any:  # fmt: skip
    if training:
        raise BadProgram(f"it was exported in training mode; {EVAL}")
    return graph.call_function(F.batch_norm, (x, mean, var, weight, bias, False, momentum, eps))


def _batch_norm_core(
    graph: fx.Graph, x: Any, weight: Any, bias: Any, mean: Any, var: Any, momentum: float, eps: float
) -> Any:
    return _batch_norm(graph, x, weight, bias, mean, var, False, momentum, eps)


def _layer_norm(
    graph: fx.Graph, x: Any, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, cudnn: bool = False
) -> Any:
    return graph.call_function(F.layer_norm, (x, shape, weight, bias, eps))


def _group_norm(
    graph: fx.Graph, x: Any, groups: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, cudnn: bool = False
) -> Any:
    return graph.call_function(F.group_norm, (x, groups, weight, bias, eps))


def _group_norm_core(
    graph: fx.Graph, x: Any, weight: Any, bias: Any, n: Any, c: Any, size: Any, groups: int, eps: float
) -> Any:
    return _group_norm(graph, x, groups, weight, bias, eps)


def _embedding(graph: fx.Graph, weight: Any, indices: Any, *rest: Any) -> Any:
    return graph.call_function(F.embedding, (indices, weight))


def _convolution(
    graph: fx.Graph, x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool,
    output_padding: Any, groups: int,
) -> Any:  # fmt: skip
    functions = {
        1: (F.conv1d, F.conv_transpose1d),
        2: (F.conv2d, F.conv_transpose2d),
        3: (F.conv3d, F.conv_transpose3d),
    }
    plain, back = functions[len(stride)]
    if transposed:
        return graph.call_function(back, (x, weight, bias, stride, padding, output_padding, groups, dilation))
    return graph.call_function(plain, (x, weight, bias, stride, padding, dilation, groups))


def _interpolate(mode: str) -> Callable[..., Any]:
    def rewrite(graph: fx.Graph, x: Any, size: Any, *rest: Any) -> Any:
        aligned, scales = rest if len(rest) == 2 else (None, *rest)
        keywords = {"size": size, "scale_factor": None if size is not None else scales, "mode": mode}
        return graph.call_function(F.interpolate, (x,), {**keywords, "align_corners": aligned})

    return rewrite


REWRITES: dict[str, Callable[..., Any]] = {
    "dropout": _no_dropout,
    "feature_dropout": _no_dropout,
    "alpha_dropout": _no_dropout,
    "alias": _same,
    "lift_fresh_copy": _same,
    "add": _add(operator.add),
    "sub": _add(operator.sub),
    "rsub": _add(operator.sub, swapped=True),
    "mul": _multiply,
    "slice": _slice,
    "index": _index,
    "softmax": _softmax,
    "_softmax": _softmax,
    "elu": _elu,
    "to": _to,
    "_to_copy": _to,
    "batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": _batch_norm_core,
    "layer_norm": _layer_norm,
    "native_layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "native_group_norm": _group_norm_core,
    "embedding": _embedding,
    "convolution": _convolution,
    "upsample_nearest2d": _interpolate("nearest"),
    "upsample_bilinear2d": _interpolate("bilinear"),
    "upsample_bicubic2d": _interpolate("bicubic"),
    "max_pool2d_with_indices": lambda graph, *a, **k: graph.call_function(F.max_pool2d, a, k),
}
"""Operators whose arguments differ from those of torch's functions."""


def plain_value(kind: str, content: Any) -> Any:
    """The value of an argument that is not a value of the graph."""
    if kind == "as_none":
        return None
    if kind in ("as_int", "as_float", "as_bool", "as_string", "as_ints", "as_floats", "as_bools"):
        return content
    if kind == "as_scalar_type":
        return DTYPES[content]
    if kind == "as_device":
        return torch.device("cpu")
    if kind == "as_memory_format":
        return (None, torch.contiguous_format, torch.channels_last, torch.channels_last_3d, torch.preserve_format)[
            content
        ]
    if kind == "as_layout" and content == 7:
        return torch.strided
    raise BadProgram(f"an argument is of the kind '{kind.removeprefix('as_')[:40]}', which is not read")


Made = tuple[nn.Module, tuple[Any, ...]]
"""A layer, and its kind and options."""


def make_layer(
    operation: str, arguments: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], rank: int
) -> Made | None:
    """The layer of an operator's call; None where there is none, or where arguments are not numbers.

    Args:
        operation: the operator's name.
        arguments: arguments of the call by their names in its schema, as JSON values.
        tensors: the layer's parameters and buffers, by their names in the layer.
        rank: number of dimensions of the input.
    """
    maker = _LAYERS.get(operation)
    if maker is None:
        return None
    options: dict[str, Any] = {}
    for key, value in arguments.items():
        kind, content = next(iter(value.items()))
        if key in ("input", "self", "indices", "weight", "bias", "running_mean", "running_var"):
            continue
        if kind in ("as_tensor", "as_sym_int", "as_sym_ints"):
            return None
        options[key] = plain_value(kind, content)
    module = maker(options, tensors, rank)
    if module is None:
        return None
    for key, tensor in tensors.items():
        if isinstance(tensor, nn.Parameter) == (key in module._buffers):
            return None
        (module._buffers if key in module._buffers else module._parameters)[key] = tensor  # type: ignore[assignment]
    if any(item is not None and item.is_meta for item in (*module._parameters.values(), *module._buffers.values())):
        return None
    return module, (
        operation,
        type(module).__name__,
        tuple(sorted((key, str(value)) for key, value in options.items())),
    )


def _conv(options: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], rank: int) -> nn.Module | None:
    weight, groups = tensors["weight"], options.get("groups", 1)
    if options.get("transposed") or weight.ndim - 2 not in (1, 2, 3):
        return None
    kind: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[weight.ndim - 3]
    stride, padding, dilation = options.get("stride", 1), options.get("padding", 0), options.get("dilation", 1)
    sizes = tuple(_tuple(item) for item in (stride, padding, dilation))
    layer: nn.Module = kind(
        weight.shape[1] * groups,
        weight.shape[0],
        tuple(weight.shape[2:]),
        *sizes,
        groups,
        "bias" in tensors,
        device="meta",
    )
    return layer


def _tuple(value: Any) -> Any:
    """Sizes in the form that layers expect: one size for all dimensions as a number."""
    if not isinstance(value, list):
        return value
    return value[0] if len(value) == 1 else tuple(value)


def _linear(options: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], rank: int) -> nn.Module:
    outputs, inputs = tensors["weight"].shape
    return nn.Linear(inputs, outputs, "bias" in tensors, device="meta")


def _norm(options: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], rank: int) -> nn.Module | None:
    if options.get("training"):
        raise BadProgram(f"it was exported in training mode; {EVAL}")
    if not {"running_mean", "running_var"} <= tensors.keys() or rank not in (2, 3, 4, 5):
        return None
    kind: Any = {4: nn.BatchNorm2d, 5: nn.BatchNorm3d}.get(rank, nn.BatchNorm1d)
    affine = "weight" in tensors
    size = tensors["running_mean"].shape[0]
    layer: nn.Module = kind(size, options.get("eps", 1e-5), options.get("momentum", 0.1), affine, device="meta")
    layer._buffers["num_batches_tracked"] = torch.zeros((), dtype=torch.long)
    return layer


def _layers_norm(options: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], rank: int) -> nn.Module:
    shape = options["normalized_shape"]
    return nn.LayerNorm(shape, options.get("eps", 1e-5), True, bias="bias" in tensors, device="meta")


def _groups_norm(options: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], rank: int) -> nn.Module:
    return nn.GroupNorm(options["num_groups"], tensors["weight"].shape[0], options.get("eps", 1e-5), device="meta")


def _prelu(options: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], rank: int) -> nn.Module:
    return nn.PReLU(tensors["weight"].numel(), device="meta")


_LAYERS: dict[str, Callable[[Mapping[str, Any], Mapping[str, torch.Tensor], int], nn.Module | None]] = {
    "conv1d": _conv,
    "conv2d": _conv,
    "conv3d": _conv,
    "convolution": _conv,
    "linear": _linear,
    "batch_norm": _norm,
    "_native_batch_norm_legit_no_training": _norm,
    "layer_norm": _layers_norm,
    "native_layer_norm": _layers_norm,
    "group_norm": _groups_norm,
    "prelu": _prelu,
}
