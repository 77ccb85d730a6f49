"""`torch.nn.MultiheadAttention` in steps that have rules of structure and of relevance, and with fewer heads.

The module's own code assumes heads of one size and as many rows for the values as for queries and keys. When heads, or
dimensions within heads, are removed, `Attention` replaces it: the same arguments, parameters and names, other sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from secateur.core.errors import RequestError
from secateur.structure.edited import Edited, own_class, state_of

HEADS = "_secateur_heads"
"""Attribute in which an attention module keeps its sizes."""


@dataclass(frozen=True)
class Heads:
    """Sizes of an attention module that was pruned.

    Attributes:
        kept: indices of the heads that stay.
        before: number of heads before pruning.
        size: size of a head when the network was trained; the scale of attention scores is computed from it.
    """

    kept: tuple[int, ...]
    before: int
    size: int

    def then(self, after: Heads) -> Heads:
        """The sizes after two prunings: first this one, then ``after``."""
        return Heads(tuple(self.kept[head] for head in after.kept), self.before, self.size)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"kept": list(self.kept), "before": self.before, "size": self.size}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Heads:
        """Read `to_json` back; raises KeyError, TypeError or ValueError for anything else."""
        kept, before, size = value["kept"], value["before"], value["size"]
        if any(type(number) is not int for number in (*kept, before, size)) or size < 1:
            raise TypeError("sizes of heads must be integers")
        if not kept or sorted(set(kept)) != list(kept) or not 0 <= kept[0] <= kept[-1] < before:
            raise ValueError("heads that stay must be some of all, in order")
        return cls(tuple(kept), before, size)


def multi_head_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: torch.Tensor | None,
    in_proj_bias: torch.Tensor | None,
    bias_k: torch.Tensor | None,
    bias_v: torch.Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: torch.Tensor,
    out_proj_bias: torch.Tensor | None,
    training: bool = True,
    key_padding_mask: torch.Tensor | None = None,
    need_weights: bool = True,
    attn_mask: torch.Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: torch.Tensor | None = None,
    k_proj_weight: torch.Tensor | None = None,
    v_proj_weight: torch.Tensor | None = None,
    static_k: torch.Tensor | None = None,
    static_v: torch.Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
    *,
    trained: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """`torch.nn.functional.multi_head_attention_forward`, with its arguments, in steps that have rules.

    Weights may have fewer rows for the values than for queries and keys. ``trained`` is the size of a head when the
    network was trained, from which the scale of scores is computed; None: the size that it has now.
    """
    if static_k is not None or static_v is not None:
        raise RequestError("attention with static keys cannot be traced; use scaled_dot_product_attention")
    unbatched = query.ndim == 2
    same = query is key and key is value
    # samples first, so that units are counted per sample
    query, key, value = (t.unsqueeze(0) if unbatched else t.transpose(0, 1) for t in (query, key, value))
    made_v = out_proj_weight.shape[1]
    rows = _rows(in_proj_weight, q_proj_weight, made_v)
    if same and not use_separate_proj_weight:
        assert in_proj_weight is not None
        q, k, v = F.linear(query, in_proj_weight, in_proj_bias).split(rows, -1)
    else:
        weights = (
            (q_proj_weight, k_proj_weight, v_proj_weight)
            if use_separate_proj_weight or in_proj_weight is None
            else in_proj_weight.split(rows)
        )
        biases = (None, None, None) if in_proj_bias is None else in_proj_bias.split(rows)
        q, k, v = (
            F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True) if w is not None
        )
    samples, length = q.shape[0], k.shape[1]
    if is_causal and key_padding_mask is None and not need_weights:
        attn_mask = None  # as in PyTorch: the hint replaces the mask
    elif is_causal and attn_mask is None:
        raise RequestError("attention with is_causal=True needs attn_mask as well, unless need_weights=False")
    mask = _attention_mask(attn_mask, key_padding_mask, samples, num_heads, length, q.dtype)
    if bias_k is not None and bias_v is not None:
        k, v = (torch.cat([t, bias.expand(samples, 1, -1)], 1) for t, bias in ((k, bias_k), (v, bias_v)))
    if add_zero_attn:
        k, v = (F.pad(t, (0, 0, 0, 1)) for t in (k, v))
    if mask is not None and k.shape[1] > length:
        mask = F.pad(mask, (0, k.shape[1] - length))
    q, k, v = (t.unflatten(-1, (num_heads, -1)).transpose(1, 2) for t in (q, k, v))
    scale = (q.shape[-1] if trained is None else trained) ** -0.5
    dropout = dropout_p if training else 0.0
    if not need_weights:
        causal = is_causal and key_padding_mask is None
        out = F.scaled_dot_product_attention(q, k, v, mask, dropout, causal, scale=None if trained is None else scale)
    else:
        scores = q @ k.transpose(-1, -2) * scale
        weights_NHLS = (scores if mask is None else scores + mask).softmax(-1)
        if dropout:
            weights_NHLS = F.dropout(weights_NHLS, dropout)
        out = weights_NHLS @ v
    out = F.linear(out.transpose(1, 2).flatten(2), out_proj_weight, out_proj_bias)
    out = out.squeeze(0) if unbatched else out.transpose(0, 1)
    if not need_weights:
        return out, None
    weights = weights_NHLS.squeeze(0) if unbatched else weights_NHLS
    return out, weights.mean(-3) if average_attn_weights else weights


def _rows(packed: torch.Tensor | None, query: torch.Tensor | None, made_v: int) -> list[int]:
    """Rows of the projection for queries, keys and values."""
    if packed is None or not packed.numel():
        assert query is not None
        return [query.shape[0], query.shape[0], made_v]
    made_q = (packed.shape[0] - made_v) // 2
    return [made_q, made_q, made_v]


def _attention_mask(
    attn_mask: torch.Tensor | None,
    key_padding_mask: torch.Tensor | None,
    samples: int,
    heads: int,
    length: int,
    dtype: torch.dtype,
) -> torch.Tensor | None:
    """Both masks as one that is added to the scores, [N or 1, H or 1, L or 1, S]."""
    masks = []
    if attn_mask is not None:
        masks.append(attn_mask if attn_mask.ndim == 2 else attn_mask.unflatten(0, (samples, heads)))
    if key_padding_mask is not None:
        masks.append(key_padding_mask.reshape(samples, 1, 1, length))
    total: torch.Tensor | None = None
    for mask in masks:
        if mask.dtype == torch.bool:
            mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, float("-inf"))
        total = mask if total is None else total + mask
    return total


class Attention(Edited, nn.MultiheadAttention):
    """Replaces `torch.nn.MultiheadAttention` in a module from which heads, or parts of heads, were removed."""

    def forward(
        self: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
        need_weights: bool = True,
        attn_mask: torch.Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See `torch.nn.MultiheadAttention.forward`.

        A mask per head [samples * heads, L, S] has an entry for every head before pruning.
        """
        if query.is_nested:
            nested: tuple[torch.Tensor, None] = self._nested(query, key, value, need_weights)
            return nested
        heads: Heads = self.__dict__[HEADS]
        if attn_mask is not None and attn_mask.ndim == 3 and len(heads.kept) < heads.before:
            attn_mask = attn_mask.unflatten(0, (-1, heads.before))[:, list(heads.kept)].flatten(0, 1)
        batched, swap = query.ndim == 3, self.batch_first and query.ndim == 3
        same = query is key and key is value
        if swap:
            query, key, value = (t.transpose(0, 1) for t in (query, key, value))
            key, value = (query, query) if same else (key, value)
        out, weights = multi_head_attention(
            query, key, value, self.embed_dim, len(heads.kept), self.in_proj_weight, self.in_proj_bias, self.bias_k,
            self.bias_v, self.add_zero_attn, self.dropout, self.out_proj.weight, self.out_proj.bias, self.training,
            key_padding_mask if key_padding_mask is None or batched else key_padding_mask.unsqueeze(0), need_weights,
            attn_mask, self.in_proj_weight is None, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight,
            None, None, average_attn_weights, is_causal, trained=heads.size,
        )  # fmt: skip
        return (out.transpose(0, 1) if swap else out), weights

    def _nested(
        self: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        need_weights: bool,
    ) -> tuple[torch.Tensor, None]:
        """Attend within a nested tensor of samples of several lengths, as `torch.nn.TransformerEncoder` makes them."""
        if query is not key or key is not value or need_weights:
            raise RequestError("attention over nested tensors is self-attention only, and returns no weights")
        lengths = torch.tensor([len(sample) for sample in query.unbind()], device=query.device)
        padded = query.to_padded_tensor(0.0)
        stays = torch.arange(padded.shape[1], device=query.device) < lengths[:, None]
        out, _ = self.forward(padded, padded, padded, ~stays, False)
        return torch._nested_tensor_from_mask(out, stays, mask_check=False), None

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _restored, (own_class(self),), state_of(self)


def set_heads(module: nn.Module, heads: Heads, path: str) -> None:
    """Let an attention module run with other sizes from now on.

    Args:
        module: a `torch.nn.MultiheadAttention`, to be changed in place.
        heads: the sizes after pruning; the module keeps those that it was built with as well.
        path: of the module, for messages.

    Raises:
        RequestError: for another module.
    """
    if not isinstance(module, nn.MultiheadAttention):
        raise RequestError(f"module '{path}' is no torch.nn.MultiheadAttention")
    module.__dict__[HEADS] = heads
    module.num_heads = len(heads.kept)
    # encoder layers have a fast path that assumes packed weights of full size; this switches it off
    module._qkv_same_embed_dim = False
    module.__class__ = _class(own_class(module))


@cache
def _class(base: Any) -> Any:
    own = {"__module__": base.__module__, "__qualname__": base.__qualname__, "_secateur_base": base}
    # a subclass with a ``forward`` of its own keeps it; this one follows in the order of its bases
    return type(base.__name__, (Attention,) if base is nn.MultiheadAttention else (base, Attention), own)


def _restored(base: type) -> Any:
    return object.__new__(_class(base))
