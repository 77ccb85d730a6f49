"""Convolutional networks with the connections and layers that channels do not expect."""

from __future__ import annotations

import torch
from hostile_cases import B, call, network, real, trained, whole
from torch import nn
from torch.nn import functional as F

X = real(B, 3, 8, 8)
LARGER = call(real(B, 3, 12, 10))
BATCH = trained(X)


def conv(a, b, k=3, **options):
    return nn.Conv2d(a, b, k, **{"padding": k // 2, **options})


class Pooled(nn.Module):
    """Body, mean over pixels, linear head of ``width`` inputs."""

    def __init__(self, width, *body):
        super().__init__()
        self.body, self.head = nn.Sequential(*body), nn.Linear(width, 3)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


def body(name, width, *layers, calls=(LARGER, BATCH), **options):
    """Register a sequence of layers, built anew each time."""

    @network(f"convolution: {name}", call(X), *calls, **options)
    def build():
        return Pooled(width, *(layer() for layer in layers))


def lazily(kind, *args, **kwargs):
    return lambda: kind(*args, **kwargs)


STEM = lazily(conv, 3, 8)
body("grouped", 12, STEM, nn.ReLU, lazily(conv, 8, 12, groups=4), nn.ReLU, lazily(conv, 12, 12, groups=2), exports=True)
body(
    "depthwise with a multiplier",
    16,
    STEM,
    nn.ReLU,
    lazily(conv, 8, 16, groups=8),
    nn.ReLU6,
    prunes=["body.0"],
    exports=True,
)
body("dilated, strided, reflected border", 6, STEM, nn.ELU, lazily(conv, 8, 6, dilation=2, stride=2), nn.Tanh)
body(
    "border by reflection",
    6,
    lazily(conv, 3, 8, padding_mode="reflect"),
    nn.ReLU,
    lazily(conv, 8, 6, padding_mode="circular"),
)
body(
    "transposed, grouped",
    6,
    STEM,
    nn.ReLU,
    lazily(nn.ConvTranspose2d, 8, 8, 2, 2, groups=4),
    nn.ReLU,
    lazily(conv, 8, 6),
)
body(
    "transposed", 6, STEM, lazily(nn.BatchNorm2d, 8), nn.ReLU, lazily(nn.ConvTranspose2d, 8, 6, 3, 2, output_padding=1)
)
body(
    "string padding and no bias",
    6,
    lazily(conv, 3, 8, padding="same", bias=False),
    lazily(nn.BatchNorm2d, 8),
    nn.Hardswish,
    lazily(conv, 8, 6, padding="valid"),
)
body("batch norm without affine", 6, STEM, lazily(nn.BatchNorm2d, 8, affine=False), nn.ReLU, lazily(conv, 8, 6))
body("batch norm without statistics", 6, STEM, lazily(nn.BatchNorm2d, 8, track_running_stats=False), lazily(conv, 8, 6))
body("instance norm with affine", 6, STEM, lazily(nn.InstanceNorm2d, 8, affine=True), nn.ReLU, lazily(conv, 8, 6))
body(
    "instance norm with statistics", 6, STEM, lazily(nn.InstanceNorm2d, 8, track_running_stats=True), lazily(conv, 8, 6)
)
body("group norm", 6, STEM, lazily(nn.GroupNorm, 4, 8), nn.ReLU, lazily(conv, 8, 6), prunes=["body.0"])
body(
    "group norm of one group",
    6,
    STEM,
    lazily(nn.GroupNorm, 1, 8),
    nn.ReLU,
    lazily(conv, 8, 6),
    locked={"body.0": "normalised"},
    prunes=["body.3"],
)
body("group norm of one group, stream", 6, STEM, lazily(nn.GroupNorm, 1, 8), nn.ReLU, lazily(conv, 8, 6), stream=True)
body("group norm of single channels", 6, STEM, lazily(nn.GroupNorm, 8, 8), nn.ReLU, lazily(conv, 8, 6))
body(
    "local response norm",
    6,
    STEM,
    lazily(nn.LocalResponseNorm, 3),
    lazily(conv, 8, 6),
    locked={"body.0": ""},
    prunes=["body.2"],
)
body(
    "cross map norm by softmax over channels",
    6,
    STEM,
    lazily(nn.Softmax2d),
    lazily(conv, 8, 6),
    locked={"body.0": "softmax"},
    prunes=["body.2"],
)
body("PReLU per channel", 6, STEM, lazily(nn.PReLU, 8), lazily(conv, 8, 6), lazily(nn.PReLU, 6), prunes=["body.0"])
body("PReLU with one slope", 6, STEM, nn.PReLU, lazily(conv, 8, 6), nn.PReLU)
body("sigmoid does not keep zeros", 6, STEM, nn.Sigmoid, lazily(conv, 8, 6), nn.Sigmoid, lazily(nn.BatchNorm2d, 6))
body("softplus, then depthwise", 8, STEM, nn.Softplus, lazily(conv, 8, 8, groups=8), nn.Softplus)
body("GLU over channels", 4, STEM, lazily(nn.GLU, 1), lazily(conv, 4, 8), lazily(nn.GLU, 1))
body("pixel shuffle", 2, lazily(conv, 3, 8), nn.ReLU, lazily(nn.PixelShuffle, 2))
body("pixel unshuffle", 6, STEM, lazily(nn.PixelUnshuffle, 2), lazily(conv, 32, 6, 1))
body("channel shuffle module", 8, lazily(conv, 3, 8), lazily(nn.ChannelShuffle, 2), lazily(conv, 8, 8, groups=2))
body(
    "dropout of whole channels",
    6,
    STEM,
    lazily(nn.Dropout2d, 0.5),
    lazily(conv, 8, 6),
    calls=(LARGER, trained(X, random=True)),
)
body("alpha dropout", 6, STEM, nn.SELU, lazily(nn.AlphaDropout, 0.3), lazily(conv, 8, 6), calls=(LARGER,))
body(
    "upsampling and adaptive pooling",
    6,
    STEM,
    lazily(nn.Upsample, scale_factor=2, mode="bilinear"),
    lazily(conv, 8, 6),
    lazily(nn.AdaptiveMaxPool2d, 3),
)
body(
    "fractional power and clamp",
    6,
    STEM,
    lazily(nn.Hardtanh, 0.1, 0.7),
    lazily(conv, 8, 6),
    lazily(nn.Threshold, 0.2, 0.3),
)
body("LP pooling", 6, STEM, nn.ReLU, lazily(nn.LPPool2d, 2, 2), lazily(conv, 8, 6))
body("unfold and fold", 8, STEM, lazily(nn.Unfold, 2, stride=2), lazily(nn.Unflatten, 1, (8, 4)), calls=())
body(
    "flattened before a linear layer",
    6,
    STEM,
    lazily(nn.AdaptiveAvgPool2d, 2),
    nn.Flatten,
    lazily(nn.Linear, 32, 12),
    nn.ReLU,
    lazily(nn.Unflatten, 1, (12, 1, 1)),
    lazily(conv, 12, 6, 1),
    prunes=["body.0", "body.3"],
)


def parametrised(name, change, **options):
    @network(f"convolution: {name}", call(X), LARGER, compares_step=False, **options)
    def build():
        model = Pooled(6, conv(3, 8), nn.ReLU(), conv(8, 6), nn.ReLU())
        for layer in (model.body[0], model.body[2], model.head):
            change(layer)
        return model


parametrised("new weight norm", nn.utils.parametrizations.weight_norm)
parametrised("new spectral norm", nn.utils.parametrizations.spectral_norm)


def old_weight_norm(layer):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        nn.utils.weight_norm(layer)


parametrised("old weight norm", old_weight_norm, may_refuse=True)
parametrised("old spectral norm", lambda layer: nn.utils.spectral_norm(layer))


@network("linear: orthogonal parametrisation", call(real(B, 6)), locked={"0": ""}, prunes=["2"])
def orthogonal():
    return nn.Sequential(
        nn.utils.parametrizations.orthogonal(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)
    )


class Normed(nn.Module):
    """A parametrisation of a user's own."""

    def forward(self, weight):
        return weight / (1 + weight.abs())


@network("linear: parametrisation of a user's own", call(real(B, 6)))
def own_parametrisation():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    nn.utils.parametrize.register_parametrization(model[0], "weight", Normed())
    return model


@network("pruning masks of torch.nn.utils.prune", call(real(B, 6)), compares_step=False)
def torch_pruned():
    import torch.nn.utils.prune as tools

    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    tools.random_unstructured(model[0], "weight", 0.4)
    tools.l1_unstructured(model[2], "weight", 0.3)
    return model


@network("convolution: standardised weights", call(X), LARGER)
class Standardised(nn.Module):
    class Conv(nn.Conv2d):
        def forward(self, x):
            w = self.weight
            w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
            return F.conv2d(x, w, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = self.Conv(3, 8, 3, padding=1), self.Conv(8, 6, 3), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.b(torch.relu(self.a(x))).mean((2, 3)))


@network("convolution: equalised learning rate, scale from the fan-in", call(X), LARGER)
class Equalised(nn.Module):
    """The scale names the number of inputs: computed anew after pruning, it is wrong."""

    class Conv(nn.Conv2d):
        def forward(self, x):
            return F.conv2d(x, self.weight * (2 / self.weight[0].numel()) ** 0.5, self.bias, padding=1)

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = self.Conv(3, 8, 3), self.Conv(8, 6, 3), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.b(torch.relu(self.a(x))).mean((2, 3)))


@network("convolution: weights mixed by attention over experts", call(X), LARGER)
class DynamicConvolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.gate, self.head = conv(3, 8), nn.Linear(8, 3), nn.Linear(6, 3)
        self.weight = nn.Parameter(torch.randn(3, 6, 8, 3, 3))

    def forward(self, x):
        x = torch.relu(self.stem(x))
        b = x.shape[0]
        mix = self.gate(x.mean((2, 3))).softmax(-1)
        w = torch.einsum("be,eoihw->boihw", mix, self.weight).reshape(-1, 8, 3, 3)
        y = F.conv2d(x.reshape(1, -1, *x.shape[2:]), w, padding=1, groups=b)
        return self.head(y.reshape(b, 6, *x.shape[2:]).mean((2, 3)))


@network("convolution: squeeze-excite by reduction of a size", call(X), LARGER, BATCH, prunes=["stem"], exports=True)
class SqueezeExcite(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm = conv(3, 8), nn.BatchNorm2d(8)
        self.fc1, self.fc2, self.head = nn.Linear(8, 4), nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        b, c, _, _ = x.size()
        y = F.adaptive_avg_pool2d(x, 1).view(b, c)
        y = torch.sigmoid(self.fc2(torch.relu(self.fc1(y)))).view(b, c, 1, 1)
        return self.head((x * y.expand_as(x)).mean((2, 3)))


@network("convolution: efficient channel attention slides over channels", call(X), locked={"stem": ""}, prunes=["last"])
class SlidingChannels(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.slide, self.last, self.head = (
            conv(3, 8),
            nn.Conv1d(1, 1, 3, padding=1),
            conv(8, 6),
            nn.Linear(6, 3),
        )

    def forward(self, x):
        x = self.stem(x)
        y = self.slide(x.mean((2, 3)).unsqueeze(1)).squeeze(1).sigmoid()
        return self.head(torch.relu(self.last(x * y[:, :, None, None])).mean((2, 3)))


@network("convolution: spatial attention from the mean and the largest over channels", call(X), LARGER)
class SpatialAttention(nn.Module):
    """The mean over channels divides by their number, and zeros take part in the largest."""

    def __init__(self):
        super().__init__()
        self.stem, self.gate, self.last, self.head = conv(3, 8), conv(2, 1), conv(8, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = self.stem(x)
        gate = self.gate(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)).sigmoid()
        return self.head(torch.relu(self.last(x * gate)).mean((2, 3)))


@network("convolution: dense concatenation", call(X), LARGER, BATCH, prunes=["layers.0.1"], exports=True)
class Dense(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.BatchNorm2d(3 + 4 * i), conv(3 + 4 * i, 4)) for i in range(3))
        self.head = nn.Linear(15, 3)

    def forward(self, x):
        features = [x]
        for layer in self.layers:
            features.append(torch.relu(layer(torch.cat(features, 1))))
        return self.head(torch.cat(features, 1).mean((2, 3)))


@network("convolution: split by sizes, inception, concatenation", call(X), LARGER)
class Inception(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = conv(3, 12)
        self.a, self.b, self.c = conv(4, 4, 1), conv(6, 5), conv(2, 3, 5)
        self.head = nn.Linear(12, 3)

    def forward(self, x):
        p, q, r = torch.split(torch.relu(self.stem(x)), [4, 6, 2], dim=1)
        return self.head(torch.relu(torch.cat((self.a(p), self.b(q), self.c(r)), dim=1)).mean((-2, -1)))


@network("convolution: U-Net with cropped skip", call(X), call(real(B, 3, 16, 12)), BATCH, exports=True)
class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down1, self.down2, self.up = conv(3, 6), conv(6, 8), nn.ConvTranspose2d(8, 6, 2, 2)
        self.norm, self.merge, self.last = nn.BatchNorm2d(6), conv(12, 6), conv(6, 2, 1)

    def forward(self, x):
        a = torch.relu(self.norm(self.down1(x)))
        y = self.up(torch.relu(self.down2(F.max_pool2d(a, 2))))
        y = torch.cat([y, a[:, :, : y.shape[2], : y.shape[3]]], 1)
        return self.last(torch.relu(self.merge(y)))


@network("convolution: U-Net with a learned skip by addition and interpolation", call(X), call(real(B, 3, 10, 14)))
class UNetAdd(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.last = conv(3, 8), conv(8, 8, stride=2), conv(8, 8), conv(8, 2, 1)

    def forward(self, x):
        a = torch.relu(self.a(x))
        y = F.interpolate(self.b(a), size=a.shape[-2:], mode="nearest")
        return self.last(torch.relu(self.c(a + y)))


@network("convolution: one module used three times", call(X), LARGER, prunes=["shared"])
class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.shared, self.head = conv(3, 8), conv(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.stem(x)
        for _ in range(3):
            x = torch.relu(self.shared(x))
        return self.head(x.mean((2, 3)))


@network("convolution: one module in two branches (Siamese), difference", call(X, X), call(X, real(B, 3, 5, 5)))
class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 6)), nn.Linear(6, 3)

    def forward(self, x, y):
        a, b = (self.body(t).flatten(2).mean(-1) for t in (x, y))
        return self.head(torch.abs(a - b)), F.cosine_similarity(a, b)


@network("convolution: the same kernel read twice, once transposed", call(X))
class TiedTranspose(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc, self.mid, self.head = conv(3, 8, bias=False), conv(8, 8, 1), nn.Linear(3, 3)

    def forward(self, x):
        y = torch.relu(self.mid(torch.relu(self.enc(x))))
        return self.head(F.conv_transpose2d(y, self.enc.weight, padding=1).mean((2, 3)))


@network("convolution: channel shuffle by view", call(X), LARGER)
class Shuffle(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = conv(3, 8), conv(8, 8, groups=2), nn.Linear(8, 3)

    def forward(self, x):
        x = torch.relu(self.a(x))
        b, c, h, w = x.shape
        x = x.view(b, 2, c // 2, h, w).transpose(1, 2).contiguous().view(b, -1, h, w)
        return self.head(torch.relu(self.b(x)).mean((2, 3)))


@network("convolution: half of the channels pass by (ShuffleNet)", call(X), LARGER)
class HalfPasses(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.a, self.last, self.head = conv(3, 8), conv(4, 4), conv(8, 6, 1), nn.Linear(6, 3)

    def forward(self, x):
        left, right = self.stem(x).chunk(2, dim=1)
        return self.head(torch.relu(self.last(torch.cat([left, torch.relu(self.a(right))], 1))).mean((2, 3)))


@network("convolution: shift of channels along the image (TSM)", call(X))
class Shifted(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = conv(3, 8), conv(8, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = self.a(x)
        fold = x.shape[1] // 4
        out = torch.zeros_like(x)
        out[:, :fold, :, 1:] = x[:, :fold, :, :-1]
        out[:, fold:] = x[:, fold:]
        return self.head(torch.relu(self.b(out)).mean((2, 3)))


@network("convolution: rolled channels", call(X), locked={"a": ""}, prunes=["b"])
class Rolled(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = conv(3, 8), conv(8, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = self.a(x)
        return self.head(torch.relu(self.b(x + x.roll(1, dims=1))).mean((2, 3)))


@network("convolution: maxout over pairs of channels", call(X))
class Maxout(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = conv(3, 8), conv(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = self.a(x)
        x = x.view(len(x), x.shape[1] // 2, 2, *x.shape[2:]).max(2)[0]
        return self.head(torch.relu(self.b(x)).mean((2, 3)))


@network("convolution: crelu", call(X), prunes=["a"])
class CRelu(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = conv(3, 6), conv(12, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = self.a(x)
        return self.head(torch.relu(self.b(torch.cat([x, -x], 1).relu())).mean((2, 3)))


@network("convolution: shortcut padded with zeros (option A)", call(X), BATCH)
class PaddedShortcut(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.head = conv(3, 4), conv(4, 8, stride=2), conv(8, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = self.a(x)
        short = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        return self.head(torch.relu(self.c(torch.relu(self.b(x) + short))).mean((2, 3)))


@network("convolution: 1-D, causal by padding and chomp", call(real(B, 3, 10)), call(real(B, 3, 17)))
class Temporal(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = (
            nn.Conv1d(3, 8, 3, padding=2),
            nn.utils.parametrizations.weight_norm(nn.Conv1d(8, 6, 3, dilation=2)),
        )
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = torch.relu(self.a(x)[..., :-2])
        return self.head(torch.relu(self.b(F.pad(x, (4, 0))))[:, :, -1])


@network("convolution: WaveNet gate", call(real(B, 3, 10)), call(real(B, 3, 14)), prunes=["gate"])
class WaveNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.start, self.gate, self.res, self.skip = (
            nn.Conv1d(3, 6, 1),
            nn.Conv1d(6, 16, 3, padding=1),
            nn.Conv1d(8, 6, 1),
            nn.Conv1d(8, 4, 1),
        )
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.start(x)
        skips = 0
        for _ in range(2):
            a, b = self.gate(x).chunk(2, 1)
            y = a.tanh() * b.sigmoid()
            x, skips = x + self.res(y), skips + self.skip(y)
        return self.head(skips.relu().mean(-1))


@network(
    "convolution: 3-D, factorised", call(real(B, 2, 4, 6, 6)), call(real(B, 2, 5, 7, 8)), trained(real(B, 2, 4, 6, 6))
)
class Video(nn.Module):
    def __init__(self):
        super().__init__()
        self.space, self.norm = nn.Conv3d(2, 8, (1, 3, 3)), nn.BatchNorm3d(8)
        self.time, self.head = nn.Conv3d(8, 6, (3, 1, 1), padding=(1, 0, 0)), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.time(F.leaky_relu(self.norm(self.space(x)))).amax((2, 3, 4)))


@network("convolution: frames folded into the batch", call(real(B, 4, 3, 6, 6)), call(real(B, 2, 3, 6, 6)))
class Frames(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = conv(3, 8), conv(8, 6), nn.Linear(6, 3)

    def forward(self, x):
        b, t = x.shape[:2]
        y = self.b(torch.relu(self.a(x.flatten(0, 1)))).mean((2, 3))
        return self.head(y.view(b, t, -1).mean(1))


@network("convolution: bilinear pooling (outer product of channels)", call(X), LARGER)
class Bilinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = conv(3, 5), conv(3, 4), nn.Linear(20, 3)

    def forward(self, x):
        p, q = self.a(x).relu().flatten(2), self.b(x).relu().flatten(2)
        return self.head((p @ q.mT / p.shape[-1]).flatten(1))


@network("convolution: Gram matrix of channels", call(X), LARGER)
class Gram(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.head = conv(3, 5), nn.Linear(25, 3)

    def forward(self, x):
        f = self.a(x).relu().flatten(2)
        return self.head((f @ f.transpose(1, 2) / f.shape[1]).flatten(1))


@network("convolution: deformed sampling by grid_sample", call(X), LARGER)
class Warped(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.flow, self.b, self.head = conv(3, 8), conv(8, 2), conv(8, 6), nn.Linear(6, 3)

    def forward(self, x):
        y = torch.relu(self.a(x))
        grid = self.flow(y).tanh().permute(0, 2, 3, 1)
        return self.head(torch.relu(self.b(F.grid_sample(y, grid, align_corners=False))).mean((2, 3)))


@network(
    "convolution: conditional batch norm by class embedding", call(X, whole(4, B)), call(real(B, 3, 5, 9), whole(4, B))
)
class Conditional(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm, self.table = conv(3, 8), nn.BatchNorm2d(8, affine=False), nn.Embedding(4, 16)
        self.b, self.head = conv(8, 6), nn.Linear(6, 3)

    def forward(self, x, label):
        gain, shift = self.table(label).chunk(2, dim=1)
        y = self.norm(self.a(x)) * (1 + gain[:, :, None, None]) + shift[:, :, None, None]
        return self.head(torch.relu(self.b(torch.relu(y))).mean((2, 3)))


@network("convolution: FiLM by a reshape of one linear layer", call(X, real(B, 4)))
class Film(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.film, self.b, self.head = conv(3, 8), nn.Linear(4, 16), conv(8, 6), nn.Linear(6, 3)

    def forward(self, x, condition):
        gain, shift = self.film(condition).view(-1, 2, 8, 1, 1).unbind(1)
        return self.head(torch.relu(self.b(torch.relu(self.a(x) * gain + shift))).mean((2, 3)))


@network("convolution: style demodulation", call(X, real(B, 4)))
class Demodulated(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.style, self.head = conv(3, 8), nn.Linear(4, 8), nn.Linear(6, 3)
        self.weight = nn.Parameter(torch.randn(6, 8, 3, 3))

    def forward(self, x, w):
        x, s = torch.relu(self.stem(x)), self.style(w)
        b, c, h, v = x.shape
        kernel = self.weight[None] * s[:, None, :, None, None]
        kernel = kernel * (kernel.pow(2).sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
        y = F.conv2d(x.reshape(1, b * c, h, v), kernel.flatten(0, 1), padding=1, groups=b)
        return self.head(y.view(b, -1, h, v).relu().mean((2, 3)))


@network("convolution: lazily built layers", call(X))
def lazy():
    model = nn.Sequential(nn.LazyConv2d(8, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
    model(torch.zeros(1, 3, 8, 8))
    return model


@network("convolution: channels last", call(X))
def channels_last():
    return Pooled(6, conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 6)).to(memory_format=torch.channels_last)


@network("convolution: stochastic depth", call(X), trained(X, random=True))
class StochasticDepth(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b, self.head = conv(3, 8), conv(8, 12), conv(12, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.stem(x)
        y = self.b(torch.relu(self.a(x)))
        if self.training:
            y = y * (torch.rand(len(x), 1, 1, 1, dtype=x.dtype) < 0.5) / 0.5
        return self.head((x + y).mean((2, 3)))
