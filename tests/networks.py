"""Networks that the tests prune."""

from __future__ import annotations

import torch
from torch import nn

from secateur.models import build


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Batch norms with statistics that matter, layer scales that are not tiny."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor, low, high):
        tensor.data.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            uniform(module.running_mean, -0.3, 0.3)
            uniform(module.running_var, 0.5, 2.0)
            uniform(module.weight, 0.5, 1.5)
            uniform(module.bias, -0.2, 0.2)
    for name, parameter in model.named_parameters():
        if "layer_scale" in name:
            uniform(parameter, 0.2, 1.0)
    return model.eval()


def zoo(name: str, seed: int = 0) -> tuple[nn.Module, torch.Tensor]:
    """A named network with random statistics and an input that it takes."""
    torch.manual_seed(seed)
    side = {"resnet20": 16, "vgg11-bn-32": 32, "alexnet": 80}.get(name, 64)
    arguments = {"num_classes": 10, "aux_logits": False} if name == "googlenet" else {"num_classes": 10}
    model = randomised(build(name, **arguments), seed)
    return model, torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(seed))


class UserNet(nn.Module):
    """A network of a user's own: dense concatenation, depthwise and grouped convolutions, squeeze-excite, residual."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.SiLU(inplace=True))
        self.dense = nn.Conv2d(12, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(20, 20, 3, padding=1, groups=20, bias=False)
        self.point = nn.Conv2d(20, 24, 1)
        self.grouped = nn.Conv2d(24, 16, 3, padding=1, groups=8)
        self.squeeze = nn.Linear(16, 4)
        self.excite = nn.Linear(4, 16)
        self.mix = nn.Conv2d(16, 12, 1)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(12 * 16, 10), nn.ReLU(), nn.Dropout(0.1), nn.Linear(10, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        wide = torch.cat([x, torch.relu(self.dense(x))], 1)
        y = nn.functional.hardswish(self.grouped(self.point(self.depthwise(wide))))
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(y.mean((2, 3))))))
        x = x + self.mix(y * gate[:, :, None, None])
        return self.head(nn.functional.avg_pool2d(x, 2))


def user_net(seed: int = 0) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(seed)
    return randomised(UserNet(), seed), torch.randn(2, 3, 8, 8)


class Attention(nn.Module):
    """The most common spelling: the size of a head comes from the width of the stream."""

    def __init__(self, width=24, heads=4):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        B, N, C = x.shape
        qkv = self.qkv(self.norm(x)).reshape(B, N, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        attention = (q @ k.transpose(-2, -1) * (C // self.heads) ** -0.5).softmax(-1)
        return x + self.proj((attention @ v).transpose(1, 2).reshape(B, N, C))


class Tokens(nn.Module):
    def __init__(self, block, width=24):
        super().__init__()
        self.embed = nn.Linear(6, width)
        self.cls = nn.Parameter(torch.randn(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, 6, width))
        self.block = block
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        x = self.embed(x)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.position
        return self.head(self.block(x)[:, 0])


class SelfAttention(nn.Module):
    """PyTorch's own attention module."""

    def __init__(self, batch_first=True):
        super().__init__()
        self.attention = nn.MultiheadAttention(24, 4, batch_first=batch_first)

    def forward(self, x):
        return x + self.attention(x, x, x)[0]
