"""Functions by their public names: the only ones that recorded code may call.

These are torch's own, and three norms over the channels that stay, which compute a smaller norm in a masked network.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import get_testing_overrides, resolve_name

_FACTORIES = (
    "arange empty eye full linspace logspace meshgrid ones range tensor tril_indices triu_indices zeros as_tensor "
    "full_like ones_like zeros_like empty_like"
).split()

_DUNDERS = frozenset(
    f"__{name}__"
    for name in "getitem setitem add radd iadd sub rsub isub mul rmul imul truediv rtruediv itruediv floordiv "
    "rfloordiv mod rmod pow rpow ipow matmul rmatmul neg pos abs invert and or xor eq ne lt le gt ge".split()
)
_APART = frozenset(
    "apply_ backward data_ptr is_shared map_ map2_ numpy pin_memory register_hook requires_grad_ retain_grad "
    "register_post_accumulate_grad_hook set_ share_memory_ storage untyped_storage tolist".split()
)


@cache
def _known() -> dict[str, Callable[..., Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        functions = {resolve_name(function): function for function in get_testing_overrides()}
    known = {name: function for name, function in functions.items() if name is not None}
    known |= {f"secateur.{function.__name__}": function for function in (layer_norm, rms_norm, group_norm)}
    for name in _FACTORIES:
        known[f"torch.{name}"] = getattr(torch, name)
    return known


def function_named(name: str) -> Callable[..., Any] | None:
    """The function or tensor method of this name, or None. Functions that compute nothing are not known.

    Example:
        >>> function_named("torch.nn.functional.linear") is torch.nn.functional.linear
        True
        >>> function_named("torch.load") is None
        True
    """
    if name.startswith("torch.Tensor.") and name.endswith(".__get__"):
        attribute = name.split(".")[2]
        return (lambda tensor: getattr(tensor, attribute)) if attribute in ("T", "mT", "H", "mH", "data") else None
    if name.startswith("torch.Tensor."):
        method = name.removeprefix("torch.Tensor.")
        public = not method.startswith("_") or method in _DUNDERS
        return getattr(torch.Tensor, method, None) if public and method not in _APART else None
    return _known().get(name)


def layer_norm(
    x: torch.Tensor,
    normalized_shape: Any,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    *,
    kept: list[int],
) -> torch.Tensor:
    """Layer norm over the last dimension's indices ``kept``; zero elsewhere."""
    at = torch.tensor(kept, device=x.device)
    some = F.layer_norm(x[..., at], (len(kept),), _at(weight, at), _at(bias, at), eps)
    return torch.zeros_like(x).index_copy(-1, at, some)


def rms_norm(
    x: torch.Tensor, normalized_shape: Any, weight: torch.Tensor | None = None, eps: float | None = None, *,
    kept: list[int],
) -> torch.Tensor:  # fmt: skip
    """RMS norm over the last dimension's indices ``kept``; zero elsewhere."""
    at = torch.tensor(kept, device=x.device)
    some = F.rms_norm(x[..., at], (len(kept),), _at(weight, at), eps)
    return torch.zeros_like(x).index_copy(-1, at, some)


def group_norm(
    x: torch.Tensor,
    num_groups: int,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    *,
    kept: list[int],
) -> torch.Tensor:
    """Norm of all channels ``kept`` as one group; zero elsewhere."""
    at = torch.tensor(kept, device=x.device)
    some = F.group_norm(x[:, at], 1, _at(weight, at), _at(bias, at), eps)
    return torch.zeros_like(x).index_copy(1, at, some)


def _at(tensor: torch.Tensor | None, at: torch.Tensor) -> torch.Tensor | None:
    return None if tensor is None else tensor[at]
