"""Outputs of the unpruned network at some positions of its layers: the targets of a refit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from secateur.surgery.passes import Origin, Site, Watcher, channel_dim

_ROWS, _ROWS_PER_INPUT = 20_000, 4
"""Positions over all samples on which a layer is fitted: at least this number, or this multiple of its inputs."""


def space_of(output: torch.Tensor, dim: int) -> int:
    """Number of positions of each item, in an output with channels along ``dim``."""
    return math.prod(output.shape[2:] if dim == 1 else output.shape[1:-1])


@dataclass(frozen=True)
class Positions:
    """Randomly drawn positions in outputs, the same number for each item and the same positions for both networks.

    Attributes:
        item: number of items on all ranks.
        space: number of positions of each item.
        count: number of positions that are drawn of these.
        first: index of this rank's first item among all.
    """

    item: int
    space: int
    count: int
    first: int = 0

    @classmethod
    def of(cls, module: nn.Module, output: torch.Tensor, items: int, first: int = 0) -> Positions:
        """Positions for a layer's output, with ``items`` on all ranks, of which ``first`` is this rank's first."""
        space = space_of(output, channel_dim(module))
        inputs = math.prod(module.get_parameter("weight").shape[1:])
        least = max(_ROWS, _ROWS_PER_INPUT * inputs)
        return cls(items, space, min(space, math.ceil(least / items)), first)

    @cached_property
    def _base(self) -> torch.Tensor:
        return torch.randperm(self.space, generator=torch.Generator().manual_seed(self.space))[: self.count]

    def index(self, begin: int, end: int) -> torch.Tensor:
        """Positions of some of this rank's items, [items, count]: one draw, shifted from item to item."""
        if self.count == self.space:
            return torch.arange(self.space).expand(end - begin, -1)
        shifts = (torch.arange(self.first + begin, self.first + end) * 7919) % self.space
        return (self._base[None, :] + shifts[:, None]) % self.space

    def rows(self, output: torch.Tensor, dim: int, begin: int) -> torch.Tensor:
        """Values of an output at these positions, [items, count, channels]."""
        flat = output.movedim(dim, -1).flatten(1, -2) if output.ndim > 2 else output[:, None, :]
        index = self.index(begin, begin + len(flat)).to(flat.device)
        return flat.gather(1, index[..., None].expand(-1, -1, flat.shape[-1]))


class Goals(Watcher):
    """Outputs of the unpruned network at some positions, for the channels that stay.

    Args:
        sites: layers to be refitted.
        kept: indices of the channels that stay, for layers from which some are removed.
        samples: number of samples in all batches of all ranks.
        first: index of this rank's first sample among these.
    """

    def __init__(self, sites: dict[str, Site], kept: dict[str, torch.Tensor], samples: int, first: int = 0) -> None:
        self.sites, self._kept, self._samples, self._first = sites, kept, samples, first
        self.positions: dict[str, Positions] = {}
        self._rows: dict[str, list[torch.Tensor]] = {}
        self._dims: dict[str, int] = {}

    def layer(self, name: str, module: nn.Module, x: torch.Tensor, output: torch.Tensor) -> None:
        """See `Watcher`."""
        site = self.sites.get(name)
        if site is None:
            return
        if name not in self.positions:
            items, first = self._samples * site.items, self._first * site.items
            self.positions[name] = Positions.of(module, output, items, first)
            self._dims[name] = channel_dim(module)
        if site.chain is None:
            self._add(name, output)

    def sum(self, origin: Origin, whole: torch.Tensor, other: torch.Tensor) -> None:
        """See `Watcher`."""
        site = self.sites.get(origin.layer)
        if site is not None and site.chain == origin.chain:
            self._add(origin.layer, whole)

    def _add(self, name: str, output: torch.Tensor) -> None:
        parts = self._rows.setdefault(name, [])
        rows = self.positions[name].rows(output, self._dims[name], sum(map(len, parts)))
        parts.append(rows if name not in self._kept else rows[..., self._kept[name].to(rows.device)])

    def rows(self, name: str) -> torch.Tensor | None:
        """Take the outputs of a layer, [items, count, channels that stay]; None where there are none."""
        parts = self._rows.pop(name, None)
        return None if parts is None else torch.cat(parts)
