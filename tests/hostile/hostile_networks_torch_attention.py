"""PyTorch's own attention and transformer modules, with every option that they have."""

from __future__ import annotations

import torch
from hostile_cases import B, call, causal, network, padding, real, traced, trained, truth, untraced
from torch import nn

X = real(B, 5, 6)
HEADS, WIDTH = 4, 16


class Own(nn.Module):
    """Embedding, `nn.MultiheadAttention`, head; further arguments go to the attention."""

    def __init__(self, **options):
        super().__init__()
        self.first = options.get("batch_first", True)
        self.embed = nn.Linear(6, WIDTH)
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, **{"batch_first": True, **options})
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x, **kwargs):
        x = self.embed(x)
        if not self.first:
            x = x.transpose(0, 1)
        y = self.attn(x, x, x, **kwargs)[0]
        y = self.head(x + y)
        return y if self.first else y.transpose(0, 1)


def own(name, *calls, example=None, prunes=("attn",), stateful=False, exports=False, locked=None, **options):
    @network(
        f"MultiheadAttention: {name}",
        example or call(X),
        *calls,
        prunes=prunes,
        stateful=stateful,
        exports=exports,
        locked=locked,
    )
    def build():
        return Own(**options)


EVERY = (
    call(X, key_padding_mask=truth(B, 5)),
    call(X, attn_mask=causal(5)),
    call(X, attn_mask=truth(5, 5)),
    call(X, need_weights=False),
    call(X, need_weights=False, attn_mask=causal(5), is_causal=True),
    call(X, average_attn_weights=False),
    call(X, attn_mask=real(5, 5), key_padding_mask=real(B, 5)),
    call(real(B, 9, 6)),
)
own("every argument, batch first", *EVERY, exports=True)
own("every argument, sequence first", *EVERY, batch_first=False)
own("traced without weights", *EVERY, example=call(X, need_weights=False))
own("traced with a padding mask", *EVERY[1:], call(X), example=call(X, key_padding_mask=truth(B, 5)))
own("traced with a causal mask", *EVERY[:1], call(X), example=call(X, attn_mask=causal(5)))
own("bias of keys and values", *EVERY[:3], call(X, need_weights=False), add_bias_kv=True)
own("attention to zero", *EVERY[:3], call(X, need_weights=False), add_zero_attn=True)
own("no bias", *EVERY[:3], bias=False)
own("everything at once", *EVERY[:6], add_bias_kv=True, add_zero_attn=True, bias=False, batch_first=False)
own("dropout in training", trained(X, random=True), trained(X, random=True, need_weights=False), dropout=0.3)
own("training mode without dropout", trained(X), trained(X, key_padding_mask=truth(B, 5)))


@network("MultiheadAttention: mask per head", call(X), untraced(X, per_head=True), call(X, keys=True), prunes=["attn"])
class MaskPerHead(nn.Module):
    """A 3-D mask has one layer per head; it names all of them, also when heads are gone."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(6, WIDTH), nn.Linear(WIDTH, 3)
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, x, per_head=False, keys=False):
        x = self.embed(x)
        mask = None
        if per_head:
            generator = torch.Generator().manual_seed(3)
            mask = torch.randn(len(x) * HEADS, 5, 5, generator=generator, dtype=x.dtype)
        hidden = torch.arange(5).expand(len(x), -1) > 3 if keys else None
        return self.head(self.attn(x, x, x, attn_mask=mask, key_padding_mask=hidden, need_weights=False)[0])


@network("MultiheadAttention: average weights are given out", call(X), untraced(X, average=False), prunes=["embed"])
class WeightsGivenOut(nn.Module):
    """The average over heads divides by their number; single weights name all of them."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(6, WIDTH), nn.Linear(WIDTH, 3)
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, x, average=True):
        x = self.embed(x)
        y, weights = self.attn(x, x, x, average_attn_weights=average)
        return self.head(y), weights


@network(
    "MultiheadAttention: weights are given out on demand",
    call(X),
    traced(X, weights=True),
    untraced(X, weights=True, average=False),
)
class WeightsOnDemand(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(6, WIDTH), nn.Linear(WIDTH, 3)
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, x, weights=False, average=True):
        x = self.embed(x)
        y, w = self.attn(x, x, x, need_weights=weights, average_attn_weights=average)
        return (self.head(y), w) if weights else self.head(y)


@network(
    "MultiheadAttention: kdim and vdim",
    call(X, real(B, 7, 5)),
    call(X, real(B, 2, 5)),
    call(X, real(B, 7, 5), hidden=truth(B, 7)),
    prunes=["attn"],
)
class OtherWidths(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.k, self.v = nn.Linear(6, WIDTH), nn.Linear(5, 10), nn.Linear(5, 12)
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, kdim=10, vdim=12, batch_first=True)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x, ctx, hidden=None):
        x, k, v = self.embed(x), self.k(ctx), self.v(ctx)
        return self.head(x + self.attn(x, torch.relu(k), torch.relu(v), key_padding_mask=hidden)[0])


@network("MultiheadAttention: keys differ from values", call(X), call(real(B, 9, 6)), prunes=["attn"])
class DetrStyle(nn.Module):
    """Positions are added to queries and keys, not to values."""

    def __init__(self):
        super().__init__()
        self.embed, self.position, self.head = nn.Linear(6, WIDTH), nn.Linear(6, WIDTH), nn.Linear(WIDTH, 3)
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, x):
        y, p = self.embed(x), self.position(x.flip(1))
        return self.head(y + self.attn(y + p, y + p, value=y)[0])


@network("MultiheadAttention: unbatched inputs", call(real(5, 6)), call(real(9, 6)), batches=False, prunes=["attn"])
class Unbatched(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(6, WIDTH), nn.Linear(WIDTH, 3)
        self.attn = nn.MultiheadAttention(WIDTH, HEADS)

    def forward(self, x):
        x = self.embed(x)
        return self.head(self.attn(x, x, x)[0])


@network("MultiheadAttention: unbatched after batched", call(X), call(real(5, 6)), prunes=["attn"])
class UnbatchedLater(Unbatched):
    def __init__(self):
        super().__init__()
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)


@network("MultiheadAttention: one module used twice", call(X), call(real(B, 9, 6)))
class UsedTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(6, WIDTH), nn.Linear(WIDTH, 3)
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, x):
        x = self.embed(x)
        x = x + self.attn(x, x, x)[0]
        return self.head(x + self.attn(x, x[:, :2], x[:, :2], need_weights=False)[0])


@network("MultiheadAttention: a subclass with a forward of its own", call(X), call(X, gain=2.0), prunes=["attn"])
class Subclassed(nn.Module):
    class Attention(nn.MultiheadAttention):
        def forward(self, x, gain=1.0):
            return gain * super().forward(x, x, x, need_weights=False)[0]

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(6, WIDTH), nn.Linear(WIDTH, 3)
        self.attn = self.Attention(WIDTH, HEADS, batch_first=True)

    def forward(self, x, gain=1.0):
        return self.head(self.attn(self.embed(x), gain))


@network("MultiheadAttention: num_heads and head_dim read outside", call(X))
class ReadOutside(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(6, WIDTH), nn.Linear(WIDTH, 3)
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, x):
        x = self.embed(x)
        y = self.attn(x, x, x)[0]
        return self.head(y / self.attn.num_heads + x / self.attn.head_dim**0.5 + self.attn.embed_dim)


@network("MultiheadAttention: its parameters are used by the parent's code", call(X))
class ParametersOutside(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(6, WIDTH), nn.Linear(WIDTH, 3)
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, x):
        x = self.embed(x)
        v = nn.functional.linear(x, self.attn.in_proj_weight[-WIDTH:], self.attn.in_proj_bias[-WIDTH:])
        return self.head(self.attn(x, x, x)[0] + self.attn.out_proj(v))


class Stack(nn.Module):
    """`nn.TransformerEncoder` between an embedding and a head."""

    def __init__(self, layers=2, norm=False, nested=False, **options):
        super().__init__()
        first = options.setdefault("batch_first", True)
        options = {"dropout": 0.0, **options}
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 24, **options)
        self.embed, self.head, self.first = nn.Linear(6, WIDTH), nn.Linear(WIDTH, 3), first
        last = nn.LayerNorm(WIDTH) if norm else None
        self.encoder = nn.TransformerEncoder(layer, layers, norm=last, enable_nested_tensor=nested)

    def forward(self, x, **kwargs):
        x = self.embed(x)
        x = self.encoder(x if self.first else x.transpose(0, 1), **kwargs)
        return self.head(x if self.first else x.transpose(0, 1))


ENCODER = (
    call(X, src_key_padding_mask=truth(B, 5)),
    call(X, mask=causal(5)),
    call(X, mask=causal(5), is_causal=True),
    call(X, mask=truth(5, 5), src_key_padding_mask=truth(B, 5)),
    call(real(B, 9, 6)),
    trained(X),
    trained(X, src_key_padding_mask=truth(B, 5)),
)
LINEAR1 = ("encoder.layers.0.linear1", "encoder.layers.1.linear1")


def stack(name, *calls, example=None, stream=False, fast_path=False, **options):
    @network(
        f"TransformerEncoder: {name}", example or call(X), *calls, prunes=LINEAR1, stream=stream, fast_path=fast_path
    )
    def build():
        return Stack(**options)


stack("every argument", *ENCODER)
stack("sequence first", *ENCODER, batch_first=False)
stack("norm first", *ENCODER, norm_first=True)
stack("gelu and last norm", *ENCODER[:3], activation="gelu", norm=True)
stack("activation as a function", *ENCODER[:3], activation=torch.tanh)
stack("no bias", *ENCODER[:3], bias=False)
stack("traced with a padding mask", call(X), *ENCODER[1:5], example=call(X, src_key_padding_mask=truth(B, 5)))
stack("traced with a mask", call(X), *ENCODER[:1], example=call(X, mask=causal(5), is_causal=True))
stack(
    "dropout in training", trained(X, random=True), trained(X, random=True, mask=causal(5)), *ENCODER[:2], dropout=0.2
)
stack("stream pruned as well", *ENCODER, stream=True)
stack("stream pruned as well, norm first", *ENCODER, stream=True, norm_first=True, norm=True)


stack("fused code", *ENCODER[1:3], call(real(B, 9, 6)), fast_path=True)
stack("fused code, stream pruned as well", *ENCODER[1:3], fast_path=True, stream=True)


@network(
    "TransformerEncoderLayer alone",
    call(X),
    call(X, src_mask=causal(5)),
    call(X, is_causal=True, src_mask=causal(5)),
    call(X, src_key_padding_mask=truth(B, 5)),
    call(real(B, 1, 6)),
    prunes=["layer.linear1"],
)
class LayerAlone(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(6, WIDTH), nn.Linear(WIDTH, 3)
        self.layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 24, 0.0, batch_first=True)

    def forward(self, x, **kwargs):
        return self.head(self.layer(self.embed(x), **kwargs))


DECODER = (
    call(X, real(B, 7, 6), tgt_mask=causal(5)),
    call(X, real(B, 7, 6), memory_mask=truth(5, 7)),
    call(X, real(B, 7, 6), tgt_key_padding_mask=truth(B, 5)),
    call(X, real(B, 7, 6), memory_key_padding_mask=truth(B, 7)),
    call(X, real(B, 7, 6), tgt_mask=causal(5), tgt_is_causal=True),
    call(real(B, 3, 6), real(B, 2, 6)),
    trained(X, real(B, 7, 6), tgt_mask=causal(5)),
)


class Decoding(nn.Module):
    def __init__(self, **options):
        super().__init__()
        layer = nn.TransformerDecoderLayer(WIDTH, HEADS, 24, 0.0, batch_first=True, **options)
        self.embed, self.head = nn.Linear(6, WIDTH), nn.Linear(WIDTH, 3)
        self.decoder = nn.TransformerDecoder(layer, 2)

    def forward(self, x, memory, **kwargs):
        return self.head(self.decoder(self.embed(x), self.embed(memory), **kwargs))


network(
    "TransformerDecoder: every argument",
    call(X, real(B, 7, 6)),
    *DECODER,
    prunes=["decoder.layers.0.linear1", "decoder.layers.1.linear1"],
)(Decoding)


@network("TransformerDecoder: norm first", call(X, real(B, 7, 6)), *DECODER, prunes=["decoder.layers.0.linear1"])
class DecodingNormFirst(Decoding):
    def __init__(self):
        super().__init__(norm_first=True)


@network(
    "Transformer: encoder and decoder",
    call(X, real(B, 4, 6)),
    call(X, real(B, 4, 6), tgt_mask=causal(4)),
    call(X, real(B, 4, 6), src_key_padding_mask=truth(B, 5), memory_key_padding_mask=truth(B, 5)),
    call(X, real(B, 4, 6), src_mask=causal(5), src_is_causal=True),
    prunes=["transformer.encoder.layers.0.linear1"],
)
class Whole(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(6, WIDTH), nn.Linear(WIDTH, 3)
        self.transformer = nn.Transformer(WIDTH, HEADS, 1, 1, 24, 0.0, batch_first=True)

    def forward(self, source, target, **kwargs):
        return self.head(self.transformer(self.embed(source), self.embed(target), **kwargs))


@network(
    "TransformerEncoder: token ids, positions and a padding mask of zeros and ones",
    call(padding(B, 6)),
    call(padding(B, 6), padding(B, 6)),
    call(padding(B, 4)),
)
class Classifier(nn.Module):
    nested = False

    def __init__(self):
        super().__init__()
        self.tokens, self.places = nn.Embedding(5, WIDTH), nn.Embedding(8, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 24, 0.0, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 1, enable_nested_tensor=self.nested), nn.Linear(WIDTH, 3)

    def forward(self, ids, attention_mask=None):
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        hidden = None if attention_mask is None else attention_mask == 0
        x = self.encoder(x, src_key_padding_mask=hidden)
        if attention_mask is None:
            return self.head(x.mean(1))
        weights = attention_mask.unsqueeze(-1).to(x)
        return self.head((x * weights).sum(1) / weights.sum(1))


@network(
    "TransformerEncoder: padded places are not read, fused code",
    call(padding(B, 6)),
    call(padding(B, 6), padding(B, 6)),
    fast_path=True,
)
class ClassifierFused(Classifier):
    pass


@network(
    "TransformerEncoder: padded places are not read, fused code of nested tensors",
    call(padding(B, 6)),
    call(padding(B, 6), torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])),
    fast_path=True,
)
class ClassifierNested(Classifier):
    nested = True


@network(
    "TransformerEncoderLayer: class token from a parameter, loop over layers",
    call(X),
    traced(X, hidden=truth(B, 6)),
    call(real(B, 5, 6)),
)
class LoopOverLayers(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.cls, self.head = nn.Linear(6, WIDTH), nn.Parameter(torch.randn(WIDTH)), nn.Linear(WIDTH, 3)
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(WIDTH, HEADS, 24, 0.0, batch_first=True) for _ in "ab")

    def forward(self, x, hidden=None):
        x = torch.cat([self.cls.expand(x.shape[0], 1, -1), self.embed(x)], dim=1)
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=hidden)
        return self.head(x[:, 0])
