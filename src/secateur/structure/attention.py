"""`torch.nn.MultiheadAttention` in steps that have rules of structure and of relevance."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from secateur.core.errors import RequestError


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
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """`torch.nn.MultiheadAttention`'s function in steps that have rules; inputs [L, N, E] or [L, E]."""
    if static_k is not None or static_v is not None:
        raise RequestError("attention with static keys cannot be looked into; use scaled_dot_product_attention")
    unbatched = query.ndim == 2
    same = query is key and key is value
    # samples first, so that units are counted per sample
    query, key, value = (t.unsqueeze(0) if unbatched else t.transpose(0, 1) for t in (query, key, value))
    if same and not use_separate_proj_weight:
        assert in_proj_weight is not None
        width = in_proj_weight.shape[0] // 3
        q, k, v = F.linear(query, in_proj_weight, in_proj_bias).split([width, width, width], -1)
    else:
        weights = (
            (q_proj_weight, k_proj_weight, v_proj_weight)
            if use_separate_proj_weight or in_proj_weight is None
            else in_proj_weight.chunk(3)
        )
        biases = (None, None, None) if in_proj_bias is None else in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True) if w is not None
        )
    samples, length = q.shape[0], k.shape[1]
    mask = _attention_mask(attn_mask, key_padding_mask, samples, num_heads, length, q.dtype)
    more = [] if bias_k is None or bias_v is None else [(bias_k.expand(samples, 1, -1), bias_v.expand(samples, 1, -1))]
    more += [(k.new_zeros(samples, 1, k.shape[-1]), v.new_zeros(samples, 1, v.shape[-1]))] if add_zero_attn else []
    for extra_k, extra_v in more:
        k, v = torch.cat([k, extra_k], 1), torch.cat([v, extra_v], 1)
        mask = None if mask is None else F.pad(mask, (0, 1))
    q, k, v = (t.unflatten(-1, (num_heads, -1)).transpose(1, 2) for t in (q, k, v))
    if not need_weights:
        causal = is_causal and mask is None and not more
        out = F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal)
    else:
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        weights_NHLS = (scores if mask is None else scores + mask).softmax(-1)
        out = weights_NHLS @ v
    out = F.linear(out.transpose(1, 2).flatten(2), out_proj_weight, out_proj_bias)
    out = out.squeeze(0) if unbatched else out.transpose(0, 1)
    if not need_weights:
        return out, None
    weights_out = weights_NHLS.mean(1) if average_attn_weights else weights_NHLS
    return out, weights_out.squeeze(0) if unbatched else weights_out


def _attention_mask(
    attn_mask: torch.Tensor | None,
    key_padding_mask: torch.Tensor | None,
    samples: int,
    heads: int,
    length: int,
    dtype: torch.dtype,
) -> torch.Tensor | None:
    """Both masks as one to add, [N or 1, H or 1, L or 1, S]."""
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
