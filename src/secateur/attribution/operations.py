"""How relevance passes each operation that is not a weighted layer, by the operation's name in torch.

`treat` adds entries to the table. Decompositions are operations written in terms of others that have rules.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch.nn import functional as F

from secateur.core.errors import RequestError
from secateur.structure.attention import multi_head_attention

Treatment = Literal["plain", "sum", "average", "identity", "constant", "product", "division", "activation"]
"""
plain: linear or selecting, so that plain autograd distributes relevance;
sum, average: the ε-rule; a sum with one activation is plain;
activation: plain as well, except in guided backprop and the deconvolutional network;
identity: elementwise, relevance passes unchanged;
product: of two activations, half to each; with one activation, plain;
division: the denominator is a constant;
constant: a statistic, which gets no relevance.
"""

_TABLE: dict[str, Treatment] = {}


def treat(names: str, treatment: Treatment) -> None:
    """Set how relevance passes operations.

    Args:
        names: names of torch functions, methods, or your own functions under `torch.overrides`, separated by spaces.
        treatment: see `Treatment`.

    Raises:
        RequestError: for an unknown treatment.

    Example:
        >>> treat("softshrink", "identity")
    """
    known = Treatment.__args__  # type: ignore[attr-defined]
    if treatment not in known:
        raise RequestError(f"unknown treatment '{treatment}'; known: {', '.join(known)}")
    _TABLE.update(dict.fromkeys(names.split(), treatment))


def treatment_of(name: str) -> Treatment | None:
    """The treatment in the table; in-place and operator names are treated as the plain one (``add_``, ``__iadd__``)."""
    treatment = _TABLE.get(name)
    if treatment is None and name.startswith("__"):
        bare = name.strip("_")
        treatment = _TABLE.get(bare) or _TABLE.get(bare[1:])
    if treatment is None:
        treatment = _TABLE.get(name.removesuffix("_"))
    return treatment


treat("relu", "activation")
treat(
    "threshold max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices"
    " _max_pool1d _max_pool2d _max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d "
    "_adaptive_max_pool1d _adaptive_max_pool2d _adaptive_max_pool3d max amax min amin maximum minimum topk sort gather "
    "take_along_dim index_select index_add index_copy index_fill where masked_fill masked_select scatter scatter_add",
    "plain",
)
treat("add sub subtract rsub", "sum")
treat(
    "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d mean sum",
    "average",
)
treat(
    "neg negative cumsum interpolate upsample upsample_nearest upsample_bilinear grid_sample pixel_shuffle "
    "pixel_unshuffle channel_shuffle native_channel_shuffle unfold fold",
    "plain",
)
treat(
    "cat concat concatenate stack hstack vstack split chunk tensor_split split_with_sizes hsplit vsplit unbind "
    "__getitem__ __setitem__ select narrow slice view view_as reshape reshape_as flatten unflatten ravel squeeze "
    "unsqueeze permute transpose t swapaxes swapdims movedim moveaxis expand expand_as broadcast_to "
    "repeat repeat_interleave tile contiguous clone copy pad roll flip rot90 tril triu diagonal as_strided meshgrid",
    "plain",
)
treat(
    "dropout dropout1d dropout2d dropout3d feature_dropout alpha_dropout feature_alpha_dropout to type type_as float "
    "double half bfloat16 cpu cuda requires_grad fill zero __get__ "
    "_assert",
    "plain",
)
# their results carry no gradient; they are allowed so that control flow and shapes may depend on activations
treat(
    "size dim ndimension numel shape is_contiguous stride storage_offset item tolist __len__ __bool__ __float__ "
    "__int__ argmax argmin argsort isfinite isnan isinf eq ne lt le gt ge __eq__ __ne__ __lt__ __le__ __gt__ __ge__ "
    "is_floating_point is_complex get_device data_ptr nonzero any all equal allclose "
    "register_hook retain_grad __format__ __repr__ __hash__ __contains__ is_cuda",
    "plain",
)
treat(
    "gelu silu swish hardswish sigmoid hardsigmoid tanh hardtanh relu6 leaky_relu elu celu selu softplus mish prelu "
    "rrelu softsign tanhshrink hardshrink softshrink clamp clip clamp_min clamp_max erf abs absolute square sqrt "
    "local_response_norm",
    "identity",
)
treat("mul multiply", "product")
treat("div divide true_divide truediv", "division")
treat(
    "detach zeros_like ones_like full_like empty_like rand_like randn_like new_zeros new_ones new_full new_empty "
    "__rtruediv__ __rdiv__ norm vector_norm linalg_vector_norm frobenius_norm var std rsqrt reciprocal",
    "constant",
)

_OFF_ZERO = frozenset("sigmoid hardsigmoid softplus clamp clip clamp_min clamp_max hardtanh".split())


def at_zero(func: Callable[..., Any], name: str, like: torch.Tensor, rest: Any, kwargs: dict[str, Any]) -> float:
    """f(0), for activations where it may not be 0."""
    if name.removesuffix("_") not in _OFF_ZERO or any(isinstance(v, torch.Tensor) for v in (*rest, *kwargs.values())):
        return 0.0
    return float(func(torch.zeros((), dtype=like.dtype), *rest, **kwargs))


def in_place(name: str, kwargs: dict[str, Any]) -> bool:
    """Whether a call overwrites its first argument."""
    if name.startswith("__"):
        return name == "__setitem__" or (name[2:3] == "i" and name in _IN_PLACE_OPERATORS)
    if name.endswith("_") and not name.endswith("__"):
        return name not in ("requires_grad_", "retain_grad_")
    return kwargs.get("inplace") is True and "dropout" not in name


_IN_PLACE_OPERATORS = frozenset(
    "__iadd__ __isub__ __imul__ __idiv__ __itruediv__ __ipow__ __imatmul__ __ifloordiv__ __imod__".split()
)


def out_of_place(func: Any, name: str) -> Any:
    """The function that computes the same without overwriting its argument."""
    if name.startswith("__"):
        return getattr(torch.Tensor, {"itruediv": "div", "idiv": "div"}.get(name.strip("_"), name.strip("_")[1:]))
    if not name.endswith("_"):
        return func
    base = name.removesuffix("_")
    return getattr(torch.Tensor, base, None) or getattr(F, base)


def bound(func: Callable[..., Any], args: Any, kwargs: Any) -> dict[str, Any]:
    """Arguments of a call by name, with defaults; ``func`` has a Python signature."""
    call = _signature(func).bind(*args, **kwargs)
    call.apply_defaults()
    return dict(call.arguments)


_signatures: dict[Any, inspect.Signature] = {}


def _signature(func: Any) -> inspect.Signature:
    if func not in _signatures:
        _signatures[func] = inspect.signature(func)
    return _signatures[func]


# -- decompositions: run under the watching mode, so that each step gets its rule ---------------------------------


def group_norm(
    input: torch.Tensor,
    num_groups: int,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> torch.Tensor:
    """Group norm as a layer norm per group."""
    grouped = input.reshape(input.shape[0], num_groups, -1)
    y = F.layer_norm(grouped, grouped.shape[2:], None, None, eps).reshape(input.shape)
    shape = (1, -1, *[1] * (input.ndim - 2))
    y = y if weight is None else y * weight.reshape(shape)
    return y if bias is None else y + bias.reshape(shape)


def instance_norm(
    input: torch.Tensor,
    running_mean: torch.Tensor | None = None,
    running_var: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> torch.Tensor:
    """Instance norm: a group norm with one channel per group, or a batch norm with running statistics."""
    if not use_input_stats:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    return F.group_norm(input, input.shape[1], weight, bias, eps)


def rms_norm(
    input: torch.Tensor, normalized_shape: Any, weight: torch.Tensor | None = None, eps: float | None = None
) -> torch.Tensor:
    """X / √(mean x² + eps) · weight, with the root as a constant."""
    dims = tuple(range(-len(normalized_shape), 0))
    square = input.detach().pow(2).mean(dims, keepdim=True)
    y = input * (square + (torch.finfo(input.dtype).eps if eps is None else eps)).rsqrt()
    return y if weight is None else y * weight


def normalize(
    input: torch.Tensor, p: float = 2.0, dim: Any = 1, eps: float = 1e-12, out: torch.Tensor | None = None
) -> torch.Tensor:
    """X / max(‖x‖, eps), with the norm as a constant."""
    norm: torch.Tensor = input.detach().norm(p, dim, keepdim=True).clamp_min(eps)
    return input / norm


def glu(input: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """A · sigmoid(b)."""
    a, b = input.chunk(2, dim)
    return a * b.sigmoid()


def addcmul(input: torch.Tensor, tensor1: torch.Tensor, tensor2: torch.Tensor, *, value: float = 1) -> torch.Tensor:
    """Input + value · tensor1 · tensor2."""
    return input + (tensor1 * tensor2) * value


def lerp(input: torch.Tensor, end: torch.Tensor, weight: Any) -> torch.Tensor:
    """Input + weight · (end - input)."""
    step: torch.Tensor = (end - input) * weight
    return input + step


def addmm(
    input: torch.Tensor, mat1: torch.Tensor, mat2: torch.Tensor, *, beta: float = 1, alpha: float = 1
) -> torch.Tensor:
    """Beta · input + alpha · mat1 mat2; a plain linear layer when mat2 is a parameter."""
    if beta == 1 and alpha == 1 and not mat2.requires_grad:
        return F.linear(mat1, mat2.T, input)
    return input * beta + (mat1 @ mat2) * alpha


def baddbmm(
    input: torch.Tensor, batch1: torch.Tensor, batch2: torch.Tensor, *, beta: float = 1, alpha: float = 1
) -> torch.Tensor:
    """Beta · input + alpha · batch1 batch2."""
    return input * beta + torch.bmm(batch1, batch2) * alpha


def var_mean(input: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The variance as a constant, and the mean."""
    variance, mean = torch.var_mean(input.detach(), *args, **kwargs)
    dim = kwargs.get("dim", args[0] if args and not isinstance(args[0], bool) else None)
    keep = mean.ndim == input.ndim
    return variance, input.mean(dim, keepdim=keep) if dim is not None else input.mean()


def std_mean(input: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The deviation as a constant, and the mean."""
    variance, mean = var_mean(input, *args, **kwargs)
    return variance.sqrt(), mean


DECOMPOSITIONS: dict[str, Callable[..., Any]] = {
    "group_norm": group_norm,
    "instance_norm": instance_norm,
    "rms_norm": rms_norm,
    "normalize": normalize,
    "glu": glu,
    "addcmul": addcmul,
    "lerp": lerp,
    "addmm": addmm,
    "baddbmm": baddbmm,
    "var_mean": var_mean,
    "std_mean": std_mean,
    "multi_head_attention_forward": multi_head_attention,
}
