"""Attention as people write it themselves."""

from __future__ import annotations

import math

import torch
from hostile_cases import B, Drawn, call, causal, network, real, traced, trained, truth, untraced, used
from torch import nn
from torch.nn import functional as F

X = real(B, 5, 6)
MASK = truth(5, 5)
LONGER = real(B, 7, 6)


class Net(nn.Module):
    """Embedding, attention with a residual connection, head; further arguments go to the attention."""

    def __init__(self, attn: nn.Module, width: int = 16) -> None:
        super().__init__()
        self.embed, self.attn, self.head = nn.Linear(6, width), attn, nn.Linear(width, 3)

    def forward(self, x, *args, **kwargs):
        x = self.embed(x)
        return self.head(x + self.attn(x, *args, **kwargs))


class Base(nn.Module):
    """Layers that most spellings share."""

    def __init__(self, width: int = 16, heads: int = 4, packed: bool = False) -> None:
        super().__init__()
        self.width, self.heads, self.head_dim, self.scale = width, heads, width // heads, (width // heads) ** -0.5
        if packed:
            self.qkv = nn.Linear(width, 3 * width)
        else:
            self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)


def attention(name, *calls, packed=False, example=None, **options):
    """Register an attention within `Net`."""

    def register(kind):
        @network(name, example or call(X), *calls, **options)
        def build():
            return Net(kind(packed=packed))

        return kind

    return register


def masked_calls(shape: Drawn = MASK):
    return traced(X, mask=shape), call(LONGER)


@attention("attention: reshape(B, N, 3, heads, C // heads)", *masked_calls(), packed=True,
           prunes=["attn.qkv"], exports=True)  # fmt: skip
class PackedReshape(Base):
    def forward(self, x, mask=None):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) * (c // self.heads) ** -0.5
        if mask is not None:
            scores = scores.masked_fill(mask, float("-inf"))
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, c))


@attention("attention: chunk, then view", *masked_calls(), packed=True, prunes=["attn.qkv"], exports=True)
class ChunkView(Base):
    def forward(self, x, mask=None):
        b, n, _ = x.shape
        q, k, v = (t.view(b, n, self.heads, -1).transpose(1, 2) for t in self.qkv(x).chunk(3, dim=-1))
        scores = torch.matmul(q, k.mT) / math.sqrt(q.size(-1))
        if mask is not None:
            scores = scores + torch.zeros_like(scores).masked_fill(mask, -1e9)
        y = torch.softmax(scores, -1) @ v
        return self.out(y.transpose(1, 2).contiguous().view(b, n, -1))


@attention("attention: split(self.width)", *masked_calls(), packed=True, prunes=["attn.qkv"])
class SplitWidth(Base):
    def forward(self, x, mask=None):
        b, n, c = x.size()
        q, k, v = self.qkv(x).split(self.width, dim=2)
        q, k, v = (t.view(b, n, self.heads, c // self.heads).transpose(1, 2) for t in (q, k, v))
        scores = q @ k.transpose(-2, -1) * self.scale
        if mask is not None:
            scores = scores.masked_fill(mask == 1, float("-inf"))
        return self.out((F.softmax(scores, dim=-1) @ v).transpose(1, 2).reshape(b, n, c))


@attention("attention: unflatten and einsum", *masked_calls(), packed=True)
class UnflattenEinsum(Base):
    def forward(self, x, mask=None):
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, self.head_dim)).unbind(2)
        scores = torch.einsum("bihd,bjhd->bhij", q, k) * self.scale
        if mask is not None:
            scores = scores.masked_fill(mask, float("-inf"))
        return self.out(torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v).flatten(2))


@attention("attention: einops-like rearrange in a helper", *masked_calls(), packed=True)
class Rearranged(Base):
    @staticmethod
    def rearrange(x, heads):
        b, n, hd = x.shape
        return x.reshape(b, n, heads, hd // heads).permute(0, 2, 1, 3)

    def forward(self, x, mask=None):
        q, k, v = (self.rearrange(t, self.heads) for t in self.qkv(x).chunk(3, dim=-1))
        scores = q @ k.transpose(-1, -2) * self.scale
        if mask is not None:
            scores = scores.masked_fill(mask[None, None], torch.finfo(scores.dtype).min)
        y = scores.softmax(-1) @ v
        return self.out(y.permute(0, 2, 1, 3).reshape(y.shape[0], y.shape[2], -1))


@attention("attention: separate q, k, v and a mask with 0 for hidden", *masked_calls(), prunes=["attn.v", "attn.q"])
class Separate(Base):
    def split(self, t):
        return t.view(t.size(0), -1, self.heads, self.head_dim).transpose(1, 2)

    def forward(self, x, mask=None):
        q, k, v = self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x))
        scores = torch.matmul(q, k.transpose(-2, -1)) / math.sqrt(self.head_dim)
        if mask is not None:
            scores = scores.masked_fill(~mask == 0, -1e9)
        y = torch.matmul(F.softmax(scores, dim=-1), v)
        return self.out(y.transpose(1, 2).contiguous().view(x.size(0), -1, self.heads * self.head_dim))


@attention("attention: scaled_dot_product_attention with attn_mask, is_causal and scale",
           traced(X, causal=True), traced(X, mask=real(5, 5)), untraced(X, scale=0.3), call(LONGER),
           packed=True, prunes=["attn.qkv"], exports=True)  # fmt: skip
class Flash(Base):
    def forward(self, x, mask=None, causal=False, scale=None):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=scale)
        return self.out(y.transpose(1, 2).reshape(b, n, c))


@attention("attention: scaled_dot_product_attention, default scale from the head size",
           trained(X), call(LONGER))  # fmt: skip
class FlashSeparate(Base):
    def forward(self, x):
        q, k, v = (f(x).unflatten(-1, [self.heads, -1]).transpose(1, 2) for f in (self.q, self.k, self.v))
        dropout = 0.1 * 0.0 if self.training else 0.0
        return self.out(F.scaled_dot_product_attention(q, k, v, dropout_p=dropout).transpose(1, 2).flatten(-2))


@attention("attention: causal slice of a buffer", call(LONGER), call(real(B, 2, 6)), packed=True)
class BufferMask(Base):
    def __init__(self, **options):
        super().__init__(**options)
        self.register_buffer("bias", torch.tril(torch.ones(8, 8)).view(1, 1, 8, 8))

    def forward(self, x):
        B, T, C = x.size()
        q, k, v = self.qkv(x).split(C, dim=2)
        q, k, v = (t.view(B, T, self.heads, C // self.heads).transpose(1, 2) for t in (q, k, v))
        att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        att = att.masked_fill(self.bias[:, :, :T, :T] == 0, float("-inf")).softmax(-1)
        return self.out((att @ v).transpose(1, 2).contiguous().view(B, T, C))


@attention("attention: triangle made in forward", call(LONGER), packed=True)
class TriuMask(Base):
    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        hidden = torch.ones(n, n, dtype=torch.bool, device=x.device).triu(1)
        scores = (q * self.scale) @ k.transpose(-2, -1)
        return self.out((scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v).transpose(1, 2).reshape(b, n, c))


@attention("attention: cross attention with ctx=None", traced(X, ctx=real(B, 3, 16)), call(LONGER),
           untraced(LONGER, ctx=real(B, 9, 16)))  # fmt: skip
class CrossOrSelf(Base):
    def forward(self, x, ctx=None):
        ctx = x if ctx is None else ctx
        b, n, c = x.shape
        q = self.q(x).view(b, n, self.heads, -1).transpose(1, 2)
        k, v = (f(ctx).view(b, ctx.shape[1], self.heads, -1).transpose(1, 2) for f in (self.k, self.v))
        return self.out(((q @ k.mT * self.scale).softmax(-1) @ v).transpose(1, 2).reshape(b, n, c))


@attention("attention: cross attention, untraced ctx", untraced(X, real(B, 3, 16)), untraced(X, None))
class CrossUntraced(CrossOrSelf):
    pass


@attention("attention: mask never traced", untraced(X, mask=MASK), untraced(X, MASK), packed=True)
class MaskUntraced(PackedReshape):
    pass


@attention("attention: traced with a mask, called without", call(X, mask=None), untraced(X), packed=True,
           example=call(X, mask=MASK))  # fmt: skip
class MaskTraced(PackedReshape):
    pass


@network("attention: key and value cache", call(X), traced(X, use_cache=True), exports=False)
class Cached(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head, self.heads = nn.Linear(6, 16), nn.Linear(16, 3), 4
        self.c_attn, self.c_proj = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x, past=None, use_cache=False):
        x = self.embed(x)
        b, n, c = x.shape
        q, k, v = (t.view(b, n, self.heads, -1).transpose(1, 2) for t in self.c_attn(x).chunk(3, -1))
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=past is None).transpose(1, 2).reshape(b, n, c)
        y = self.head(x + self.c_proj(y))
        return (y, (k, v)) if use_cache else y


def logits_in_two_steps(model, x):
    y, past = model(x[:, :3], use_cache=True)
    return y, model(x[:, 3:], past=past, use_cache=True)[0]


@network("attention: generation with a cache, logits only", call(X), untraced(X, use_cache=True),
         used(logits_in_two_steps, X, may_refuse=True))  # fmt: skip
class CachedUntraced(Cached):
    pass


@attention("attention: relative position bias by a table", call(X), packed=True, prunes=["attn.qkv"])
class RelativeBias(Base):
    def __init__(self, **options):
        super().__init__(**options)
        self.table = nn.Parameter(torch.randn(9, self.heads))
        places = torch.arange(5)
        self.register_buffer("index", places[:, None] - places[None] + 4)

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        bias = self.table[self.index.view(-1)].view(n, n, -1).permute(2, 0, 1)
        scores = q @ k.mT * self.scale + bias.unsqueeze(0)
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, c))


@attention("attention: relative position embedding multiplied with queries", call(X))
class RelativeKeys(Base):
    def __init__(self, **options):
        super().__init__(**options)
        self.relative = nn.Embedding(15, self.head_dim)

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = (f(x).view(b, n, self.heads, self.head_dim).transpose(1, 2) for f in (self.q, self.k, self.v))
        places = torch.arange(n)
        r = self.relative(places[:, None] - places[None] + 7)
        scores = (q @ k.mT + torch.einsum("bhid,ijd->bhij", q, r)) / math.sqrt(self.head_dim)
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


def rotate_half(x):
    a, b = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return torch.cat((-b, a), -1)


class Rotary(Base):
    """Rotary embedding by halves; sizes of a head must not change singly, heads may go."""

    def __init__(self, **options):
        super().__init__(**options)
        rates = 1 / 100 ** (torch.arange(0, self.head_dim, 2) / self.head_dim)
        angles = torch.outer(torch.arange(8), rates)
        self.register_buffer("cos", torch.cat([angles, angles], -1).cos())
        self.register_buffer("sin", torch.cat([angles, angles], -1).sin())

    def forward(self, x, mask=None):
        b, n, _ = x.shape
        q, k, v = (f(x).view(b, n, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        q, k = (t * self.cos[:n] + rotate_half(t) * self.sin[:n] for t in (q, k))
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        if mask is not None:
            scores = scores.masked_fill(mask, float("-inf"))
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, -1))


attention("attention: rotary embedding by halves", *masked_calls(), prunes=["attn.v"])(Rotary)


@attention("attention: rotary embedding by complex numbers", call(LONGER), prunes=["attn.v"])
class RotaryComplex(Base):
    def rotate(self, x):
        rates = 1 / 100 ** (torch.arange(0, self.head_dim, 2, dtype=x.dtype) / self.head_dim)
        angles = torch.outer(torch.arange(x.shape[1], dtype=x.dtype), rates)
        turns = torch.polar(torch.ones_like(angles), angles)[None, :, None]
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2).contiguous())
        return torch.view_as_real(pairs * turns).flatten(3)

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = (f(x).view(b, n, self.heads, self.head_dim) for f in (self.q, self.k, self.v))
        q, k, v = (t.transpose(1, 2) for t in (self.rotate(q), self.rotate(k), v))
        return self.out(((q @ k.mT * self.scale).softmax(-1) @ v).transpose(1, 2).reshape(b, n, -1))


@attention("attention: rotary embedding of interleaved pairs", call(LONGER))
class RotaryPairs(Base):
    def rotate(self, x):
        angles = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] / 3 ** torch.arange(x.shape[-1] // 2, dtype=x.dtype)
        a, b = x[..., ::2], x[..., 1::2]
        return torch.stack([a * angles.cos() - b * angles.sin(), a * angles.sin() + b * angles.cos()], -1).flatten(-2)

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = (f(x).view(b, n, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(self.rotate(q), self.rotate(k), v)
        return self.out(y.transpose(1, 2).reshape(b, n, -1))


@attention("attention: ALiBi slopes from the number of heads", call(LONGER), packed=True)
class Alibi(Base):
    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        slopes = 2.0 ** -torch.arange(1, self.heads + 1, dtype=x.dtype)
        distance = (torch.arange(n)[None] - torch.arange(n)[:, None]).abs()
        scores = q @ k.mT * self.scale - slopes[:, None, None] * distance
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, c))


@attention("attention: ALiBi slopes as a buffer", call(LONGER), packed=True)
class AlibiBuffer(Base):
    def __init__(self, **options):
        super().__init__(**options)
        self.register_buffer("slopes", 0.5 ** torch.arange(1, self.heads + 1).view(-1, 1, 1))

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        bias = -self.slopes * (torch.arange(n)[None] - torch.arange(n)[:, None]).abs()
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q))
        return self.out(y.transpose(1, 2).reshape(b, n, c))


class Grouped(nn.Module):
    """Two heads of keys and values for four heads of queries."""

    def __init__(self, packed=False):
        super().__init__()
        self.q, self.k, self.v, self.out = nn.Linear(16, 16), nn.Linear(16, 8), nn.Linear(16, 8), nn.Linear(16, 16)
        self.heads, self.kv_heads, self.head_dim = 4, 2, 4

    def projected(self, x):
        b, n, _ = x.shape
        q = self.q(x).view(b, n, self.heads, self.head_dim).transpose(1, 2)
        k, v = (f(x).view(b, n, self.kv_heads, self.head_dim).transpose(1, 2) for f in (self.k, self.v))
        return q, k, v


@attention("grouped-query attention: repeat_interleave", traced(X, mask=MASK), call(LONGER))
class GroupedRepeat(Grouped):
    def forward(self, x, mask=None):
        q, k, v = self.projected(x)
        k, v = (t.repeat_interleave(self.heads // self.kv_heads, dim=1) for t in (k, v))
        scores = q @ k.mT / math.sqrt(self.head_dim)
        if mask is not None:
            scores = scores.masked_fill(mask, -torch.inf)
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


@attention("grouped-query attention: expand and reshape", call(LONGER))
class GroupedExpand(Grouped):
    def repeated(self, t):
        b, h, n, d = t.shape
        times = self.heads // self.kv_heads
        return t[:, :, None].expand(b, h, times, n, d).reshape(b, h * times, n, d)

    def forward(self, x):
        q, k, v = self.projected(x)
        y = F.scaled_dot_product_attention(q, self.repeated(k), self.repeated(v))
        return self.out(y.transpose(1, 2).reshape(*x.shape[:2], -1))


@attention("grouped-query attention: enable_gqa", call(LONGER))
class GroupedFlag(Grouped):
    def forward(self, x):
        y = F.scaled_dot_product_attention(*self.projected(x), enable_gqa=True)
        return self.out(y.transpose(1, 2).flatten(2))


@attention("multi-query attention: one head of keys and values", call(LONGER))
class MultiQuery(nn.Module):
    def __init__(self, packed=False):
        super().__init__()
        self.q, self.kv, self.out = nn.Linear(16, 16), nn.Linear(16, 8), nn.Linear(16, 16)

    def forward(self, x):
        b, n, _ = x.shape
        q = self.q(x).view(b, n, 4, 4).transpose(1, 2)
        k, v = self.kv(x)[:, None].chunk(2, -1)
        return self.out(((q @ k.mT / 2).softmax(-1) @ v).transpose(1, 2).reshape(b, n, -1))


@attention("attention: dropout of weights in training", trained(X, random=True), call(LONGER), packed=True)
class AttentionDropout(Base):
    def __init__(self, **options):
        super().__init__(**options)
        self.drop = nn.Dropout(0.3)

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        return self.out((self.drop((q @ k.mT * self.scale).softmax(-1)) @ v).transpose(1, 2).reshape(b, n, c))


@attention("attention: functional dropout with self.training", trained(X, random=True), call(LONGER), packed=True)
class FunctionalDropout(Base):
    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        weights = F.dropout((q @ k.mT * self.scale).softmax(-1), 0.3, training=self.training)
        return self.out((weights @ v).transpose(1, 2).reshape(b, n, c))


@attention("attention: dropout_p of scaled_dot_product_attention", trained(X, random=True), call(LONGER), packed=True)
class FlashDropout(Base):
    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=0.3 if self.training else 0.0)
        return self.out(y.transpose(1, 2).reshape(b, n, c))


@attention("attention: loop over heads with slices", call(LONGER), packed=True)
class LoopSlices(Base):
    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        heads = []
        for h in range(self.heads):
            part = slice(h * self.head_dim, (h + 1) * self.head_dim)
            scores = q[..., part] @ k[..., part].mT / math.sqrt(self.head_dim)
            heads.append(scores.softmax(-1) @ v[..., part])
        return self.out(torch.cat(heads, -1))


@attention("attention: a module per head", call(LONGER), untraced(X, mask=MASK))
class ModulePerHead(nn.Module):
    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.key, self.query, self.value = (nn.Linear(16, 4, bias=False) for _ in range(3))

        def forward(self, x, mask=None):
            k, q = self.key(x), self.query(x)
            wei = q @ k.transpose(-2, -1) * k.shape[-1] ** -0.5
            if mask is not None:
                wei = wei.masked_fill(mask, -torch.inf)
            return F.softmax(wei, -1) @ self.value(x)

    def __init__(self, packed=False):
        super().__init__()
        self.heads, self.proj = nn.ModuleList(self.Head() for _ in range(4)), nn.Linear(16, 16)

    def forward(self, x, mask=None):
        return self.proj(torch.cat([h(x, mask) for h in self.heads], dim=-1))


@attention("attention: returns its weights on demand", traced(X, weights=True), packed=True)
class WithWeights(Base):
    def forward(self, x, weights=False):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        scores = (q @ k.mT * self.scale).softmax(-1)
        y = self.out((scores @ v).transpose(1, 2).reshape(b, n, c))
        return y + scores.mean((1, 2)).sum(-1)[:, None, None] if weights else y


@attention("attention: average of weights over heads leaves the module", packed=True)
class AveragedWeights(Base):
    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        scores = (q @ k.mT * self.scale).softmax(-1)
        average = scores.sum(1) / self.heads
        return self.out((scores @ v).transpose(1, 2).reshape(b, n, c)) + average.sum(-1, keepdim=True)


@attention("attention: talking heads", call(LONGER), packed=True)
class TalkingHeads(Base):
    def __init__(self, **options):
        super().__init__(**options)
        self.talk = nn.Linear(self.heads, self.heads)

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        scores = self.talk((q @ k.mT * self.scale).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, c))


@attention("attention: linear attention with elu + 1", call(LONGER))
class LinearAttention(Base):
    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = (f(x).view(b, n, self.heads, -1) for f in (self.q, self.k, self.v))
        q, k = F.elu(q) + 1, F.elu(k) + 1
        top = torch.einsum("bnhd,bhde->bnhe", q, torch.einsum("bnhd,bnhe->bhde", k, v))
        return self.out((top / torch.einsum("bnhd,bhd->bnh", q, k.sum(1))[..., None]).reshape(b, n, -1))


@attention("attention: normalised queries and keys (cosine)", call(LONGER))
class Cosine(Base):
    def __init__(self, **options):
        super().__init__(**options)
        self.tau = nn.Parameter(torch.ones(self.heads, 1, 1))

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = (f(x).view(b, n, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * self.tau.exp()
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, -1))


@attention("attention: layer norm of queries and keys per head", call(LONGER))
class QkNorm(Base):
    def __init__(self, **options):
        super().__init__(**options)
        self.q_norm, self.k_norm = nn.LayerNorm(self.head_dim), nn.LayerNorm(self.head_dim)

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = (f(x).view(b, n, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)
        return self.out(y.transpose(1, 2).reshape(b, n, -1))


@attention("attention: temperature from the width of the values", call(LONGER))
class ScaleOfValues(Base):
    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = (f(x).view(b, n, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        scores = q @ k.mT / v.shape[-1] ** 0.5
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, -1))


@attention("attention: heads folded into the batch by bmm", call(LONGER), traced(X, mask=MASK))
class FoldedHeads(Base):
    def forward(self, x, mask=None):
        b, n, c = x.shape
        q, k, v = (f(x).view(b, n, self.heads, -1).transpose(1, 2).reshape(b * self.heads, n, -1)
                   for f in (self.q, self.k, self.v))  # fmt: skip
        scores = torch.bmm(q, k.transpose(1, 2)) * self.scale
        if mask is not None:
            scores += torch.zeros_like(scores).masked_fill_(mask, -1e4)
        y = torch.bmm(scores.softmax(-1), v).view(b, self.heads, n, -1).transpose(1, 2)
        return self.out(y.reshape(b, n, c))


@attention("attention: baddbmm into an empty tensor", call(LONGER))
class Baddbmm(Base):
    def forward(self, x):
        b, n, c = x.shape
        q, k, v = (f(x).view(b, n, self.heads, self.head_dim).transpose(1, 2).reshape(b * self.heads, n, self.head_dim)
                   for f in (self.q, self.k, self.v))  # fmt: skip
        zeros = torch.zeros(b * self.heads, n, n, dtype=x.dtype)
        scores = torch.baddbmm(zeros, q, k.mT, beta=0, alpha=self.scale)
        y = torch.bmm(scores.softmax(-1), v).view(b, self.heads, n, self.head_dim)
        return self.out(y.transpose(1, 2).reshape(b, n, self.heads * self.head_dim))


@attention("attention: additive", call(LONGER))
class Additive(nn.Module):
    def __init__(self, packed=False):
        super().__init__()
        self.q, self.k, self.score = nn.Linear(16, 12), nn.Linear(16, 12), nn.Linear(12, 1, bias=False)

    def forward(self, x):
        scores = self.score(torch.tanh(self.q(x)[:, :, None] + self.k(x)[:, None])).squeeze(-1)
        return scores.softmax(-1) @ x


@attention("attention: windows of tokens", call(real(B, 8, 6)), example=call(real(B, 4, 6)))
class Windows(Base):
    def forward(self, x):
        b, n, c = x.shape
        x = x.view(b, n // 2, 2, c).reshape(-1, 2, c)
        q, k, v = (f(x).view(-1, 2, self.heads, c // self.heads).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = ((q @ k.mT * self.scale).softmax(-1) @ v).transpose(1, 2).reshape(-1, 2, c)
        return self.out(y).view(b, n, c)


@attention("attention: keys of a fixed number of learned queries", call(LONGER))
class LearnedQueries(Base):
    def __init__(self, **options):
        super().__init__(**options)
        self.seeds = nn.Parameter(torch.randn(1, 1, self.width))

    def forward(self, x):
        b, n, c = x.shape
        q = self.q(self.seeds).view(1, 1, self.heads, -1).transpose(1, 2).expand(b, -1, -1, -1)
        k, v = (f(x).view(b, n, self.heads, -1).transpose(1, 2) for f in (self.k, self.v))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, 1, c))


@attention("attention: channel attention with a softmax over channels", call(LONGER))
class ChannelAttention(Base):
    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = (f(x).view(b, n, self.heads, -1).permute(0, 2, 3, 1) for f in (self.q, self.k, self.v))
        return self.out(((q @ k.mT / n).softmax(-1) @ v).permute(0, 3, 1, 2).reshape(b, n, -1))


@attention("attention: the largest keys only (topk over positions)", packed=True)
class TopKeys(Base):
    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        scores = q @ k.mT * self.scale
        least = scores.topk(3, -1).values[..., -1:]
        scores = scores.masked_fill(scores < least, -torch.inf)
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, c))


@attention("attention: causal argument with other lengths", call(LONGER, causal=False), traced(X, causal=True),
           packed=True)  # fmt: skip
class CausalArgument(Base):
    def forward(self, x, causal=False):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        scores = q @ k.mT * self.scale
        if causal:
            scores = scores + causal_like(scores)
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, c))


def causal_like(scores):
    return causal(scores.shape[-1]).to(scores)
