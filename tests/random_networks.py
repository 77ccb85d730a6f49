"""Random networks: ordinary modules, written in the ways that networks are written.

A `Recipe` is what was picked on the way through the constructors, so that the same network can be built again:

    Recipe(("images", 8, ...), seed=3).build()

is what a failing test prints.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

import random_blocks as images
import random_tokens as tokens
from random_blocks import Shape, image_block
from random_tokens import token_block

DOMAINS = ("images", "tokens", "images to tokens", "tokens to images")
CLASS_TOKENS = ("no class token", "class token")
POSITIONS = ("no positions", "positions")
IMAGE_HEADS = ("mean of pixels", "pooled and flattened", "flattened", "logit map")
TOKEN_HEADS = ("mean of tokens", "first token", "flattened tokens")
# every option that says how layers are connected; a run of five hundred networks meets all of them
KINDS = frozenset(
    itertools.chain(
        DOMAINS, CLASS_TOKENS, POSITIONS, IMAGE_HEADS, TOKEN_HEADS, images.CONVOLUTIONS, images.IMAGE_NORMS,
        images.ACTIVATIONS, images.SPLITS, images.IMAGE_BLOCKS, tokens.TOKEN_NORMS, tokens.PACKINGS, tokens.PRODUCTS,
        tokens.SCALES, tokens.EXTRAS, tokens.JOINS, tokens.RAW, tokens.TOKEN_BLOCKS,
        ["prelu per channel", "identity shortcut", "projected shortcut", "linear gate", "conv gate", "max pooling"],
        ["halves concatenated", "halves added", "halves multiplied", "average pooling", "upsampled and added"],
        ["heads outside q k v", "q k v outside heads", "windows", "batch first", "sequence first", "softmax of keys"],
        ["relu of keys", "over channels", "two layers", "gate by halves", "separate gate", "tied", "inner norm"],
        ["elu plus one", "with depthwise conv", "norm before", "norm after", "layer scale", "hidden layer"],
    )
)  # fmt: skip
CLASSES, SIDE = 5, 8
MOST_BLOCKS = 3

Pick = Callable[..., object]


class Network(nn.Module):
    """A stem, blocks on images, on tokens or on both, and a head: logits [B, 5], or [B, 5, H, W]."""

    def __init__(self, pick: Pick, most: int = MOST_BLOCKS) -> None:
        super().__init__()
        self.domain, shape = pick(*DOMAINS), Shape(pick(8, 12, 16), SIDE)
        first = self.domain.partition(" ")[0]
        last = self.domain.rpartition(" ")[2]
        self.stem = PatchEmbedding(shape, pick) if first == "tokens" else Stem(shape, pick)
        self.first = nn.Sequential(*self._blocks(first, shape, pick, most))
        self.bridge: nn.Module = nn.Identity()
        self.second = nn.Sequential()
        if first != last:
            self.bridge = ToTokens(shape, pick) if last == "tokens" else ToImages(shape)
            self.second = nn.Sequential(*self._blocks(last, shape, pick, most))
        self.head = TokenHead(shape, pick) if last == "tokens" else ImageHead(shape, pick)

    def _blocks(self, domain, shape, pick, most):
        make = token_block if domain == "tokens" else image_block
        return [make(shape, pick) for _ in range(pick(*range(1, most + 1)))]

    def forward(self, x):
        return self.head(self.second(self.bridge(self.first(self.stem(x)))))


class Stem(nn.Module):
    def __init__(self, shape, pick):
        super().__init__()
        self.conv = nn.Conv2d(3, shape.width, 3, padding=1)
        self.norm, self.act = images.image_norm(shape.width, pick), images.activation(pick)

    def forward(self, x):
        return self.act(self.norm(self.conv(x)))


class Positions(nn.Module):
    """Class token and position embedding."""

    def __init__(self, shape, pick):
        super().__init__()
        shape.extra = int(pick(*CLASS_TOKENS) == "class token")
        self.cls = nn.Parameter(torch.zeros(1, 1, shape.width)) if shape.extra else None
        wanted = pick(*POSITIONS) == "positions"
        self.places = nn.Parameter(torch.zeros(1, shape.tokens, shape.width)) if wanted else None

    def forward(self, x):
        if self.cls is not None:
            x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1)
        return x if self.places is None else x + self.places


class PatchEmbedding(nn.Module):
    def __init__(self, shape, pick):
        super().__init__()
        self.proj = nn.Conv2d(3, shape.width, 2, stride=2)
        shape.side //= 2
        self.positions = Positions(shape, pick)
        self.flat = pick(True, False)

    def forward(self, x):
        x = self.proj(x)
        x = x.flatten(2) if self.flat else x.reshape(*x.shape[:2], -1)
        return self.positions(x.transpose(1, 2))


class ToTokens(nn.Module):
    def __init__(self, shape, pick):
        super().__init__()
        self.positions = Positions(shape, pick)

    def forward(self, x):
        return self.positions(x.flatten(2).transpose(1, 2))


class ToImages(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.side, self.extra = shape.side, shape.extra
        shape.extra = 0

    def forward(self, x):
        x = x[:, self.extra :]
        b, n, c = x.shape
        return x.transpose(1, 2).reshape(b, c, self.side, self.side)


def classifier(width, pick):
    if pick("linear classifier", "hidden layer") == "linear classifier":
        return nn.Linear(width, CLASSES)
    return nn.Sequential(nn.Linear(width, 10), images.activation(pick), nn.Linear(10, CLASSES))


class ImageHead(nn.Module):
    def __init__(self, shape, pick):
        super().__init__()
        self.kind = pick(*IMAGE_HEADS)
        self.pool = nn.AdaptiveAvgPool2d(2 if self.kind == "pooled and flattened" and shape.side > 1 else 1)
        places = {"flattened": shape.side**2, "pooled and flattened": 4 if shape.side > 1 else 1}.get(self.kind, 1)
        maps = self.kind == "logit map"
        self.fc = nn.Conv2d(shape.width, CLASSES, 1) if maps else classifier(shape.width * places, pick)

    def forward(self, x):
        if self.kind == "logit map":
            return self.fc(x)
        if self.kind == "mean of pixels":
            return self.fc(x.mean((2, 3)))
        return self.fc(torch.flatten(self.pool(x) if self.kind == "pooled and flattened" else x, 1))


class TokenHead(nn.Module):
    def __init__(self, shape, pick):
        super().__init__()
        self.kind = pick(*TOKEN_HEADS)
        self.norm = tokens.token_norm(shape.width, pick)
        self.fc = classifier(shape.width * (shape.tokens if self.kind == "flattened tokens" else 1), pick)

    def forward(self, x):
        x = self.norm(x)
        if self.kind == "flattened tokens":
            return self.fc(x.flatten(1))
        return self.fc(x[:, 0] if self.kind == "first token" else x.mean(1))


@dataclass(frozen=True)
class Recipe:
    """What was picked, and the seed of the weights."""

    picks: tuple[object, ...]
    seed: int

    def build(self, seed: int | None = None) -> Network:
        """The network in double precision and eval mode; another seed gives the same network with other weights."""
        left: Iterator[object] = iter(self.picks)

        def pick(*options: object) -> object:
            chosen = next(left)
            assert chosen in options, f"{chosen!r} was picked from other options than {options}"
            return chosen

        model = randomised(Network(pick), self.seed if seed is None else seed)
        assert next(left, None) is None
        return model

    def inputs(self, count: int, seed: int = 0) -> torch.Tensor:
        """Random images."""
        generator = torch.Generator().manual_seed(100 * self.seed + seed)
        return torch.randn(count, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)


def randomised(model: nn.Module, seed: int) -> Network:
    """Every parameter and running statistic is random: none is zero or one, norms and scales have either sign."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double().eval()
    with torch.no_grad():
        for tensor in model.parameters():
            value = torch.rand(tensor.shape, generator=generator, dtype=torch.float64) + 0.3
            value *= torch.rand(tensor.shape, generator=generator, dtype=torch.float64).sub(0.5).sign()
            # matrices keep the size of what they multiply
            tensor.copy_(value / (tensor[0].numel() ** 0.5 if tensor.ndim in (2, 4) else 1))
        for name, tensor in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=torch.float64) + 0.3)
    return model  # type: ignore[return-value]


def recipe(choose: Callable[[tuple[object, ...]], object], seed: int, most: int = MOST_BLOCKS) -> Recipe:
    """What ``choose`` picks from the options of one network."""
    picks = []

    def pick(*options):
        picks.append(choose(options))
        return picks[-1]

    Network(pick, most)
    return Recipe(tuple(picks), seed)


def covering(seed: int) -> list[Recipe]:
    """Networks in which every kind of connection occurs."""
    chosen: list[Recipe] = []
    source, missing = random.Random(seed), set(KINDS)

    def choose(options):
        return source.choice([option for option in options if option in missing] or options)

    for number in range(200):
        found = recipe(choose, number)
        chosen += [found] if missing & set(found.picks) else []
        missing -= set(found.picks)
        if not missing:
            return chosen
    raise AssertionError(f"never picked: {sorted(missing)}")
