"""Sizes in a module's own code, and what they become when units are removed.

A module is left as it is when its code gives the right sizes by itself. Otherwise its integer attributes get new
values where that is enough (``num_heads``), and the single calls that name other sizes are corrected. Only where
neither is possible, for instance where the code computes a weight, is the module rewritten as its recorded steps.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn
from torch.nn.modules.conv import _ConvNd

from secateur.structure import attention
from secateur.structure.attention import HEADS, Heads
from secateur.structure.corrected import corrections_of, plain_function
from secateur.structure.corrections import Correction
from secateur.structure.edited import own_class
from secateur.structure.groups import stays
from secateur.structure.naming import comparison_of
from secateur.structure.scopes import CONVOLUTIONS, Condition, Factor, Scope, Step, Value, find, key_of, needed
from secateur.structure.sizes import SIZES, Attributes, Shaped, Site, Units, is_product, normalised
from secateur.structure.source import text_of

WRITTEN = "_secateur_code"
"""Attribute in which a module keeps the steps that it runs instead of its class's code."""

_BY_ATTRIBUTE: tuple[tuple[type, frozenset[str]], ...] = (
    (_ConvNd, CONVOLUTIONS),
    (nn.LayerNorm, frozenset({"layer_norm"})),
    (nn.GroupNorm, frozenset({"group_norm"})),
)
if hasattr(nn, "RMSNorm"):
    _BY_ATTRIBUTE = (*_BY_ATTRIBUTE, (nn.RMSNorm, frozenset({"rms_norm"})))


@dataclass(frozen=True, eq=False)
class ModuleCode:
    """What one module's own code did in one call.

    Attributes:
        path: path of the module.
        steps: its calls; output: what it returned.
        broken: why it cannot be rewritten; empty where it can.
        shapes: shapes and units of tensors, by reference.
        outs: per step, shapes and units of the tensors that it returned.
        baked: results of steps that can replace parameters from which they are computed, by parameter.
        replaced: all parameters from which these results are computed.
        factors: sizes that the code uses as factors.
        conditions: sizes that it compares.
        is_attention: whether it is PyTorch's attention module, which is replaced as a whole.
        is_written: whether the module runs recorded steps already.
        by_attribute: functions whose sizes surgery sets as attributes of the layer's class.
        heads: sizes of an attention module that was pruned before; corrected: corrections that the code already has.
        text: hash of the source text of its ``forward``; empty where there is none.
        given: the arguments of the call, as `secateur.structure.calls.describe` gives them.
        compares_lengths: whether it compares sizes that no pruning changes, as lengths of sequences.
    """

    path: str
    steps: tuple[Step, ...]
    output: Value
    broken: str
    shapes: Mapping[str, Shaped]
    outs: tuple[Mapping[tuple[Any, ...], Shaped], ...]
    baked: Mapping[str, Value]
    replaced: tuple[str, ...]
    factors: tuple[Factor, ...]
    conditions: tuple[Condition, ...]
    is_attention: bool
    is_written: bool
    by_attribute: frozenset[str]
    heads: Heads | None
    corrected: tuple[Correction, ...]
    text: str
    given: Any
    compares_lengths: bool

    @classmethod
    def of(cls, scope: Scope, units: Callable[[Any], Units]) -> ModuleCode:
        """Summarise a recorded call; ``units`` turns nodes of dimensions into units."""

        def shaped(recorded: tuple[tuple[int, ...], Any]) -> Shaped:
            return Shaped(recorded[0], units(recorded[1]))

        module = scope.module
        written = WRITTEN in module.__dict__
        return cls(
            scope.path,
            tuple(scope.steps),
            scope.output,
            scope.broken,
            {key: shaped(recorded) for key, recorded in scope.shapes.items()},
            tuple({at: shaped(recorded) for at, recorded in step.outs.items()} for step in scope.steps),
            dict(scope.baked),
            tuple(scope.replaced),
            tuple(scope.factors),
            tuple(scope.conditions),
            isinstance(module, nn.MultiheadAttention) and not written,
            written,
            _by_attribute(scope),
            module.__dict__.get(HEADS),
            corrections_of(module),
            _forward_text(module),
            scope.given,
            scope.compares_lengths,
        )

    def site(self, number: int | None, keep: np.ndarray, attributes: Attributes) -> Site:
        """A step in a network that keeps some units; for ``number`` None, the module without a step."""
        step, outs = (Step("", [], {}, {}), {}) if number is None else (self.steps[number], self.outs[number])
        return Site(step, self.shapes, outs, keep, attributes)

    def corrections(self, keep: np.ndarray, attributes: Attributes) -> dict[int, Step]:
        """Steps whose sizes would be wrong, with the right ones, by number."""
        fixed_steps = {}
        for number, step in enumerate(self.steps):
            name = step.target.rpartition(".")[2]
            handler = SIZES.get(name)
            if handler is None or name in self.by_attribute or not step.args or (self.is_attention and _replaced(step)):
                continue
            fixed = handler(self.site(number, keep, attributes))
            if fixed is not None:
                fixed_steps[number] = fixed
        return fixed_steps

    def masked(self, keep: np.ndarray, alive: np.ndarray, attributes: Attributes) -> dict[str, Any] | None:
        """The steps for a masked network; None when the module can stay as it is.

        Norms run over the units that stay, and computed weights replace their parameters.

        Args:
            keep: units that stay.
            alive: units that the network has before: all, or those that earlier pruning left.
            attributes: integer attributes of the network as it is.
        """
        fixed: dict[int, Step] = {}
        for number, step in enumerate(self.steps):
            name = step.target.rpartition(".")[2]
            if name in ("layer_norm", "rms_norm", "group_norm"):
                stay, there = (normalised(self.site(number, units, attributes), name) for units in (keep, alive))
                if stay is not None and there is not None and not stay[there].all():
                    kept = [int(i) for i in np.flatnonzero(stay[there])]
                    fixed[number] = Step(f"secateur.{name}", step.args, {**step.kwargs, "kept": kept}, step.outs)
        if not fixed and (not self.bakes(keep) or self.bakes(alive)):
            return None
        return self.written({**self.corrections(alive, attributes), **fixed}, attributes)

    @property
    def open_given(self) -> Any:
        """The arguments of the call, without the lengths of dimensions that consist of units."""

        def opened(key: Any, value: Any) -> Any:
            tensor = self.shapes.get(key_of({"in": key}))
            if tensor is None or not isinstance(value, dict) or "shape" not in value:
                return value
            pairs = zip(value["shape"], tensor.units, strict=True)
            return {**value, "shape": [size if units is None else None for size, units in pairs]}

        positional, named = self.given
        by_name = {name: opened(name, value) for name, value in named["dict"].items()}
        return [[opened(number, value) for number, value in enumerate(positional)], {"dict": by_name}]

    def is_written_as(self, code: Mapping[str, Any], fixed: Mapping[int, Step]) -> bool:
        """Whether a module rewritten with this code does what this call did."""
        if self.broken:
            return False
        own = self.written(fixed, {})
        return all(json.dumps(own[key]) == json.dumps(code[key]) for key in ("steps", "output"))

    def bakes(self, keep: np.ndarray) -> bool:
        """Whether units of a computed weight are removed."""
        tensors = [self.shapes[key_of(reference)] for reference in self.baked.values()]
        return any(tensor.after(keep) != tensor.shape for tensor in tensors)

    def respelled_heads(self, keep: np.ndarray) -> Heads | None:
        """The sizes that PyTorch's attention module gets; None when it can stay as it is."""
        if not self.is_attention or all(tensor.after(keep) == tensor.shape for tensor in self.shapes.values()):
            return None
        last = [n for n, step in enumerate(self.steps) if step.target.endswith(".unflatten") and _replaced(step)][-3:]
        query = self.outs[last[0]][()]
        unit = query.units[2]
        stay = np.ones(query.shape[2], bool) if unit is None else stays(unit, keep)
        heads = Heads(tuple(int(head) for head in np.flatnonzero(stay)), query.shape[2], query.shape[3])
        return heads if self.heads is None else self.heads.then(heads)

    def changed_factors(self, keep: np.ndarray, attributes: Attributes) -> list[Factor]:
        """Factors that would change with the sizes of a smaller network."""
        site = self.site(None, keep, attributes)
        own = [f for f in self.factors if not (self.is_attention and _replaced(f))]
        return [factor for factor in own if site.now(factor.size) != site.was(factor.size)]

    def changed_conditions(self, keep: np.ndarray, attributes: Attributes) -> list[Condition]:
        """Comparisons whose outcome changes with the sizes of a smaller network."""
        site = self.site(None, keep, attributes)

        def outcome(condition: Condition, read: Callable[[Value], Any]) -> Any:
            left, right = read(condition.left), read(condition.right)
            if condition.name in ("text", "number", "bool"):
                return bool(left) if condition.name == "bool" else left
            return getattr(operator, condition.name)(left, right)

        def changed(condition: Condition) -> bool:
            """Also true where the outcome is the same here, but would change at other lengths that are compared."""
            # whether a dimension is empty does not depend on how many of its units are removed
            empty = condition.right in (0, None) and is_product(condition.left)
            sides = [] if empty else [condition.left, condition.right]
            differs = any(site.now(side) != site.was(side) for side in sides)
            return outcome(condition, site.now) != outcome(condition, site.was) or (
                differs and any(map(site.varies, sides))
            )

        return [condition for condition in self.conditions if changed(condition)]

    def stuck_conditions(self, keep: np.ndarray, attributes: Attributes) -> list[Condition]:
        """Changed comparisons that cannot be corrected to have the outcome that they had."""
        site = self.site(None, keep, attributes)
        return [c for c in self.changed_conditions(keep, attributes) if comparison_of(site, c) is None]

    def wishes(self, keep: np.ndarray) -> Iterable[tuple[tuple[str, str], int, int]]:
        """Attributes, with their value and the one that each use in the code needs: ((path, name), was, value)."""
        fixed = self.corrections(keep, {})
        for number, step in enumerate(self.steps):
            right = fixed.get(number, step)
            yield from _attribute_pairs([step.args, step.kwargs], [right.args, right.kwargs])
        for value in (*(f.size for f in self.factors), *(v for c in self.conditions for v in (c.left, c.right))):
            yield from _attribute_pairs(value, value)

    def written(self, fixed: Mapping[int, Step], attributes: Attributes) -> dict[str, Any]:
        """The steps with right sizes, as JSON values."""
        if not self.baked:
            return {
                **_lines(self, range(len(self.steps)), fixed, attributes),
                "output": _settled(self.output, attributes),
                "given": self.open_given,
                "lengths": self.compares_lengths,
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
        serves = {"given": self.open_given, "lengths": self.compares_lengths}
        return {**lines, **serves, "output": output, "baked": baked, "dropped": sorted(gone)}


def _replaced(step: Step | Factor) -> bool:
    """Whether a step belongs to PyTorch's attention, which is replaced as a whole."""
    return any(code.co_filename == attention.__file__ for code, _ in step.frames)


def _forward_text(module: nn.Module) -> str:
    """Hash of the text of a module's own code; empty where there is none, or where an instance has its own."""
    if "forward" in module.__dict__:
        return ""
    kind: Any = own_class(module)
    function = plain_function(kind.forward)
    text = None if function is None else text_of(function.__code__)
    return "" if text is None else text.hash


def _by_attribute(scope: Scope) -> frozenset[str]:
    module = scope.module
    own = WRITTEN not in module.__dict__ and not scope.baked and module._parameters.get("weight") is not None
    return frozenset().union(*(names for kind, names in _BY_ATTRIBUTE if own and isinstance(module, kind)))


def _lines(
    code: ModuleCode, numbers: Iterable[int], fixed: Mapping[int, Step], attributes: Attributes
) -> dict[str, Any]:
    """The steps with these numbers, renumbered from 0."""
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


def _attribute_pairs(old: Any, new: Any) -> Iterable[tuple[tuple[str, str], int, int]]:
    """Attributes in recorded arguments, each with its value and the value that it must have there."""
    if isinstance(old, dict) and "attr" in old:
        if isinstance(new, int):
            yield (old["attr"][0], old["attr"][1]), old["is"], new
        elif new == old:
            yield (old["attr"][0], old["attr"][1]), old["is"], old["is"]
    elif isinstance(old, dict) and "op" not in old and isinstance(new, dict):
        for key in old.keys() & new.keys():
            yield from _attribute_pairs(old[key], new[key])
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for a, b in zip(old, new, strict=True):
            yield from _attribute_pairs(a, b)


def _settled(value: Value, attributes: Attributes) -> Value:
    """A recorded value in which attributes are numbers."""
    if isinstance(value, dict):
        if "corrected" in value:
            return value["is"]
        if "attr" in value:
            return attributes.get(tuple(value["attr"]), value["is"])
        return {key: _settled(item, attributes) for key, item in value.items() if key != "is"}
    return [_settled(item, attributes) for item in value] if isinstance(value, list) else value
