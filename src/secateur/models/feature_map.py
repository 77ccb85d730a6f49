"""A network up to its last feature map: convolutional channels over positions, or a transformer's tokens as patches.

Axes: N samples, D channels, H and W positions, T tokens.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from secateur.core.borrowing import borrowed
from secateur.core.errors import RequestError

Layout = Literal["channels-first", "channels-last", "tokens"]

# pooled maps do not count: a VGG at 224 pixels ends with one of the same size
_NO_MAPS = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Flatten)


@dataclass(frozen=True)
class MapPlace:
    """Where a network computes a feature map, and its layout.

    Attributes:
        module: name of the module whose output it is.
        layout: ``channels-first`` [N, D, H, W], ``channels-last`` [N, H, W, D], or ``tokens`` [N, T, D].
        channels: D.
        size: (H, W).
        inputs: (C, H, W) of the images for which this was determined.
        prefix: tokens before those of the patches, such as a class token.
    """

    module: str
    layout: Layout
    channels: int
    size: tuple[int, int]
    inputs: tuple[int, ...]
    prefix: int = 0


class FeatureMap(nn.Module):
    """A network that ends at one of its modules, whose output it returns as a map [N, D, H, W].

    The network's own code runs up to that module and no further, so that any module works, with any ``forward``.
    Modules after it are replaced by `torch.nn.Identity`, without their weights.

    Args:
        network: any module with one tensor as input; it is copied.
        example: inputs [N, C, H, W] of the size with which the network will be used.
        at: name of the module; None: the last one that returns a map or tokens.

    Raises:
        RequestError: when there is no such module, or it returns no map.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> features = FeatureMap(net, torch.zeros(1, 3, 9, 9))
        >>> features.place.module, features.place.size, features(torch.zeros(1, 3, 9, 9)).shape
        ('1', (4, 4), torch.Size([1, 8, 4, 4]))
    """

    def __init__(self, network: nn.Module, example: torch.Tensor, at: str | None = None) -> None:
        super().__init__()
        self.network = copy.deepcopy(network)
        self.place, needed = _located(self.network, example, at)
        _drop_others(self.network, needed | self._weights_used(example))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images [N, C, H, W] to their map [N, D, H', W']."""
        with _ending_at(self.network.get_submodule(self.place.module)):
            try:
                self.network(x)
            except _Reached as reached:
                return _as_map(reached.output, self.place)
        raise RequestError(f"module '{self.place.module}' was not reached in this call of the network")

    def _weights_used(self, example: torch.Tensor) -> frozenset[str]:
        """Modules on whose parameters the map depends; attention modules use those of layers that they never call."""
        named = {name: p for name, p in self.network.named_parameters() if p.is_floating_point()}
        with borrowed(self.network), torch.enable_grad():
            for parameter in named.values():
                parameter.requires_grad_(True)
            output = self(example)
            if not output.requires_grad:  # nothing with weights comes before the map
                return frozenset()
            gradients = torch.autograd.grad(output.sum(), list(named.values()), allow_unused=True)
        used = (name for name, g in zip(named, gradients, strict=True) if g is not None)
        return frozenset(name.rpartition(".")[0] for name in used)

    def straight(self) -> nn.Module:
        """The same network as a graph that ends at the map, because exporters cannot trace how `forward` stops early.

        Raises:
            RequestError: for code that `torch.fx` cannot trace.
        """
        from torchvision.models.feature_extraction import create_feature_extractor

        try:
            graph = create_feature_extractor(self.network, {self.place.module: "map"})
        except Exception as error:  # tracing runs the user's code, which may raise anything
            line = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise RequestError(
                f"the network up to '{self.place.module}' cannot be exported: torch.fx does not trace it ({line})"
            ) from error
        return _Straight(graph, self.place)

    def extra_repr(self) -> str:
        """Module and layout of the map."""
        return f"at={self.place.module!r}, layout={self.place.layout!r}"


def _as_map(output: torch.Tensor, place: MapPlace) -> torch.Tensor:
    """The module's output as [N, D, H, W]."""
    if place.layout == "channels-first":
        return output
    if place.layout == "channels-last":
        return output.permute(0, 3, 1, 2)
    patches = output[:, place.prefix :].transpose(1, 2)
    return patches.reshape(patches.shape[0], patches.shape[1], *place.size)


class _Straight(nn.Module):
    """See `FeatureMap.straight`."""

    def __init__(self, graph: nn.Module, place: MapPlace) -> None:
        super().__init__()
        self.graph = graph
        self.place = place

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images [N, C, H, W] to their map [N, D, H', W']."""
        return _as_map(self.graph(x)["map"], self.place)


class _Reached(Exception):  # not an error: stops the pass at the module
    def __init__(self, output: torch.Tensor) -> None:
        super().__init__()
        self.output = output


@contextlib.contextmanager
def _ending_at(module: nn.Module) -> Iterator[None]:
    def stop(_module: nn.Module, _inputs: Any, output: Any) -> None:
        raise _Reached(output)

    handle = module.register_forward_hook(stop)
    try:
        yield
    finally:
        handle.remove()


def _located(network: nn.Module, example: torch.Tensor, at: str | None) -> tuple[MapPlace, frozenset[str]]:
    """The position of the map, and the modules that run up to it."""
    names = {module: name for name, module in network.named_modules() if name}
    if at is not None and at not in names.values():
        raise RequestError(
            f"the network has no module '{at}' to end at; its last ones: {', '.join(list(names.values())[-5:])}"
        )
    begun: dict[str, None] = {}
    candidates: list[tuple[MapPlace, frozenset[str]]] = []

    def before(module: nn.Module, _inputs: Any) -> None:
        begun[names[module]] = None

    def after(module: nn.Module, _inputs: Any, output: Any) -> None:
        name = names[module]
        place = _place(name, output, example) if at in (None, name) and not isinstance(module, _NO_MAPS) else None
        if place is not None:
            candidates.append((place, frozenset(begun)))

    with borrowed(network), torch.no_grad():  # which removes hooks again
        for module in names:
            module.register_forward_pre_hook(before)
            module.register_forward_hook(after)
        network(example)
    if not candidates:
        what = "no module of the network gives" if at is None else f"module '{at}' does not give"
        raise RequestError(
            f"{what} a feature map [N, D, H, W] with several positions, or tokens [N, T, D], for inputs of "
            f"{list(example.shape[1:])}; give larger images, or name another module (at)"
        )
    return candidates[-1]


def _place(name: str, output: Any, example: torch.Tensor) -> MapPlace | None:
    if not isinstance(output, torch.Tensor) or output.shape[:1] != example.shape[:1]:
        return None
    inputs = tuple(example.shape[1:])
    height, width = example.shape[-2:]
    if output.ndim == 4:
        _, a, b, c = output.shape

        def stretched(rows: int, columns: int) -> float:
            """How much the map's aspect ratio differs from that of the image."""
            return abs(math.log(rows * width / (columns * height)))

        if stretched(a, b) < stretched(b, c):
            return MapPlace(name, "channels-last", c, (a, b), inputs) if a * b > 1 else None
        return MapPlace(name, "channels-first", a, (b, c), inputs) if b * c > 1 else None
    if output.ndim == 3:
        down = int(math.sqrt(output.shape[1] * height / width))
        across = round(down * width / height)
        if down * across > 1 and output.shape[1] - down * across <= _MOST_PREFIX:
            prefix = output.shape[1] - down * across
            return MapPlace(name, "tokens", output.shape[2], (down, across), inputs, prefix)
    return None


_MOST_PREFIX = 8
"""Class, distillation and register tokens."""


def _drop_others(network: nn.Module, needed: frozenset[str]) -> None:
    """Replace modules that do not run by `torch.nn.Identity`; containers of needed ones stay."""
    for name, module in list(network.named_modules()):
        if not name or name in needed or any(other.startswith(f"{name}.") for other in needed):
            continue
        parent, _, own = name.rpartition(".")
        if any(p.numel() for p in module.parameters()):
            setattr(network.get_submodule(parent), own, nn.Identity())
