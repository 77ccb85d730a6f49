"""The time of a network with some of its units gone, predicted from measured layers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from secateur.selection.timing import LatencyTable, for_batch, output_elements, resized, shared_table
from secateur.structure import Structure
from secateur.structure.groups import Call

ROUNDINGS = (1, 4, 8, 16, 32)
_WIDEST = 3
_NO_WORSE = 1.05


@dataclass(frozen=True, eq=False)
class LatencyModel:
    """Predicted time of a pruned network: ``t(keep) = Σ t(call) + rest · outputs(keep) / outputs(all)``.

    The sum runs over the weighted layers (and products of activations) as they are after the removal, each by a
    `LatencyTable`. The rest (norms, activation functions, sums, overhead) is what one measurement of the whole network
    takes beyond its layers; it shrinks with the number of layer outputs. Without that measurement the rest is 0.

    Attributes:
        structure: of the network.
        table: times of its layers.
        rest_ms: milliseconds of the unpruned network beyond its layers.
    """

    structure: Structure
    table: LatencyTable
    rest_ms: float = 0.0

    @classmethod
    def by_table(cls, structure: Structure) -> LatencyModel:
        """By the layers alone: batches of 8, threads as set, on the CPU."""
        return cls(structure, shared_table())

    def calibrated(self, whole_ms: float) -> LatencyModel:
        """The same, with the rest taken from the measured milliseconds of the unpruned network."""
        layers = sum(self.layers(None).values())
        return replace(self, rest_ms=max(0.0, whole_ms - layers))

    def moved(self, structure: Structure) -> LatencyModel:
        """For the same network after surgery, traced anew: the rest per layer output stays."""
        other = replace(self, structure=structure)
        return replace(other, rest_ms=self.rest_ms * other._all_outputs / self._all_outputs)

    def layers(self, keep: np.ndarray | None) -> dict[str, float]:
        """Milliseconds per layer name; layers that run more than once are added up."""
        found: dict[str, float] = {}
        for call in self._calls(keep):
            name = call.name or "a product of activations"
            found[name] = found.get(name, 0.0) + self.table.time(call)
        return found

    def milliseconds(self, keep: np.ndarray | None = None) -> float:
        """Predicted time of a batch with only the units where ``keep`` [U] is true; None: all."""
        return sum(self.layers(keep).values()) + self.rest_ms * self._outputs(keep) / self._all_outputs

    def share(self, keep: np.ndarray) -> float:
        """Predicted share of the unpruned network's time."""
        return self.milliseconds(keep) / self._whole_ms

    @cached_property
    def _whole_ms(self) -> float:
        return self.milliseconds()

    @cached_property
    def _all_outputs(self) -> int:
        return self._outputs(None)

    def _outputs(self, keep: np.ndarray | None) -> int:
        return sum(output_elements(call) for call in self._calls(keep))

    def unit_costs(self, keep: np.ndarray) -> np.ndarray:
        """Milliseconds that each unit costs at the margin, [U].

        Times have steps and noise, so all units of a group get the mean over the next quarter of the group. No unit is
        free: each costs at least a hundredth of what units cost on average.
        """
        now = self.milliseconds(keep)
        costs = np.empty(self.structure.num_units)
        for group in self.structure.groups:
            present = group.first + np.flatnonzero(keep[group.units])
            less = keep.copy()
            less[present[: max(1, len(present) // 4)]] = False
            gone = int(keep.sum() - less.sum())
            # a group of one unit stays; what it would save can not be had
            costs[group.units] = (now - self.milliseconds(less)) / gone if len(present) > 1 else 0.0
        return np.maximum(costs, 0.01 * now / max(1, int(keep.sum())))

    def round_to(self) -> int:
        """The multiple that channel counts should have on this machine.

        On the three widest plain convolutions (linear layers, where there are none) the time per multiply-accumulate
        is measured at counts between half and all of the width that are odd multiples of r, for r in 1, 4, 8, 16, 32;
        the smallest r is taken that no larger one betters by more than 5 %. It is at most a quarter of the median
        group's size, so that groups can still shrink.
        """
        sizes = [group.size for group in self.structure.groups]
        allowed = [r for r in ROUNDINGS if r <= max(1.0, float(np.median(sizes)) / 4)]
        convolutions = [c for c in self._calls(None) if c.op == "convolution" and c.options["groups"] == 1]
        calls = convolutions or [c for c in self._calls(None) if c.op == "linear"]
        distinct = {(c.input_shape, c.weight_shape): c for c in calls}
        widest = sorted(distinct.values(), key=lambda c: -min(c.weight_shape[:2]))[:_WIDEST]
        if not widest:
            return 1
        rates = {r: float(np.mean([self._rate(call, r) for call in widest])) for r in allowed}
        return next(r for r in allowed if rates[r] <= _NO_WORSE * min(v for s, v in rates.items() if s >= r))

    def _rate(self, call: Call, multiple: int) -> float:
        """Nanoseconds per pair of channels and position, mean over three odd multiples of ``multiple``."""
        width = min(call.weight_shape[:2])
        found = []
        for share in (0.55, 0.7, 0.85):
            count = max(1, round((share * width / multiple - 1) / 2) * 2 + 1) * multiple
            found.append(self.table.measured(resized(call, (count, count))) / count**2)
        return float(np.mean(found))

    def _calls(self, keep: np.ndarray | None) -> list[Call]:
        example = _samples(self.structure.inputs) or 1
        return [for_batch(call, example, self.table.batch) for call in self.structure.calls(keep)]


def _samples(described: Any) -> int | None:
    """Samples of the example input that a network was traced with."""
    if isinstance(described, dict) and described.get("shape"):
        return int(described["shape"][0])
    parts = described.get("dict", {}).values() if isinstance(described, dict) else described
    found = (_samples(part) for part in parts) if isinstance(described, (dict, list)) else ()
    return next((samples for samples in found if samples), None)
