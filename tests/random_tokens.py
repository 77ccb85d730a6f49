"""Blocks of random networks on tokens [B, N, C]; see `random_blocks`."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from random_blocks import SPLITS, activation, halves

TOKEN_NORMS = ("layer norm", "rms norm", "batch norm of tokens", "plain layer norm")
PACKINGS = (
    "packed by reshape", "packed by chunk", "separate by head dim", "separate by heads", "grouped queries",
    "query and packed key value", "packed per head", "packed by slices",
)  # fmt: skip
PRODUCTS = ("fused", "fused with scale", "softmax of matmul", "einsum")
SCALES = ("scale from shape", "scale kept")
EXTRAS = ("no extra", "relative position bias", "talking heads", "q k norm", "cosine")
JOINS = ("heads joined to -1", "heads joined to C", "heads flattened")
RAW = ("F.linear", "matmul of parameter", "einsum with parameter")


class BatchNormOfTokens(nn.BatchNorm1d):
    def forward(self, x):
        return super().forward(x.flatten(0, 1)).reshape_as(x)


def token_norm(width, pick):
    kind = pick(*TOKEN_NORMS)
    return {
        "layer norm": lambda: nn.LayerNorm(width),
        "rms norm": lambda: nn.RMSNorm(width),
        "batch norm of tokens": lambda: BatchNormOfTokens(width),
        "plain layer norm": lambda: nn.LayerNorm(width, elementwise_affine=False),
    }[kind]()


class Attention(nn.Module):
    """Heads in many spellings."""

    def __init__(self, shape, pick):
        super().__init__()
        width = shape.width
        self.packing, self.product, self.join = pick(*PACKINGS), pick(*PRODUCTS), pick(*JOINS)
        self.scaling = pick(*SCALES)
        self.extra = pick(*(e for e in EXTRAS if e != "talking heads" or "fused" not in self.product))
        self.window = pick(2, shape.side) if not shape.extra and shape.side % 2 == 0 else 0
        self.windowed = self.window and pick("all tokens", "windows") == "windows"
        # an inner width of its own is possible only where the code does not take it from its input
        free = self.join != "heads joined to C" and self.packing not in (
            "packed by reshape",
            "query and packed key value",
        )
        self.heads = pick(*(h for h in (2, 4, 3) if free or width % h == 0))
        self.head_dim = pick(4, 3) if free else width // self.heads
        inner, self.side = self.heads * self.head_dim, shape.side
        self.scale = self.head_dim**-0.5
        bias = pick(True, False)
        self.groups = pick(2, 1) if self.packing == "grouped queries" and self.heads % 2 == 0 else 1
        if self.packing in ("separate by head dim", "separate by heads", "grouped queries"):
            few = self.groups * self.head_dim if self.packing == "grouped queries" else inner
            self.q, self.k, self.v = (nn.Linear(width, n, bias=bias) for n in (inner, few, few))
        elif self.packing == "query and packed key value":
            self.q, self.kv = nn.Linear(width, inner, bias=bias), nn.Linear(width, 2 * inner, bias=bias)
        else:
            self.qkv = nn.Linear(width, 3 * inner, bias=bias)
        self.proj = nn.Linear(inner, width)
        if self.extra == "talking heads":
            self.before, self.after = nn.Linear(self.heads, self.heads), nn.Linear(self.heads, self.heads)
        if self.extra == "q k norm":
            norm = {"layer norm per head": nn.LayerNorm, "rms norm per head": nn.RMSNorm}[
                pick("layer norm per head", "rms norm per head")
            ]
            self.q_norm, self.k_norm = norm(self.head_dim), norm(self.head_dim)
        if self.extra == "cosine":
            self.temperature = nn.Parameter(torch.ones(self.heads, 1, 1))
        if self.extra == "relative position bias":
            n = self.window**2 if self.windowed else shape.tokens
            self.table = nn.Parameter(torch.zeros(2 * n - 1, self.heads))
            place = torch.arange(n)
            self.register_buffer("index", place[:, None] - place[None] + n - 1, persistent=pick(False, True))

    def project(self, x):
        b, n, c = x.shape
        h = self.heads
        if self.packing == "packed by reshape":
            return self.qkv(x).reshape(b, n, 3, h, c // h).permute(2, 0, 3, 1, 4).unbind(0)
        if self.packing == "packed by chunk":
            return [t.view(b, n, h, -1).transpose(1, 2) for t in self.qkv(x).chunk(3, dim=-1)]
        if self.packing == "packed by slices":
            y = self.qkv(x)
            d = y.shape[-1] // 3
            return [y[..., i * d : (i + 1) * d].reshape(b, n, h, -1).transpose(1, 2) for i in range(3)]
        if self.packing == "packed per head":
            return self.qkv(x).view(b, n, h, -1).transpose(1, 2).split(self.head_dim, dim=-1)
        if self.packing == "query and packed key value":
            q = self.q(x).reshape(b, n, h, c // h).permute(0, 2, 1, 3)
            k, v = self.kv(x).reshape(b, n, 2, h, c // h).permute(2, 0, 3, 1, 4)
            return q, k, v
        if self.packing == "separate by heads":
            return [layer(x).view(b, n, h, -1).transpose(1, 2) for layer in (self.q, self.k, self.v)]
        q, k, v = (layer(x).view(b, n, -1, self.head_dim).transpose(1, 2) for layer in (self.q, self.k, self.v))
        if self.packing == "grouped queries":
            k, v = (t.repeat_interleave(h // self.groups, dim=1) for t in (k, v))
        return q, k, v

    def forward(self, x):
        return self.in_windows(x) if self.windowed else self.attend(x)

    def in_windows(self, x):
        b, n, c = x.shape
        s, w = self.side, self.window
        x = x.view(b, s // w, w, s // w, w, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, w * w, c)
        x = self.attend(x).view(b, s // w, s // w, w, w, -1).permute(0, 1, 3, 2, 4, 5)
        return x.reshape(b, n, -1)

    def attend(self, x):
        b, n, c = x.shape
        q, k, v = self.project(x)
        if self.extra == "q k norm":
            q, k = self.q_norm(q), self.k_norm(k)
        if self.extra == "cosine":
            q, k = F.normalize(q, dim=-1) * self.temperature.exp(), F.normalize(k, dim=-1)
        bias = None
        if self.extra == "relative position bias":
            bias = self.table[self.index.view(-1)].view(n, n, -1).permute(2, 0, 1).unsqueeze(0)
        y = self.mix(q, k, v, bias).transpose(1, 2)
        if self.join == "heads flattened":
            return self.proj(y.flatten(2))
        return self.proj(y.reshape(b, n, c if self.join == "heads joined to C" else -1))

    def mix(self, q, k, v, bias):
        if self.product == "fused":
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        scale = self.scale if self.scaling == "scale kept" else q.shape[-1] ** -0.5
        if self.product == "fused with scale":
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
        spelt = self.product == "einsum"
        logits = torch.einsum("bhid,bhjd->bhij", q, k) * scale if spelt else (q * scale) @ k.transpose(-2, -1)
        logits = logits if bias is None else logits + bias
        if self.extra == "talking heads":
            logits = self.before(logits.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        weights = logits.softmax(-1)
        if self.extra == "talking heads":
            weights = self.after(weights.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return torch.einsum("bhij,bhjd->bhid", weights, v) if spelt else weights @ v


class MultiheadModule(nn.Module):
    def __init__(self, shape, pick):
        super().__init__()
        self.first = pick("batch first", "sequence first") == "batch first"
        heads = pick(*(h for h in (2, 4, 3) if shape.width % h == 0))
        self.attention = nn.MultiheadAttention(shape.width, heads, batch_first=self.first, bias=pick(True, False))
        self.need_weights = pick(False, True)

    def forward(self, x):
        if self.first:
            return self.attention(x, x, x, need_weights=self.need_weights)[0]
        x = x.transpose(0, 1)
        return self.attention(x, x, x, need_weights=self.need_weights)[0].transpose(0, 1)


class LinearAttention(nn.Module):
    """Keys and values meet first."""

    def __init__(self, shape, pick):
        super().__init__()
        self.heads = 2
        self.kind = pick("softmax of keys", "relu of keys", "over channels", "elu plus one")
        self.qkv, self.proj = nn.Linear(shape.width, 3 * 8), nn.Linear(8, shape.width)
        self.temperature = nn.Parameter(torch.ones(self.heads, 1, 1))

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if self.kind == "over channels":
            q, k = F.normalize(q.transpose(-2, -1), dim=-1), F.normalize(k.transpose(-2, -1), dim=-1)
            weights = (q @ k.transpose(-2, -1) * self.temperature).softmax(-1)
            y = (weights @ v.transpose(-2, -1)).transpose(-2, -1)
        elif self.kind == "elu plus one":
            q, k = F.elu(q) + 1, F.elu(k) + 1
            y = q @ (k.transpose(-2, -1) @ v) * self.temperature
        else:
            k = k.softmax(2) if self.kind == "softmax of keys" else torch.relu(k)
            y = q.softmax(-1) @ (k.transpose(-2, -1) @ v) * self.temperature
        return self.proj(y.transpose(1, 2).reshape(b, n, -1))


class ReducedAttention(nn.Module):
    """Keys and values from a smaller image."""

    def __init__(self, shape, pick):
        super().__init__()
        self.heads, self.side = 2, shape.side
        self.q, self.kv = nn.Linear(shape.width, shape.width), nn.Linear(shape.width, 2 * shape.width)
        self.reduce, self.norm = nn.Conv2d(shape.width, shape.width, 2, stride=2), token_norm(shape.width, pick)
        self.proj = nn.Linear(shape.width, shape.width)

    def forward(self, x):
        b, n, c = x.shape
        q = self.q(x).reshape(b, n, self.heads, c // self.heads).transpose(1, 2)
        image = x.transpose(1, 2).reshape(b, c, self.side, self.side)
        y = self.norm(self.reduce(image).reshape(b, c, -1).transpose(1, 2))
        k, v = self.kv(y).reshape(b, -1, 2, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c))


class Mlp(nn.Module):
    def __init__(self, shape, pick):
        super().__init__()
        self.kind = pick("two layers", "gate by halves", "separate gate", "tied", "with depthwise conv")
        hidden, width = pick(16, 12), shape.width
        self.how = pick(*SPLITS) if self.kind == "gate by halves" else None
        self.up = nn.Linear(width, 2 * hidden if self.kind == "gate by halves" else hidden, bias=pick(True, False))
        self.down, self.act, self.side = nn.Linear(hidden, width), activation(pick), shape.side
        self.norm = nn.LayerNorm(hidden) if pick("no inner norm", "inner norm") == "inner norm" else nn.Identity()
        if self.kind == "separate gate":
            self.gate = nn.Linear(width, hidden)
        if self.kind == "tied":
            self.again = nn.Linear(width, hidden)
            self.again.weight = self.up.weight
        if self.kind == "with depthwise conv":
            self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)

    def forward(self, x):
        y = self.up(x)
        if self.kind == "gate by halves":
            y, gate = halves(y, self.how, -1)
            y = y * self.act(gate)
        elif self.kind == "separate gate":
            y = y * self.act(self.gate(x))
        elif self.kind == "tied":
            y = self.act(y) + self.again(torch.tanh(x))
        elif self.kind == "with depthwise conv":
            b, n, c = y.shape
            y = self.depthwise(y.transpose(1, 2).view(b, c, self.side, self.side)).flatten(2).transpose(1, 2)
        return self.down(self.norm(self.act(y)))


class TokenMixing(nn.Module):
    def __init__(self, shape, pick):
        super().__init__()
        self.up, self.down = nn.Linear(shape.tokens, 10), nn.Linear(10, shape.tokens)

    def forward(self, x):
        return self.down(F.gelu(self.up(x.transpose(1, 2)))).transpose(1, 2)


class SpatialGating(nn.Module):
    """One half of the channels is mixed over the tokens and multiplied with the other."""

    def __init__(self, shape, pick):
        super().__init__()
        self.how = pick(*SPLITS)
        self.up, self.down = nn.Linear(shape.width, 24), nn.Linear(12, shape.width)
        self.norm, self.mix = token_norm(12, pick), nn.Linear(shape.tokens, shape.tokens)

    def forward(self, x):
        a, b = halves(F.gelu(self.up(x)), self.how, -1)
        return self.down(a * self.mix(self.norm(b).transpose(-1, -2)).transpose(-1, -2))


class Raw(nn.Module):
    """Parameters used by functions."""

    def __init__(self, shape, pick):
        super().__init__()
        self.kind = pick(*RAW)
        self.first, self.second = nn.Parameter(torch.zeros(14, shape.width)), nn.Parameter(torch.zeros(shape.width, 14))
        self.offset = nn.Parameter(torch.zeros(14))

    def forward(self, x):
        if self.kind == "F.linear":
            return F.linear(torch.relu(F.linear(x, self.first, self.offset)), self.second)
        if self.kind == "matmul of parameter":
            return torch.relu(x @ self.first.t() + self.offset) @ self.second.transpose(0, 1)
        y = torch.relu(torch.einsum("bnc,kc->bnk", x, self.first) + self.offset)
        return torch.einsum("bnk,ck->bnc", y, self.second)


class Encoder(nn.Module):
    """Weights written forwards and backwards: one matrix up and, transposed, down."""

    def __init__(self, shape, pick):
        super().__init__()
        self.up = nn.Linear(shape.width, 12)
        self.offset = nn.Parameter(torch.zeros(shape.width))

    def forward(self, x):
        return F.linear(torch.relu(self.up(x)), self.up.weight.t(), self.offset)


BRANCHES = {
    "attention": Attention, "mlp": Mlp, "multihead module": MultiheadModule, "linear attention": LinearAttention,
    "reduced attention": ReducedAttention, "token mixing": TokenMixing, "spatial gating": SpatialGating,
    "raw parameters": Raw, "tied transposed": Encoder,
}  # fmt: skip


class Branch(nn.Module):
    """A norm, a branch of its own and the sum, each where code puts it."""

    def __init__(self, shape, pick, kind):
        super().__init__()
        if kind == "mlp" and shape.extra:
            pick = _without(pick, "with depthwise conv")
        self.norm, self.body = token_norm(shape.width, pick), BRANCHES[kind](shape, pick)
        self.after = pick("norm before", "norm after") == "norm after"
        scaled = pick("no layer scale", "layer scale") == "layer scale"
        self.gamma = nn.Parameter(torch.ones(shape.width)) if scaled else None

    def forward(self, x):
        y = self.body(x if self.after else self.norm(x))
        y = y if self.gamma is None else self.gamma * y
        return self.norm(x + y) if self.after else x + y


class Merging(nn.Module):
    """Four neighbouring tokens become one."""

    def __init__(self, shape, pick):
        super().__init__()
        self.side, out = shape.side, pick(12, 16)
        self.norm, self.reduce = token_norm(4 * shape.width, pick), nn.Linear(4 * shape.width, out, bias=False)
        shape.width, shape.side = out, shape.side // 2

    def forward(self, x):
        b, _, c = x.shape
        x = x.view(b, self.side, self.side, c)
        x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
        return self.reduce(self.norm(x.view(b, -1, x.shape[-1])))


class Widening(nn.Module):
    """No sum, another width."""

    def __init__(self, shape, pick):
        super().__init__()
        out = pick(8, 12, 16)
        self.body = nn.Sequential(nn.Linear(shape.width, out), token_norm(out, pick), activation(pick))
        shape.width = out

    def forward(self, x):
        return self.body(x)


TOKEN_BLOCKS = (*BRANCHES, "patch merging", "linear")


def token_block(shape, pick):
    grid = shape.extra == 0 and shape.side % 2 == 0 and shape.side >= 4
    fits = [k for k in TOKEN_BLOCKS if grid or k not in ("patch merging", "reduced attention")]
    kind = pick(*fits, *4 * ["attention"], "mlp", "mlp")  # those with many spellings are met more often
    if kind == "patch merging":
        return Merging(shape, pick)
    return Widening(shape, pick) if kind == "linear" else Branch(shape, pick, kind)


def _without(pick, option):
    return lambda *options: pick(*(o for o in options if o != option))
