"""A prototypical part network, which compares patches with prototypes and weighs the similarities.

Source: Chen et al., "This looks like that: deep learning for interpretable image recognition" (2019).
Axes: N samples, C classes, P prototypes, D channels of the feature map, H and W its positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function

from secateur.core.errors import RequestError
from secateur.models.feature_map import FeatureMap
from secateur.models.settings import registered

Similarity = Literal["log", "linear", "cosine"]
AddOn = Literal["bottleneck", "plain", "none"]

LOG_EPSILON = 1e-4
OWN, OTHER = 1.0, -0.5
"""First weights of the last layer, for a prototype's own class and for the others."""


def similarity_maps(x: torch.Tensor, weight: torch.Tensor, similarity: Similarity = "log") -> torch.Tensor:
    """Similarity of every patch of a feature map to every prototype.

    With the squared distance d² = Σ (x - p)² over a patch, ``log`` is ln((d² + 1) / (d² + 1e-4)) and ``linear`` is
    -d²; ``cosine`` is x·p / (|x| |p|).

    Args:
        x: feature maps [N, D, H, W].
        weight: prototypes [P, D, h, w].
        similarity: name of the similarity.

    Returns:
        [N, P, H - h + 1, W - w + 1].

    Example:
        >>> x = torch.rand(2, 5, 4, 4)
        >>> maps = similarity_maps(x, x[0, :, 1:2, 3:4][None])
        >>> maps.shape, round(float(maps[0, 0, 1, 3]), 2)
        (torch.Size([2, 1, 4, 4]), 9.21)
    """
    if has_torch_function((x, weight)):  # a separate operation for function modes that watch a pass
        maps: torch.Tensor = handle_torch_function(similarity_maps, (x, weight), x, weight, similarity)
        return maps
    if similarity == "cosine":
        return _cosine(x, weight)
    distance = squared_distances(x, weight)
    return -distance if similarity == "linear" else log_similarity(distance)


def squared_distances(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Squared Euclidean distance of every patch [N, D, H, W] to every prototype [P, D, h, w]; [N, P, H', W']."""
    own = (weight * weight).sum((1, 2, 3))[:, None, None]
    return F.relu(_patch_squares(x, weight) - 2 * F.conv2d(x, weight) + own)


def log_similarity(distance: torch.Tensor) -> torch.Tensor:
    """ln((d² + 1) / (d² + 1e-4)) of squared distances: falls from 9.2 to 0."""
    return torch.log((distance + 1) / (distance + LOG_EPSILON))


def _cosine(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    least = torch.finfo(x.dtype).tiny ** 0.5
    own = (weight * weight).sum((1, 2, 3)).clamp_min(least).sqrt()[:, None, None]
    return F.conv2d(x, weight) / (_patch_squares(x, weight).clamp_min(least).sqrt() * own)


def _patch_squares(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """|x|² of each patch, [N, 1, H', W']."""
    squares = (x * x).sum(1, keepdim=True)
    size = tuple(weight.shape[2:])
    return squares if size == (1, 1) else F.avg_pool2d(squares, size, 1, divisor_override=1)


class PrototypeLayer(nn.Module):
    """Prototypes, and for each the similarity of the most similar patch.

    Attributes:
        weight: prototypes [P, D, h, w].
        identity: 1 for each prototype's class and 0 for the others, [P, C]; all 0: switched off.
        similarity: see `similarity_maps`.
    """

    identity: torch.Tensor

    def __init__(
        self,
        classes: torch.Tensor,
        num_classes: int,
        channels: int,
        size: tuple[int, int] = (1, 1),
        similarity: Similarity = "log",
    ) -> None:
        super().__init__()
        self.similarity: Similarity = similarity
        self.weight = nn.Parameter(torch.rand(len(classes), channels, *size))
        self.register_buffer("identity", F.one_hot(classes, num_classes).to(self.weight.dtype))

    @property
    def classes(self) -> torch.Tensor:
        """Class of each prototype as int64 [P], and -1 for those that are switched off."""
        return torch.where(self.active, self.identity.argmax(1), -1)

    @property
    def active(self) -> torch.Tensor:
        """Which prototypes are not switched off, bool [P]."""
        return self.identity.amax(1) > 0

    def switch_off(self, rows: Iterable[int]) -> None:
        """Let the similarities of some prototypes count as 0 from now on, in place."""
        self.identity[torch.tensor(list(rows), dtype=torch.int64, device=self.identity.device)] = 0

    def nearest(self, maps: torch.Tensor) -> torch.Tensor:
        """Similarity of the most similar patch [N, P], of similarity maps [N, P, H, W]; 0 where switched off."""
        # a product instead of indexing by class, so that tracing sees which class belongs to a prototype
        return maps.amax((2, 3)) * self.identity.amax(1)

    def maps(self, features: torch.Tensor) -> torch.Tensor:
        """Feature maps [N, D, H, W] to similarity maps [N, P, H', W'], also of prototypes that are switched off."""
        return similarity_maps(features, self.weight, self.similarity)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Feature maps [N, D, H, W] to similarities [N, P]."""
        return self.nearest(self.maps(features))

    def extra_repr(self) -> str:
        """Sizes."""
        return f"{tuple(self.weight.shape)}, similarity={self.similarity!r}"


@dataclass(frozen=True, eq=False)
class PrototypePass:
    """Results of one pass.

    Attributes:
        logits: [N, C].
        similarities: [N, P].
        maps: similarity of each position, [N, P, H, W].
        features: the feature map that is compared, [N, D, H, W].
    """

    logits: torch.Tensor
    similarities: torch.Tensor
    maps: torch.Tensor
    features: torch.Tensor


class PrototypeNetwork(nn.Module):
    """Backbone, add-on layers, prototypes, and a last layer that weighs their similarities.

    Args:
        features: the backbone, see `FeatureMap`.
        num_classes: number of classes, C.
        per_class: number of prototypes of each class.
        channels: channels of the prototypes, D; None: as many as the backbone's map has.
        size: size (h, w) of the prototypes, in positions of the map.
        add_on: ``bottleneck`` halves the channels until there are D; ``plain`` is two 1x1 convolutions; both have ReLU
            in between and a sigmoid last. ``none`` compares the backbone's map as it is.
        similarity: see `similarity_maps`.

    Attributes:
        features, add_on, prototypes, last: the parts; ``last`` is a linear layer without bias.

    Raises:
        RequestError: for sizes that do not fit together.

    Example:
        >>> from secateur.models import build
        >>> features = FeatureMap(build("resnet20"), torch.zeros(1, 3, 32, 32))
        >>> net = PrototypeNetwork(features, 10, per_class=2, channels=32)
        >>> net(torch.zeros(4, 3, 32, 32)).shape, net.num_prototypes
        (torch.Size([4, 10]), 20)
    """

    def __init__(
        self,
        features: FeatureMap,
        num_classes: int,
        per_class: int = 10,
        channels: int | None = 128,
        size: tuple[int, int] = (1, 1),
        add_on: AddOn = "bottleneck",
        similarity: Similarity = "log",
    ) -> None:
        super().__init__()
        map_channels, (height, width) = features.place.channels, features.place.size
        channels = map_channels if channels is None else channels
        _check(num_classes, per_class, channels, size, (height, width))
        if similarity not in get_args(Similarity):
            raise RequestError(f"unknown similarity '{similarity}'; known: {', '.join(get_args(Similarity))}")
        if add_on == "none" and channels != map_channels:
            raise RequestError(
                f"without add-on layers prototypes have the map's {map_channels} channels, not {channels}"
            )
        self.features = features
        self.add_on = _add_on(add_on, map_channels, channels)
        classes = torch.arange(num_classes).repeat_interleave(per_class)
        self.prototypes = PrototypeLayer(classes, num_classes, channels, size, similarity)
        self.last = nn.Linear(len(classes), num_classes, bias=False)
        self.reset_last()

    @property
    def num_prototypes(self) -> int:
        """Number of prototypes, P."""
        return self.prototypes.weight.shape[0]

    @property
    def num_classes(self) -> int:
        """Number of classes, C."""
        return self.last.out_features

    def reset_last(self) -> None:
        """Set the last layer's weights to 1 for a prototype's own class and -0.5 for the others."""
        with torch.no_grad():
            self.last.weight.copy_(torch.where(self.prototypes.identity.T > 0, OWN, OTHER))

    def feature_map(self, x: torch.Tensor) -> torch.Tensor:
        """Images to the map with which prototypes are compared, [N, D, H, W]."""
        features: torch.Tensor = self.add_on(self.features(x))
        return features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images to logits [N, C]."""
        logits: torch.Tensor = self.last(self.prototypes(self.feature_map(x)))
        return logits

    def inspect(self, x: torch.Tensor) -> PrototypePass:
        """Images to all results of one pass; see `PrototypePass`."""
        features = self.feature_map(x)
        maps = self.prototypes.maps(features)
        similarities = self.prototypes.nearest(maps)
        return PrototypePass(self.last(similarities), similarities, maps, features)


def _check(num_classes: int, per_class: int, channels: int, size: tuple[int, int], positions: tuple[int, int]) -> None:
    for name, value in (("num_classes", num_classes), ("per_class", per_class), ("channels", channels)):
        if value < 1:
            raise RequestError(f"{name} must be at least 1, got {value}")
    if not all(1 <= own <= there for own, there in zip(size, positions, strict=True)):
        raise RequestError(
            f"prototypes of {size[0]}x{size[1]} positions do not fit the feature map of {positions[0]}x{positions[1]}"
        )


def _add_on(kind: AddOn, made: int, channels: int) -> nn.Sequential:
    if kind not in get_args(AddOn):
        raise RequestError(f"unknown add-on layers '{kind}'; known: {', '.join(get_args(AddOn))}")
    if kind == "none":
        return nn.Sequential()
    if kind == "plain":
        layers = [nn.Conv2d(made, channels, 1), nn.ReLU(), nn.Conv2d(channels, channels, 1), nn.Sigmoid()]
    else:
        layers, inputs = [], made
        while inputs > channels or not layers:
            outputs = max(channels, inputs // 2)
            last = nn.ReLU() if outputs > channels else nn.Sigmoid()
            layers += [nn.Conv2d(inputs, outputs, 1), nn.ReLU(), nn.Conv2d(outputs, outputs, 1), last]
            inputs = outputs
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # they have one
    return nn.Sequential(*layers)


@registered.register("prototype-network")
def prototype_network(
    num_classes: int = 10,
    in_channels: int | None = None,
    backbone: str = "resnet20",
    backbone_arguments: Mapping[str, Any] | None = None,
    image_size: int | tuple[int, int] | None = None,
    at: str | None = None,
    per_class: int = 10,
    channels: int | None = 128,
    size: tuple[int, int] = (1, 1),
    add_on: AddOn = "bottleneck",
    similarity: Similarity = "log",
) -> PrototypeNetwork:
    """`PrototypeNetwork` on a backbone that is built by name.

    Args:
        num_classes: number of classes, C.
        in_channels: channels of the images, where the backbone is one of ours.
        backbone: name of a network for `secateur.build`.
        backbone_arguments: arguments of its constructor (``{"weights": "DEFAULT"}`` fetches trained weights).
        image_size: size of the images; None: that for which the backbone was made.
        at: module of the backbone whose output is the feature map; None: the last one.
        per_class: number of prototypes of each class.
        channels: channels of the prototypes; None: as many as the map has.
        size: size of the prototypes, in positions of the map.
        add_on: see `PrototypeNetwork`.
        similarity: see `similarity_maps`.

    Raises:
        RequestError: see `PrototypeNetwork` and `FeatureMap`.
    """
    from secateur.models.building import input_shape
    from secateur.models.opening import open_network
    from secateur.models.settings import ModelSettings

    arguments = dict(backbone_arguments or {})
    network = open_network(ModelSettings(name=backbone, arguments=arguments), in_channels=in_channels).model
    planes, height, width = input_shape(network)
    if image_size is not None:
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    features = FeatureMap(network, torch.zeros(1, planes, height, width), at)
    return PrototypeNetwork(features, num_classes, per_class, channels, (size[0], size[1]), add_on, similarity)
