"""Predicts the time of a network without some of its units from measured layers."""

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
    takes in addition to its layers; it shrinks with the number of layer outputs. Without that measurement it is 0.

    Attributes:
        structure: structure of the network.
        table: times of its layers.
        rest_ms: milliseconds of the unpruned network in addition to its layers.
    """

    structure: Structure
    table: LatencyTable
    rest_ms: float = 0.0

    @classmethod
    def by_table(cls, structure: Structure) -> LatencyModel:
        """A model without the rest: batches of 8, threads as set, on the CPU."""
        return cls(structure, shared_table())

    def calibrated(self, whole_ms: float) -> LatencyModel:
        """The same model, with the rest from the measured milliseconds of the unpruned network."""
        layers = sum(self.layers(None).values())
        return replace(self, rest_ms=max(0.0, whole_ms - layers))

    def moved(self, structure: Structure) -> LatencyModel:
        """The model for the same network after surgery, traced again; the rest per layer output stays the same."""
        other = replace(self, structure=structure)
        return replace(other, rest_ms=self.rest_ms * other._all_outputs / self._all_outputs)

    def layers(self, keep: np.ndarray | None) -> dict[str, float]:
        """Milliseconds per layer name; layers that run more than once are added up."""
        by_layer: dict[str, float] = {}
        for call in self._calls(keep):
            name = call.name or "a product of activations"
            by_layer[name] = by_layer.get(name, 0.0) + self.table.time(call)
        return by_layer

    def milliseconds(self, keep: np.ndarray | None = None) -> float:
        """Predicted time of a batch with only the units where ``keep`` [U] is true; None: all units."""
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
        """Marginal milliseconds of each unit, [U].

        Times have steps and noise, so all units of a group get the mean over the next quarter of the group. No unit is
        free: each costs at least a hundredth of what units cost on average.
        """
        total = self.milliseconds(keep)
        costs = np.empty(self.structure.num_units)
        for group in self.structure.groups:
            present = group.first + np.flatnonzero(keep[group.units])
            less = keep.copy()
            less[present[: max(1, len(present) // 4)]] = False
            gone = int(keep.sum() - less.sum())
            # the only unit of a group stays and saves nothing
            costs[group.units] = (total - self.milliseconds(less)) / gone if len(present) > 1 else 0.0
        return np.maximum(costs, 0.01 * total / max(1, int(keep.sum())))

    def round_to(self) -> int:
        """The multiple that channel counts should have on this machine.

        On the three widest plain convolutions (linear layers, where there are none) the time per multiply-accumulate
        is measured at counts between half and all of the width that are odd multiples of r, for r in 1, 4, 8, 16, 32;
        the result is the smallest r that no larger one improves by more than 5 %. It is at most a quarter of the median
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
        rates = []
        for share in (0.55, 0.7, 0.85):
            count = max(1, round((share * width / multiple - 1) / 2) * 2 + 1) * multiple
            rates.append(self.table.measured(resized(call, (count, count))) / count**2)
        return float(np.mean(rates))

    def _calls(self, keep: np.ndarray | None) -> list[Call]:
        example = _samples(self.structure.inputs) or 1
        return [for_batch(call, example, self.table.batch) for call in self.structure.calls(keep)]


def _samples(described: Any) -> int | None:
    """Number of samples in the example input with which a network was traced."""
    if isinstance(described, dict) and described.get("shape"):
        return int(described["shape"][0])
    parts = described.get("dict", {}).values() if isinstance(described, dict) else described
    counts = (_samples(part) for part in parts) if isinstance(described, (dict, list)) else ()
    return next((samples for samples in counts if samples), None)
