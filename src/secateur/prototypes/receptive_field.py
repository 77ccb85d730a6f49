"""The pixels that a position of the feature map depends on, measured. Axes: H and W pixels, H' and W' positions."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from secateur.core.borrowing import borrowed
from secateur.core.errors import RequestError
from secateur.models.prototype_network import PrototypeNetwork
from secateur.prototypes.records import Box

_BATCH = 64


@dataclass(frozen=True)
class ReceptiveField:
    """Intervals of pixels, half open: ``rows[i]`` for row i of the feature map, ``columns`` likewise."""

    rows: tuple[tuple[int, int], ...]
    columns: tuple[tuple[int, int], ...]

    def box(self, position: tuple[int, int], size: tuple[int, int] = (1, 1)) -> Box:
        """Of a patch.

        Args:
            position: (row, column) of its first position.
            size: positions in each direction.
        """
        rows = self.rows[position[0] : position[0] + size[0]]
        columns = self.columns[position[1] : position[1] + size[1]]
        return Box(
            min(low for low, _ in rows),
            min(low for low, _ in columns),
            max(high for _, high in rows),
            max(high for _, high in columns),
        )


def receptive_field(network: PrototypeNetwork, shape: tuple[int, int, int]) -> ReceptiveField:
    """Which rows and columns of an image each row and column of the feature map depends on.

    An input that is not a number in one column makes every position not a number that depends on it: convolutions,
    pooling, norms and activations pass that on. Attention and squeeze-and-excitation look at the whole image, and so
    does their field. One pass for each row and column of the image.

    Args:
        network: comes back as it was.
        shape: (C, H, W) of the images.

    Raises:
        RequestError: where code does not pass on what is not a number, so that nothing can be said.

    Example:
        >>> from secateur.models import build
        >>> net = build("prototype-network", backbone="resnet20", at="conv1", per_class=1)
        >>> receptive_field(net, (3, 32, 32)).box((0, 10))
        Box(top=0, left=9, bottom=2, right=12)
    """
    channels, height, width = shape
    field = ReceptiveField(_intervals(network, shape, height, 2), _intervals(network, shape, width, 3))
    _check(network, shape, field)
    return field


def _intervals(
    network: PrototypeNetwork, shape: tuple[int, int, int], length: int, dim: int
) -> tuple[tuple[int, int], ...]:
    like = network.prototypes.weight
    touched = []
    # cuDNN's tiled convolutions may spread what is not a number over a tile
    with borrowed(network), torch.no_grad(), torch.backends.cudnn.flags(enabled=False):
        for lines in torch.arange(length).split(_BATCH):
            x = torch.zeros(len(lines), *shape, device=like.device, dtype=like.dtype)
            for sample, line in enumerate(lines):
                x[sample].select(dim - 1, int(line)).fill_(torch.nan)
            missing = network.feature_map(x).isnan().any(1)  # [lines, H', W']
            touched.append(missing.any(2 if dim == 2 else 1).cpu())
    depends = torch.cat(touched)  # [lines of the image, lines of the map]
    if not depends.any(0).all():
        raise _swallowed()
    first = depends.to(torch.uint8).argmax(0)
    last = length - depends.flip(0).to(torch.uint8).argmax(0)
    return tuple((int(a), int(b)) for a, b in zip(first, last, strict=True))


def _check(network: PrototypeNetwork, shape: tuple[int, int, int], field: ReceptiveField) -> None:
    """See on a random image that no pixel outside the field of the middle position has a gradient."""
    position = (len(field.rows) // 2, len(field.columns) // 2)
    box = field.box(position)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, *shape, generator=generator).to(network.prototypes.weight).requires_grad_(True)
    with borrowed(network), torch.enable_grad():
        value = network.feature_map(x)[0, :, position[0], position[1]].sum()
        (gradient,) = torch.autograd.grad(value, x)
    gradient[:, :, box.top : box.bottom, box.left : box.right] = 0
    if gradient.any():
        raise _swallowed()


def _swallowed() -> RequestError:
    return RequestError(
        "the receptive field cannot be measured: the network's code replaces values that are not numbers; leave out "
        "boxes of the receptive field (explain.boxes)"
    )
