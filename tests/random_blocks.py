"""Blocks of random networks on images [B, C, H, W], and what blocks on tokens share with them.

A block is ordinary module code that takes its sizes from the tensors it gets. Its constructor picks among spellings
with ``pick(*options)`` and leaves in ``shape`` what it hands on.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

SAME_SIDE = ("conv 3x3", "conv 1x1", "dilated conv", "grouped conv", "depthwise conv", "raw conv", "standardised conv")
OTHER_SIDE = ("strided conv", "transposed conv", "grouped transposed conv")
CONVOLUTIONS = (*SAME_SIDE, "depthwise conv with multiplier", *OTHER_SIDE)
IMAGE_NORMS = ("no norm", "batch norm", "group norm", "layer norm of channels", "rms norm of channels")
ACTIVATIONS = ("relu", "gelu", "silu", "hardswish", "dropout", "sigmoid", "softplus")
SPLITS = ("chunk", "split", "slices at half")
WIDEST, LARGEST = 32, 16


@dataclass
class Shape:
    """Of one sample on its way: channels, side of the grid of pixels or tokens, class tokens."""

    width: int
    side: int
    extra: int = 0

    @property
    def tokens(self):
        return self.side**2 + self.extra


class RawConv(nn.Module):
    def __init__(self, n_in, n_out):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(n_out, n_in, 3, 3))
        self.offset = nn.Parameter(torch.randn(n_out))

    def forward(self, x):
        return F.conv2d(x, self.kernel, self.offset, padding=1)


class StandardisedConv(nn.Conv2d):
    def __init__(self, *args, fused, **kwargs):
        super().__init__(*args, **kwargs)
        self.fused = fused

    def forward(self, x):
        w = self.weight
        if self.fused:
            w = F.batch_norm(w.reshape(1, w.shape[0], -1), None, None, training=True, momentum=0.0).reshape_as(w)
        else:
            w = (w - w.mean((1, 2, 3), keepdim=True)) / w.std((1, 2, 3), keepdim=True)
        return F.conv2d(x, w, self.bias, padding=self.padding)


def convolution(kind, n_in, n_out, pick):
    bias = pick(True, False)
    grouped = pick(2, 4) if "grouped" in kind and n_in % 4 == n_out % 4 == 0 else 2
    return {
        "conv 3x3": lambda: nn.Conv2d(n_in, n_out, 3, padding=1, bias=bias),
        "conv 1x1": lambda: nn.Conv2d(n_in, n_out, 1, bias=bias),
        "strided conv": lambda: nn.Conv2d(n_in, n_out, 3, stride=2, padding=1, bias=bias),
        "dilated conv": lambda: nn.Conv2d(n_in, n_out, 3, padding=2, dilation=2, bias=bias),
        "grouped conv": lambda: nn.Conv2d(n_in, n_out, 3, padding=1, groups=grouped, bias=bias),
        "depthwise conv": lambda: nn.Conv2d(n_in, n_in, 3, padding=1, groups=n_in, bias=bias),
        "depthwise conv with multiplier": lambda: nn.Conv2d(n_in, 2 * n_in, 3, padding=1, groups=n_in, bias=bias),
        "transposed conv": lambda: nn.ConvTranspose2d(n_in, n_out, 2, stride=2, bias=bias),
        "grouped transposed conv": lambda: nn.ConvTranspose2d(n_in, n_out, 2, stride=2, groups=grouped, bias=bias),
        "raw conv": lambda: RawConv(n_in, n_out),
        "standardised conv": lambda: StandardisedConv(n_in, n_out, 3, padding=1, bias=bias, fused=pick(True, False)),
    }[kind]()


class OverChannels(nn.Module):
    """A norm of the last dimension, for images."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def image_norm(width, pick):
    kind = pick(*IMAGE_NORMS)
    return {
        "no norm": nn.Identity,
        "batch norm": lambda: nn.BatchNorm2d(width),
        "group norm": lambda: nn.GroupNorm(pick(2, 1), width),
        "layer norm of channels": lambda: OverChannels(nn.LayerNorm(width)),
        "rms norm of channels": lambda: OverChannels(nn.RMSNorm(width)),
    }[kind]()


def activation(pick):
    kind = pick(*ACTIVATIONS)
    return {
        "relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "hardswish": nn.Hardswish, "dropout": nn.Dropout,
        "sigmoid": nn.Sigmoid, "softplus": nn.Softplus,
    }[kind]()  # fmt: skip


def unit(kind, n_in, n_out, pick):
    """Convolution, norm, activation."""
    conv = convolution(kind, n_in, n_out, pick)
    width = {"depthwise conv": n_in, "depthwise conv with multiplier": 2 * n_in}.get(kind, n_out)
    act = nn.PReLU(width) if pick("shared activation", "prelu per channel") == "prelu per channel" else activation(pick)
    return nn.Sequential(conv, image_norm(width, pick), act), width


def halves(x, how, dim=1):
    if how == "chunk":
        return x.chunk(2, dim)
    if how == "split":
        return x.split(x.shape[dim] // 2, dim)
    half = x.shape[dim] // 2
    return (x[:, :half], x[:, half:]) if dim == 1 else (x[..., :half], x[..., half:])


class Plain(nn.Module):
    def __init__(self, shape, pick):
        super().__init__()
        fits = [k for k in CONVOLUTIONS if not (k == "strided conv" and shape.side < 4)]
        fits = [k for k in fits if not ("transposed" in k and shape.side >= LARGEST)]
        kind = pick(*(k for k in fits if not ("multiplier" in k and shape.width >= WIDEST)))
        self.body, shape.width = unit(kind, shape.width, pick(8, 12, 16), pick)
        shape.side = shape.side // 2 if kind == "strided conv" else shape.side * (2 if "transposed" in kind else 1)

    def forward(self, x):
        return self.body(x)


class Residual(nn.Module):
    def __init__(self, shape, pick):
        super().__init__()
        self.first, middle = unit(pick(*SAME_SIDE), shape.width, pick(8, 16), pick)
        projected = pick("identity shortcut", "projected shortcut") == "projected shortcut"
        out = pick(8, 16) if projected else shape.width
        self.second = nn.Sequential(nn.Conv2d(middle, out, 3, padding=1), image_norm(out, pick))
        self.shortcut = nn.Conv2d(shape.width, out, 1) if projected else None
        self.act = activation(pick)
        shape.width = out

    def forward(self, x):
        y = self.second(self.first(x))
        y = y + (x if self.shortcut is None else self.shortcut(x))
        return self.act(y)


class Dense(nn.Module):
    def __init__(self, shape, pick):
        super().__init__()
        width, growth = shape.width, pick(4, 8)
        self.layers = nn.ModuleList()
        for _ in range(pick(1, 2)):
            self.layers.append(
                nn.Sequential(image_norm(width, pick), nn.ReLU(), nn.Conv2d(width, growth, 3, padding=1))
            )
            width += growth
        self.transition = nn.Conv2d(width, shape.width, 1)

    def forward(self, x):
        features = [x]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        return self.transition(torch.cat(features, 1))


class Shuffle(nn.Module):
    """One half is processed, both are interleaved."""

    def __init__(self, shape, pick):
        super().__init__()
        self.how = pick(*SPLITS)
        half = shape.width // 2
        self.body = nn.Sequential(nn.Conv2d(half, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, half, 1))

    def forward(self, x):
        a, b = halves(x, self.how)
        x = torch.cat([a, self.body(b)], 1)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class GroupedShuffle(nn.Module):
    """Channels are interleaved between two grouped convolutions."""

    def __init__(self, shape, pick):
        super().__init__()
        self.groups = 2
        self.first = nn.Conv2d(shape.width, 16, 1, groups=2)
        self.second = nn.Conv2d(16, shape.width, 1, groups=pick(2, 1))
        self.ready_made = pick(False, True)

    def forward(self, x):
        x = torch.relu(self.first(x))
        if self.ready_made:
            return self.second(F.channel_shuffle(x, self.groups))
        n, c, h, w = x.shape
        return self.second(x.view(n, self.groups, -1, h, w).transpose(1, 2).flatten(1, 2))


class Split(nn.Module):
    """Two halves, each with its own layer, joined again."""

    def __init__(self, shape, pick):
        super().__init__()
        self.how, self.join = pick(*SPLITS), pick("halves concatenated", "halves added", "halves multiplied")
        self.pre = nn.Conv2d(shape.width, 16, 1)
        self.left, self.right = (
            nn.Conv2d(8, 8, 3, padding=1),
            nn.Conv2d(8, 8, 1) if pick(True, False) else nn.Identity(),
        )
        shape.width = 16 if self.join == "halves concatenated" else 8

    def forward(self, x):
        a, b = halves(self.pre(x), self.how)
        a, b = self.left(a), self.right(b)
        if self.join == "halves concatenated":
            return torch.cat((a, b), 1)
        return a + b if self.join == "halves added" else a * torch.sigmoid(b)


class SqueezeExcite(nn.Module):
    def __init__(self, shape, pick):
        super().__init__()
        self.kind = pick("linear gate", "conv gate")
        self.pool = nn.AdaptiveAvgPool2d(1)
        if self.kind == "linear gate":
            self.fc1, self.fc2 = nn.Linear(shape.width, 4), nn.Linear(4, shape.width)
        else:
            self.fc1, self.fc2 = nn.Conv2d(shape.width, 4, 1), nn.Conv2d(4, shape.width, 1)

    def forward(self, x):
        if self.kind == "conv gate":
            return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(x.mean((2, 3), keepdim=True)))))
        b, c = x.shape[:2]
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(self.pool(x).view(b, c))))).view(b, c, 1, 1)


class Inverted(nn.Module):
    """Expansion, depthwise convolution, gate, projection, sum."""

    def __init__(self, shape, pick):
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(shape.width, 24, 1, bias=False), image_norm(24, pick), nn.SiLU())
        self.depthwise = nn.Sequential(nn.Conv2d(24, 24, 3, padding=1, groups=24, bias=False), nn.BatchNorm2d(24))
        self.gate = SqueezeExcite(Shape(24, shape.side), pick)
        self.project = nn.Conv2d(24, shape.width, 1)

    def forward(self, x):
        return x + self.project(self.gate(self.depthwise(self.expand(x))))


class PixelShuffle(nn.Module):
    def __init__(self, shape, pick):
        super().__init__()
        self.pre = nn.Conv2d(shape.width, 32, 1)
        self.post = nn.Conv2d(8, 8, 3, padding=1)
        shape.width, shape.side = 8, shape.side * 2

    def forward(self, x):
        return self.post(torch.relu(F.pixel_shuffle(self.pre(x), 2)))


class PixelUnshuffle(nn.Module):
    def __init__(self, shape, pick):
        super().__init__()
        self.post = nn.Conv2d(4 * shape.width, 12, 1)
        shape.width, shape.side = 12, shape.side // 2

    def forward(self, x):
        return self.post(F.pixel_unshuffle(x, 2))


class ConvNext(nn.Module):
    """Depthwise convolution, then norm and linear layers with the channels last, and a layer scale."""

    def __init__(self, shape, pick):
        super().__init__()
        self.depthwise = nn.Conv2d(shape.width, shape.width, 3, padding=1, groups=shape.width)
        self.norm = nn.LayerNorm(shape.width)
        self.up, self.down = nn.Linear(shape.width, 20), nn.Linear(20, shape.width)
        self.gamma = nn.Parameter(torch.ones(shape.width))

    def forward(self, x):
        y = self.depthwise(x).permute(0, 2, 3, 1)
        y = self.gamma * self.down(F.gelu(self.up(self.norm(y))))
        return x + y.permute(0, 3, 1, 2)


class Pooled(nn.Module):
    """Half the side, or back up again and added."""

    def __init__(self, shape, pick):
        super().__init__()
        self.kind = pick("max pooling", "average pooling", "upsampled and added")
        self.conv = nn.Conv2d(shape.width, shape.width, 3, padding=1)
        shape.side = shape.side if self.kind == "upsampled and added" else shape.side // 2

    def forward(self, x):
        y = self.conv(F.max_pool2d(x, 2) if self.kind == "max pooling" else F.avg_pool2d(x, 2))
        return x + F.interpolate(y, scale_factor=2, mode="nearest") if self.kind == "upsampled and added" else y


class SpatialGate(nn.Module):
    """Mean and maximum over the channels decide how much of each position passes."""

    def __init__(self, shape, pick):
        super().__init__()
        self.pre = nn.Conv2d(shape.width, 12, 1)
        self.gate = nn.Conv2d(2, 1, 3, padding=1)
        shape.width = 12

    def forward(self, x):
        x = torch.relu(self.pre(x))
        return x * torch.sigmoid(self.gate(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)))


class SelectiveKernel(nn.Module):
    """Two branches, weighed by a softmax over the branches for each channel."""

    def __init__(self, shape, pick):
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv2d(shape.width, 12, 3, padding=d, dilation=d) for d in (1, 2))
        self.squeeze, self.excite = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 24, 1)
        shape.width = 12

    def forward(self, x):
        x = torch.stack([branch(x) for branch in self.branches], 1)
        gate = self.excite(torch.relu(self.squeeze(x.sum(1).mean((2, 3), keepdim=True))))
        b, m, c = x.shape[:3]
        return (x * gate.view(b, m, c, 1, 1).softmax(1)).sum(1)


class ImageAttention(nn.Module):
    """Heads over the pixels from 1x1 convolutions."""

    def __init__(self, shape, pick):
        super().__init__()
        self.heads, self.head_dim = pick(2, 3), 4
        inner = self.heads * self.head_dim
        self.order = pick("heads outside q k v", "q k v outside heads")
        self.qkv, self.proj = nn.Conv2d(shape.width, 3 * inner, 1), nn.Conv2d(inner, shape.width, 1)

    def forward(self, x):
        b, _, h, w = x.shape
        if self.order == "heads outside q k v":
            q, k, v = self.qkv(x).view(b, self.heads, -1, h * w).chunk(3, dim=2)
        else:
            q, k, v = self.qkv(x).view(b, 3, self.heads, -1, h * w).unbind(1)
        attention = (q.transpose(-2, -1) @ k * self.head_dim**-0.5).softmax(-1)
        return x + self.proj((v @ attention.transpose(-2, -1)).reshape(b, -1, h, w))


IMAGE_BLOCKS = {
    "plain": Plain, "residual sum": Residual, "dense concatenation": Dense, "channel shuffle": Shuffle,
    "grouped shuffle": GroupedShuffle, "channel split": Split, "squeeze-excite": SqueezeExcite, "inverted": Inverted,
    "pixel shuffle": PixelShuffle, "pixel unshuffle": PixelUnshuffle, "convnext": ConvNext, "pooled": Pooled,
    "spatial gate": SpatialGate, "selective kernel": SelectiveKernel, "image attention": ImageAttention,
}  # fmt: skip


def image_block(shape, pick):
    fits = [k for k in IMAGE_BLOCKS if not (k in ("pixel unshuffle", "pooled") and shape.side < 4)]
    fits = [k for k in fits if not (k == "pixel shuffle" and shape.side >= LARGEST)]
    # those with many spellings are met more often
    return IMAGE_BLOCKS[pick(*fits, *4 * ["plain"], "residual sum", "residual sum")](shape, pick)
