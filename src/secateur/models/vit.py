"""A small vision transformer for small images.

Source: Dosovitskiy et al., "An image is worth 16x16 words" (2021), with the convolutional stem of Xiao et al., "Early
convolutions help transformers see better" (2021), and the mean over tokens instead of a class token.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from secateur.models.cifar import check_sizes
from secateur.models.settings import registered


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, tokens, width] to [N, tokens, width]."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [N, heads, tokens, width]
        x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = self.proj(x)
        return x


class Block(nn.Module):
    """Attention and a network of two layers for each token, both with layer norms before and shortcuts around them."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, tokens, width] to [N, tokens, width]."""
        x = x + self.attn(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return x


@registered.register("vit-32")
class SmallViT(nn.Module):
    """Vision transformer for images of 32 pixels.

    Args:
        num_classes: number of outputs.
        in_channels: 1 for grey images, 3 for colour.
        width: width of a token.
        depth: number of blocks.
        heads: number of attention heads in each block.
        mlp_ratio: number of hidden neurons of a block relative to the width.
        patch: pixels from one token to the next, along both sides: 2, 4, 8 or 16; each halving is a convolution.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        width: int = 128,
        depth: int = 6,
        heads: int = 4,
        mlp_ratio: int = 4,
        patch: int = 8,
    ) -> None:
        super().__init__()
        check_sizes(num_classes=num_classes, in_channels=in_channels, width=width, depth=depth, heads=heads)
        check_sizes(mlp_ratio=mlp_ratio)
        if width % heads:
            raise ValueError(f"width must be a multiple of heads, got {width} and {heads}")
        if patch not in (2, 4, 8, 16):
            raise ValueError(f"patch must be 2, 4, 8 or 16, got {patch}")
        sizes = [in_channels, *(width // factor for factor in (8, 4, 2, 1)[-patch.bit_length() + 1 :])]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.GELU()]
        self.stem = nn.Sequential(*layers[:-1])
        self.positions = nn.Parameter(0.02 * torch.randn(1, (32 // patch) ** 2, width))
        self.blocks = nn.Sequential(*(Block(width, heads, mlp_ratio * width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images [N, C, 32, 32] to logits [N, num_classes]."""
        x = self.stem(x).flatten(2).transpose(1, 2) + self.positions
        x = self.norm(self.blocks(x)).mean(1)
        x = self.head(x)
        return x
