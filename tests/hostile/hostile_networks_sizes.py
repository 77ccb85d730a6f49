"""Sizes that become numbers: factors, positions, literals, comparisons."""

from __future__ import annotations

import math

import torch
from hostile_cases import B, call, lengths, network, real, traced, trained, untraced
from torch import nn
from torch.nn import functional as F

X = real(B, 6)
TOKENS = real(B, 5, 6)
IMAGE = real(B, 3, 8, 8)


class Between(nn.Module):
    """Two layers with something in between."""

    def __init__(self, width=8):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, width), nn.Linear(width, 8), nn.Linear(8, 3)

    def between(self, h):
        raise NotImplementedError

    def forward(self, x):
        return self.head(torch.relu(self.b(self.between(torch.relu(self.a(x))))))


def sized(name, **options):
    """Register a `Between`."""
    return network(f"sizes: {name}", call(X), call(real(7, 6)), trained(X), **{"prunes": ["b"], **options})


@sized("divided by x.shape[1]")
class ByShape(Between):
    def between(self, h):
        return h / h.shape[1]


@sized("divided by the root of x.size(-1)")
class ByRoot(Between):
    def between(self, h):
        return h / math.sqrt(h.size(-1))


@sized("multiplied by x.shape[-1] ** -0.5")
class ByPower(Between):
    def between(self, h):
        return h * h.shape[-1] ** -0.5


@sized("multiplied by a float of a size, int arithmetic before")
class ByFloat(Between):
    def between(self, h):
        return h * float(2 * h.shape[1] + 1) / 10


@sized("size by len() and numel()", may_refuse=True)
class ByNumel(Between):
    def between(self, h):
        return h * (h.numel() // len(h)) / 8 + len(h[0]) / 100


@sized("size by a tensor made of it")
class ByTensor(Between):
    def between(self, h):
        return h / torch.tensor(h.shape[1], dtype=h.dtype).sqrt()


@sized("size by torch.tensor of the whole shape", may_refuse=True)
class ByShapeTensor(Between):
    def between(self, h):
        return h / torch.tensor(h.shape)[-1].to(h)


@sized("size by str and int", may_refuse=True)
class ByText(Between):
    def between(self, h):
        return h * int(str(h.shape[1])) / 8


@sized("size by an f-string key of a dict", may_refuse=True)
class ByKey(Between):
    def between(self, h):
        return h * {"8": 0.5}.get(f"{h.shape[1]}", 2.0)


@sized("size in a condition", may_refuse=True)
class ByCondition(Between):
    """The masked network takes the branch of the old size."""

    def between(self, h):
        return h * 2 if h.shape[1] > 6 else h * 3


@sized("size in a condition on an odd number of channels", may_refuse=True)
class ByParity(Between):
    def between(self, h):
        return -h if h.size(1) % 2 else h


@sized("out_features of a layer as a factor")
class ByLayer(Between):
    def between(self, h):
        return h / self.a.out_features + self.b.in_features / 100


@sized("weight.shape of a layer as a factor")
class ByWeight(Between):
    def between(self, h):
        return h / self.a.weight.shape[0] + self.b.weight.size(1) / 100


@sized("size from fan-in, calculated by torch's own helper", may_refuse=True)
class ByFan(Between):
    def between(self, h):
        fan, _ = nn.init._calculate_fan_in_and_fan_out(self.b.weight)
        return h * math.sqrt(2 / fan)


@sized("a size kept in a buffer")
class ByBuffer(Between):
    def __init__(self):
        super().__init__()
        self.register_buffer("width", torch.tensor(8.0))

    def between(self, h):
        return h / self.width + torch.full((1,), 1 / h.shape[1], dtype=h.dtype)


@sized("mean over channels")
class MeanOver(Between):
    def between(self, h):
        return h - h.mean(1, keepdim=True)


@sized("mean over channels by hand")
class MeanByHand(Between):
    def between(self, h):
        return h - (h.sum(1) / h.shape[1])[:, None]


@sized("standard deviation over channels")
class Deviation(Between):
    def between(self, h):
        return h / (h.std(dim=1, keepdim=True) + 0.1)


@sized("variance by mean of squares")
class Squares(Between):
    def between(self, h):
        return h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-3)


@sized("Euclidean norm over channels")
class Euclid(Between):
    def between(self, h):
        return F.normalize(h, dim=1) + h / h.norm(dim=1, keepdim=True).clamp(min=1e-3)


@sized("norm of order zero: how many are not zero")
class CountNonzero(Between):
    def between(self, h):
        return h + (h != 0).sum(1, keepdim=True) / 10


@sized("median over channels")
class Median(Between):
    def between(self, h):
        return h - h.median(1, keepdim=True).values


@sized("softmax over channels")
class SoftmaxOver(Between):
    def between(self, h):
        return h.softmax(1)


@sized("logsumexp over channels")
class LogSumExp(Between):
    def between(self, h):
        return h - h.logsumexp(1, keepdim=True)


@sized("product over channels")
class Product(Between):
    def between(self, h):
        return h + (1 + h).prod(1, keepdim=True) / 10 + h.prod(1, keepdim=True)


@sized("largest and smallest over channels")
class Largest(Between):
    def between(self, h):
        return h - h.amax(1, keepdim=True) + (h - 1).amin(1, keepdim=True)


@sized("sorted channels")
class Sorted(Between):
    def between(self, h):
        return h.sort(1).values


@sized("cumulative sum over channels")
class Cumulative(Between):
    def between(self, h):
        return h.cumsum(1)


@sized("index of the largest channel as a number")
class Argmax(Between):
    def between(self, h):
        return h + h.argmax(1, keepdim=True) / 10


@sized("one-hot of the largest channel", refused="reads values of activations")
class OneHot(Between):
    def between(self, h):
        return h * F.one_hot(h.argmax(1), h.shape[1])


@sized("topk of channels kept, others zero")
class TopChannels(Between):
    def between(self, h):
        values, index = h.topk(3, dim=1)
        return torch.zeros_like(h).scatter(1, index, values)


@sized("channels reversed")
class Reversed(Between):
    def between(self, h):
        return h + h.flip(1)


@sized("arange over channels as a factor")
class ArangeFactor(Between):
    def between(self, h):
        return h * torch.arange(h.shape[1], dtype=h.dtype)


@sized("arange over channels as a condition of masked_fill")
class ArangeFill(Between):
    def between(self, h):
        return h.masked_fill(torch.arange(h.shape[1]) >= 5, 0.0)


@sized("arange over channels as a condition of where")
class ArangeWhere(Between):
    def between(self, h):
        return torch.where(torch.arange(h.size(1)) % 2 == 0, h, -h)


@sized("arange over channels as a mask multiplied")
class ArangeMask(Between):
    def between(self, h):
        return h * (torch.arange(h.shape[-1]) < h.shape[-1] // 2).to(h)


@sized("linspace over channels")
class Linspace(Between):
    def between(self, h):
        return h + torch.linspace(0, 1, h.shape[1], dtype=h.dtype)


@sized("eye of the number of channels")
class Eye(Between):
    def between(self, h):
        return h @ (torch.eye(h.shape[1], dtype=h.dtype) * 2)


@sized("triangle over channels")
class Triangle(Between):
    def between(self, h):
        return h @ torch.ones(h.shape[1], h.shape[1], dtype=h.dtype).tril()


@sized("sinusoidal positions as wide as the channels")
class Sinusoid(Between):
    def between(self, h):
        width = h.shape[1]
        rates = torch.exp(torch.arange(0, width, 2, dtype=h.dtype) * (-math.log(100.0) / width))
        return h + torch.cat([rates.sin(), rates.cos()])[:width]


@sized("random projection made by a seed in forward")
class Projection(Between):
    def between(self, h):
        generator = torch.Generator().manual_seed(0)
        return h @ torch.randn(h.shape[1], h.shape[1], generator=generator, dtype=h.dtype)


@sized("literal: x[:, :5] and the rest")
class LiteralSlice(Between):
    def between(self, h):
        return torch.cat([h[:, :5] * 2, h[:, 5:]], 1)


@sized("literal: view(b, 8)")
class LiteralView(Between):
    def between(self, h):
        return h.view(h.shape[0], 8)


@sized("literal: reshape(-1, 2, 4) and back")
class LiteralReshape(Between):
    def between(self, h):
        return h.reshape(-1, 2, 4).mul(torch.tensor([[1.0], [2.0]], dtype=h.dtype)).reshape(-1, 8)


@sized("literal: view(-1, 8) would move units into samples")
class LiteralBatch(Between):
    """With four units left, two samples become one: the code runs and is wrong."""

    def between(self, h):
        return (h.view(-1, 8) * 2).view(len(h), -1)


@sized("literal: narrow, select, index_select, a list of indices")
class LiteralPicks(Between):
    def between(self, h):
        one, rest = h.narrow(1, 0, 3), torch.index_select(h, 1, torch.tensor([3, 4, 5]))
        return torch.cat([one * h[:, 0:1], rest, h[:, [7, 6]]], 1)


@sized("literal: negative slice")
class NegativeSlice(Between):
    def between(self, h):
        return torch.cat([h[:, -2:] * 3, h[:, :-2]], 1)


@sized("literal: every second channel")
class Strided(Between):
    def between(self, h):
        return torch.cat([h[:, ::2], h[:, 1::2] * 2], 1)


@sized("constant vector written in the code")
class ConstantVector(Between):
    def between(self, h):
        return h + torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8], dtype=h.dtype)


@sized("constant vector as a plain attribute, not a buffer")
class PlainAttribute(Between):
    def __init__(self):
        super().__init__()
        self.shift = torch.arange(8.0, dtype=torch.float64)

    def between(self, h):
        return h + self.shift


@sized("tensors in a list, no parameters")
class TensorList(Between):
    def __init__(self):
        super().__init__()
        self.shifts = [torch.ones(8, dtype=torch.float64), torch.arange(8.0, dtype=torch.float64)]

    def between(self, h):
        for shift in self.shifts:
            h = h + shift
        return h


@sized("padding of channels")
class PadChannels(Between):
    def __init__(self):
        super().__init__()
        self.b = nn.Linear(10, 8)

    def between(self, h):
        return F.pad(h, (1, 1), value=0.5)


@sized("repeat and tile of channels")
class Tiled(Between):
    def __init__(self):
        super().__init__()
        self.b = nn.Linear(16, 8)

    def between(self, h):
        return h.repeat(1, 2) * h.tile((2,))


@sized("repeat_interleave of channels")
class Interleaved(Between):
    def __init__(self):
        super().__init__()
        self.b = nn.Linear(16, 8)

    def between(self, h):
        return h.repeat_interleave(2, dim=1)


@sized("expand to the width of another layer's output")
class ExpandAs(Between):
    def between(self, h):
        return h.mean(1, keepdim=True).expand_as(h) + h.sum(1, keepdim=True).expand(-1, h.shape[1]) * 0.1


@sized("distance to prototypes by cdist")
class Prototypes(Between):
    def __init__(self):
        super().__init__()
        self.points, self.b = nn.Parameter(torch.randn(5, 8)), nn.Linear(5, 8)

    def between(self, h):
        return -torch.cdist(h, self.points)


@sized("layer_norm by function over h.shape[1:]")
class FunctionalNorm(Between):
    def between(self, h):
        return F.layer_norm(h, h.shape[1:])


@sized("histogram of channels")
class Bucketed(Between):
    def between(self, h):
        edges = torch.linspace(0.0, 1.0, 4, dtype=h.dtype)
        return h + torch.bucketize(h, edges).to(h)


@sized("Fourier transform over channels")
class Fourier(Between):
    def between(self, h):
        return torch.fft.irfft(torch.fft.rfft(h, dim=1), n=h.shape[1], dim=1)


@sized("complex numbers of two halves")
class ComplexHalves(Between):
    def between(self, h):
        z = torch.complex(h[:, :4], h[:, 4:])
        z = z * torch.polar(torch.ones(4, dtype=h.dtype), torch.arange(4, dtype=h.dtype))
        return torch.cat([z.real, z.imag], 1)


@network("sizes: sequence lengths as a mask", call(TOKENS), traced(TOKENS, lengths(5, B)), call(real(B, 8, 6)))
class LengthMask(nn.Module):
    """A mask of positions, which are no units."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x, length=None):
        x = torch.relu(self.a(x))
        if length is not None:
            x = x * (torch.arange(x.shape[1])[None, :, None] < length[:, None, None])
        x = torch.relu(self.b(x))
        return self.head(x.sum(1) / (x.shape[1] if length is None else length[:, None]))


@network("sizes: pixels counted by h * w", call(IMAGE), call(real(B, 3, 5, 7)), prunes=["a"])
class Pixels(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 3)

    def forward(self, x):
        x = torch.relu(self.a(x))
        b, c, h, w = x.shape
        return self.head(x.view(b, c, h * w).sum(2) / (h * w))


@network("sizes: all of channels and pixels flattened and averaged", call(IMAGE), call(real(B, 3, 5, 7)))
class AllAveraged(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 1), nn.Linear(6, 3)

    def forward(self, x):
        x = torch.relu(self.a(x))
        x = x / x.flatten(1).mean(1)[:, None, None, None]
        return self.head(torch.relu(self.b(x)).mean((2, 3)))


@network("sizes: as many channels as pixels, transposed", call(real(B, 3, 2, 4)), prunes=["b"])
class SquareFeature(nn.Module):
    """Eight channels and eight pixels: sizes alone do not tell them apart."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 8, 1), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.a(x).flatten(2)
        x = x + x.transpose(1, 2)
        return self.head(torch.relu(self.b(x)).mean(1))


@network("sizes: as many samples as channels", call(real(8, 6)), call(real(8, 6)), batches=False, prunes=["b"])
class SquareBatch(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 8), nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = torch.relu(self.a(x))
        return self.head(torch.relu(self.b(x / x.shape[0])))


@network("sizes: contrast between samples of a batch", call(X), call(real(5, 6)), prunes=["a"])
class Contrast(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 5)

    def forward(self, x):
        z = F.normalize(self.b(torch.relu(self.a(x))), dim=1)
        return z @ z.T / z.shape[0]


@network("sizes: mixer over a fixed number of tokens", call(TOKENS), prunes=["tokens.0", "channels.0"], exports=True)
class Mixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm = nn.Linear(6, 8), nn.LayerNorm(8)
        self.tokens = nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 5))
        self.channels = nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.a(x)
        x = x + self.tokens(self.norm(x).mT).mT
        return self.head((x + self.channels(self.norm(x))).mean(1))


@network("sizes: patches by reshape of an image", call(IMAGE), prunes=["a"])
class Patches(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(12, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        b, c, h, w = x.shape
        x = x.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, -1, c * 4)
        x = torch.relu(self.b(torch.relu(self.a(x))))
        return self.head(x.mean(1))


@network("sizes: space to depth after a layer, Swin's merging", call(IMAGE), untraced(real(B, 3, 4, 4)))
class Merging(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm, self.reduce, self.head = (
            nn.Conv2d(3, 6, 1),
            nn.LayerNorm(24),
            nn.Linear(24, 8),
            nn.Linear(8, 3),
        )

    def forward(self, x):
        x = self.a(x).permute(0, 2, 3, 1)
        parts = [x[:, i::2, j::2, :] for i in (0, 1) for j in (0, 1)]
        x = torch.relu(self.reduce(self.norm(torch.cat(parts, -1))))
        return self.head(x.mean((1, 2)))
