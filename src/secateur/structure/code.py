"""Sizes in a module's own code, and what they become when units go.

A recorded module is left as it is when its code gives the right sizes by itself, gets new values for its integer
attributes when that is enough (``num_heads``), and otherwise is written down as steps with the right sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn
from torch.nn.modules.conv import _ConvNd

from secateur.structure.recording import Scope, Step, Value, find, key_of, needed
from secateur.structure.sizes import CONVOLUTIONS, SIZES, Attributes, Shaped, Site, Units, normalised

WRITTEN = "_secateur_code"
"""Where a module keeps the steps that it runs instead of its class's code."""

_BY_ATTRIBUTE: tuple[tuple[type, frozenset[str]], ...] = (
    (_ConvNd, CONVOLUTIONS),
    (nn.LayerNorm, frozenset({"layer_norm"})),
    (nn.GroupNorm, frozenset({"group_norm"})),
)
if hasattr(nn, "RMSNorm"):
    _BY_ATTRIBUTE = (*_BY_ATTRIBUTE, (nn.RMSNorm, frozenset({"rms_norm"})))


@dataclass(frozen=True, eq=False)
class ModuleCode:
    """What one module's own code did.

    Attributes:
        path: of the module.
        steps: its calls; output: what it returned.
        broken: why it cannot be written down anew; empty: it can.
        shapes: of tensors, by reference.
        outs: per step, of the tensors it gave.
        baked: results of steps that can take the place of parameters they are computed from, by parameter.
        replaced: all parameters that they are computed from.
        factors: sizes that the code makes factors of.
        respelled: whether the steps stand for code that has other sizes in it (PyTorch's attention module).
        by_attribute: functions whose sizes surgery sets as attributes of the layer's class.
    """

    path: str
    steps: tuple[Step, ...]
    output: Value
    broken: str
    shapes: Mapping[str, Shaped]
    outs: tuple[Mapping[tuple[Any, ...], Shaped], ...]
    baked: Mapping[str, Value]
    replaced: tuple[str, ...]
    factors: tuple[Value, ...]
    respelled: bool
    by_attribute: frozenset[str]

    @classmethod
    def of(cls, scope: Scope, units: Callable[[Any], Units]) -> ModuleCode:
        """From a recorded call; ``units`` turns nodes of dimensions into units."""

        def shaped(found: tuple[tuple[int, ...], Any]) -> Shaped:
            return Shaped(found[0], units(found[1]))

        return cls(
            scope.path,
            tuple(scope.steps),
            scope.output,
            scope.broken,
            {key: shaped(found) for key, found in scope.shapes.items()},
            tuple({at: shaped(found) for at, found in step.outs.items()} for step in scope.steps),
            dict(scope.baked),
            tuple(scope.replaced),
            tuple(scope.factors),
            isinstance(scope.module, nn.MultiheadAttention) and WRITTEN not in scope.module.__dict__,
            _by_attribute(scope),
        )

    def _site(self, number: int, keep: np.ndarray, attributes: Attributes) -> Site:
        return Site(self.steps[number], self.shapes, self.outs[number], keep, attributes)

    def corrections(self, keep: np.ndarray, attributes: Attributes) -> dict[int, Step]:
        """Steps whose sizes would be wrong, as they must be."""
        found = {}
        for number, step in enumerate(self.steps):
            name = step.target.rpartition(".")[2]
            handler = SIZES.get(name)
            if handler is None or name in self.by_attribute or not step.args:
                continue
            fixed = handler(self._site(number, keep, attributes))
            if fixed is not None:
                found[number] = fixed
        return found

    def masked(self, keep: np.ndarray, alive: np.ndarray, attributes: Attributes) -> dict[str, Any] | None:
        """The steps for a masked network; None: they can stay as they are.

        Norms run over what stays, and computed weights take the place of their parameters.

        Args:
            keep: units that stay.
            alive: units that the network has before: all, or what earlier pruning left.
            attributes: of the network as it is.
        """
        fixed: dict[int, Step] = {}
        for number, step in enumerate(self.steps):
            name = step.target.rpartition(".")[2]
            if name in ("layer_norm", "rms_norm", "group_norm"):
                stay, there = (normalised(self._site(number, units, attributes), name) for units in (keep, alive))
                if stay is not None and there is not None and not stay[there].all():
                    kept = [int(i) for i in np.flatnonzero(stay[there])]
                    fixed[number] = Step(f"secateur.{name}", step.args, {**step.kwargs, "kept": kept}, step.outs)
        if not fixed and (not self.bakes(keep) or self.bakes(alive)):
            return None
        return self.written({**self.corrections(alive, attributes), **fixed}, attributes)

    def bakes(self, keep: np.ndarray) -> bool:
        """Whether units go that a computed weight belongs to."""
        tensors = [self.shapes[key_of(reference)] for reference in self.baked.values()]
        return any(tensor.after(keep) != tensor.shape for tensor in tensors)

    def must_change(self, keep: np.ndarray, attributes: Attributes) -> bool:
        """Whether the code has to be written anew although its sizes are right."""
        if self.bakes(keep):
            return True
        if self.respelled and any(tensor.after(keep) != tensor.shape for tensor in self.shapes.values()):
            return True
        site = Site(Step("", [], {}, {}), self.shapes, {}, keep, attributes)
        return any(site.now(size) != site.was(size) for size in self.factors)

    def wishes(self, keep: np.ndarray) -> Iterable[tuple[tuple[str, str], int]]:
        """Values that attributes would need for sizes that they give directly: ((path, name), value)."""
        for number, fixed in self.corrections(keep, {}).items():
            yield from _attribute_pairs(
                [self.steps[number].args, self.steps[number].kwargs], [fixed.args, fixed.kwargs]
            )

    def written(self, fixed: Mapping[int, Step], attributes: Attributes) -> dict[str, Any]:
        """The steps with right sizes, as JSON values."""
        if not self.baked:
            return {
                **_lines(self, range(len(self.steps)), fixed, attributes),
                "output": _settled(self.output, attributes),
            }
        places = {repr(reference): {"state": name} for name, reference in self.baked.items()}
        placed = ModuleCode(**{**self.__dict__, "steps": tuple(_placed(step, places) for step in self.steps)})
        fixed = {number: _placed(step, places) for number, step in fixed.items()}
        left = sorted(needed(list(placed.steps), self.output))
        gone = set(self.replaced)
        for number in left:
            step = fixed.get(number, placed.steps[number])
            gone -= set(find([step.args, list(step.kwargs.values())], "state"))
        baked = {}
        for name, reference in self.baked.items():
            numbers = sorted(needed(list(self.steps), reference))
            baked[name] = {**_lines(self, numbers, {}, {}), "output": _renumbered(reference, numbers)}
        lines = _lines(placed, left, fixed, attributes)
        output = _renumbered(_settled(self.output, attributes), left)
        return {**lines, "output": output, "baked": baked, "dropped": sorted(gone)}


def _by_attribute(scope: Scope) -> frozenset[str]:
    module = scope.module
    own = WRITTEN not in module.__dict__ and not scope.baked and module._parameters.get("weight") is not None
    return frozenset().union(*(names for kind, names in _BY_ATTRIBUTE if own and isinstance(module, kind)))


def _lines(
    code: ModuleCode, numbers: Iterable[int], fixed: Mapping[int, Step], attributes: Attributes
) -> dict[str, Any]:
    """Steps of these numbers, counted anew."""
    numbers = list(numbers)
    lines = []
    for number in numbers:
        step = fixed.get(number, code.steps[number])
        args, kwargs = _settled(step.args, attributes), _settled(step.kwargs, attributes)
        lines.append({"call": step.target, "args": _renumbered(args, numbers), "kwargs": _renumbered(kwargs, numbers)})
    return {"steps": lines}


def _renumbered(value: Value, numbers: list[int]) -> Value:
    if isinstance(value, dict):
        return {k: numbers.index(v) if k == "$" else _renumbered(v, numbers) for k, v in value.items()}
    return [_renumbered(item, numbers) for item in value] if isinstance(value, list) else value


def _placed(step: Step, places: Mapping[str, Value]) -> Step:
    def placed(value: Value) -> Value:
        if repr(value) in places:
            return places[repr(value)]
        if isinstance(value, dict):
            return {key: placed(item) for key, item in value.items()}
        return [placed(item) for item in value] if isinstance(value, list) else value

    return Step(step.target, placed(step.args), placed(step.kwargs), step.outs)


def changes(
    codes: Iterable[ModuleCode], keep: np.ndarray
) -> tuple[dict[tuple[str, str], int], dict[str, dict[str, Any]], dict[str, ModuleCode]]:
    """What modules need so that their code gives the right sizes when only some units stay.

    Returns:
        New values of integer attributes by (path, name); modules written down anew, by path; modules that would have to
        be but cannot.
    """
    codes = list(codes)
    wishes: dict[tuple[str, str], set[int]] = {}
    for code in codes:
        for key, wanted in code.wishes(keep):
            wishes.setdefault(key, set()).add(wanted)
    attributes = {key: next(iter(values)) for key, values in wishes.items() if len(values) == 1}
    written: dict[str, dict[str, Any]] = {}
    impossible: dict[str, ModuleCode] = {}
    for code in codes:
        fixed = code.corrections(keep, attributes)
        if not fixed and not code.must_change(keep, attributes):
            continue
        if code.broken:
            impossible[code.path] = code
            continue
        text = code.written(fixed, attributes)
        if written.setdefault(code.path, text) != text:
            impossible[code.path] = code
    return attributes, written, impossible


def _attribute_pairs(old: Any, new: Any) -> Iterable[tuple[tuple[str, str], int]]:
    if isinstance(old, dict) and "attr" in old:
        if isinstance(new, int):
            yield (old["attr"][0], old["attr"][1]), new
    elif isinstance(old, dict) and isinstance(new, dict):
        for key in old.keys() & new.keys():
            yield from _attribute_pairs(old[key], new[key])
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for a, b in zip(old, new, strict=True):
            yield from _attribute_pairs(a, b)


def _settled(value: Value, attributes: Attributes) -> Value:
    """With attributes as numbers."""
    if isinstance(value, dict):
        if "attr" in value:
            return attributes.get(tuple(value["attr"]), value["is"])
        return {key: _settled(item, attributes) for key, item in value.items() if key != "is"}
    return [_settled(item, attributes) for item in value] if isinstance(value, list) else value
