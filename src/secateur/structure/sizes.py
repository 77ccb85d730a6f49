"""Functions whose arguments name sizes, and the right sizes after units are removed."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from secateur.structure.groups import stays
from secateur.structure.scopes import ARITHMETIC, CONVOLUTIONS, Step, Value, find, key_of

Units = tuple[np.ndarray | None, ...]
"""Per dimension: units [factors, size], or None where nothing can be removed."""
Attributes = Mapping[tuple[str, str], int]


@dataclass(frozen=True, eq=False)
class Shaped:
    """A tensor's shape, and the units along its dimensions."""

    shape: tuple[int, ...]
    units: Units

    def after(self, keep: np.ndarray) -> tuple[int, ...]:
        """Its shape when only some units stay."""
        return tuple(n if u is None else int(stays(u, keep).sum()) for n, u in zip(self.shape, self.units, strict=True))


UNKNOWN = -(2**62)
"""Stands for a number that the code's corrections do not cover."""


def original(value: Value) -> Value:
    """The value that code passes where surgery replaced it by another number."""
    while isinstance(value, dict) and "corrected" in value:
        value = value["corrected"]
    return value


@dataclass(frozen=True, eq=False)
class Site:
    """A step whose arguments may name sizes."""

    step: Step
    shapes: Mapping[str, Shaped]
    outs: Mapping[tuple[Any, ...], Shaped]
    keep: np.ndarray
    attributes: Attributes

    def now(self, value: Value) -> Any:
        """The value of a recorded integer in the smaller network."""
        if not isinstance(value, dict):
            return value
        if "corrected" in value:
            return value["is"] if self.given(value) == self.was(value["corrected"]) else UNKNOWN
        if "attr" in value:
            return self.attributes.get(tuple(value["attr"]), value["is"])
        if "size" in value:
            reference, dim = value["size"]
            return self.shapes[key_of(reference)].after(self.keep)[dim]
        if "op" in value:
            name, left, right = value["op"]
            try:
                return getattr(operator, name)(self.now(left), self.now(right))
            except ZeroDivisionError:
                return UNKNOWN
        return value.get("is")

    def given(self, value: Value) -> Any:
        """The value of a recorded integer in the smaller network before the corrections that the code runs with."""
        value = original(value)
        if isinstance(value, dict) and "tuple" in value:
            return tuple(map(self.given, value["tuple"]))
        return self.now(value)

    def was(self, value: Value) -> Any:
        """The value of a recorded integer in the traced network."""
        if not isinstance(value, dict):
            return value
        if "tuple" in value:
            return tuple(map(self.was, value["tuple"]))
        if "size" in value:
            reference, dim = value["size"]
            return self.shapes[key_of(reference)].shape[dim]
        if "op" in value:
            name, left, right = value["op"]
            return getattr(operator, name)(self.was(left), self.was(right))
        return value["is"]

    def varies(self, value: Value) -> bool:
        """Whether a size may differ from call to call: it comes from a dimension from which nothing can be removed."""
        return any(
            self.shapes[key_of(reference)].units[dim] is None for reference, dim in find(original(value), "size")
        )

    @staticmethod
    def dynamic(value: Value) -> bool:
        """Whether a size comes from a tensor or an input of the module."""
        return _dynamic(value)

    def shaped(self, reference: Value) -> Shaped | None:
        """Shape and units of a tensor argument."""
        return self.shapes.get(key_of(reference)) if isinstance(reference, dict) else None

    def out(self, *at: Any) -> Shaped | None:
        """Shape and units of a result."""
        return self.outs.get(at)

    def argument(self, index: int, name: str, default: Value = None) -> Value:
        """A positional or keyword argument."""
        return self.step.args[index] if len(self.step.args) > index else self.step.kwargs.get(name, default)

    def with_argument(self, index: int, name: str, value: Value) -> Step:
        """The step with another value for an argument."""
        args, kwargs = list(self.step.args), dict(self.step.kwargs)
        if len(args) > index:
            args[index] = value
        else:
            kwargs[name] = value
        return Step(self.step.target, args, kwargs, self.step.outs)


def normalised(site: Site, name: str) -> np.ndarray | None:
    """Which of the channels that a norm runs over together stay; None: it runs over groups, which are removed whole."""
    x = site.shaped(site.step.args[0])
    if x is None:
        return None
    if name == "group_norm":
        unit = x.units[1] if site.was(site.argument(1, "num_groups")) == 1 else None
    else:
        unit = x.units[-1]
    return None if unit is None else stays(unit, site.keep)


def listed(value: Value) -> list[Value]:
    """Items of a recorded tuple or list."""
    return list(value["tuple"] if isinstance(value, dict) and "tuple" in value else value)


def _like(value: Value, items: list[Value]) -> Value:
    return {"tuple": items} if isinstance(value, dict) else items


def _adjusted(site: Site, old: Value, wanted: int) -> Value:
    """A right size: where code multiplies or divides a size of a tensor (samples times heads), that stays in it."""
    old = original(old)
    if isinstance(old, dict) and "op" in old:
        name, left, right = old["op"]
        for kept in (left, right):
            if name == "mul" and _dynamic(kept) and wanted % max(1, site.now(kept)) == 0:
                return {"op": ["mul", kept, wanted // max(1, site.now(kept))]}
        if name == "floordiv" and _dynamic(left) and wanted and site.now(left) % wanted == 0:
            return {"op": ["floordiv", left, site.now(left) // wanted]}
    return wanted


def _dynamic(value: Value) -> bool:
    """Whether a size comes from a tensor or an input of the module."""
    value = original(value)
    if not isinstance(value, dict):
        return False
    return "size" in value or "in" in value or ("op" in value and any(map(_dynamic, value["op"][1:])))


def _right_sizes(site: Site, sizes: list[Value], out: Shaped, first: int) -> list[Value] | None:
    """Sizes for dimensions ``first`` on of the result; None when they are right as they are."""
    after = out.after(site.keep)
    fixed = list(sizes)
    for index, old in enumerate(sizes):
        dim = first + index
        if site.now(old) not in (-1, after[dim]):
            fixed[index] = _adjusted(site, old, after[dim])
    return fixed if fixed != sizes else None


def _reshape(site: Site) -> Step | None:
    out = site.out()
    spelled = site.step.args[1:] or [site.step.kwargs.get("shape", site.step.kwargs.get("size"))]
    if out is None or not spelled or (isinstance(spelled[0], dict) and "torch" in spelled[0]) or spelled[0] is None:
        return None
    packed = isinstance(spelled[0], list) or (isinstance(spelled[0], dict) and "tuple" in spelled[0])
    sizes = listed(spelled[0]) if packed else spelled
    if len(sizes) != len(out.shape):
        return None
    fixed = _right_sizes(site, sizes, out, 0)
    if fixed is None:
        return None
    args = [site.step.args[0], _like(spelled[0], fixed)] if packed else [site.step.args[0], *fixed]
    return Step(site.step.target, args, {}, site.step.outs)


def _unflatten(site: Site) -> Step | None:
    out, sizes = site.out(), site.argument(2, "sizes")
    source = site.shaped(site.step.args[0])
    if out is None or source is None:
        return None
    fixed = _right_sizes(site, listed(sizes), out, site.now(site.argument(1, "dim")) % len(source.shape))
    return None if fixed is None else site.with_argument(2, "sizes", _like(sizes, fixed))


def _split(site: Site) -> Step | None:
    source = site.shaped(site.step.args[0])
    if source is None:
        return None
    name = site.step.target.rpartition(".")[2]
    given = site.argument(1, next((k for k in site.step.kwargs if k not in ("dim", "input")), "split_size"))
    dim = site.now(site.argument(2, "dim", 0)) % len(source.shape)
    parts: list[Shaped] = []
    while (part := site.out(len(parts))) is not None:
        parts.append(part)
    if source.units[dim] is None:
        return None
    wanted = [part.after(site.keep)[dim] for part in parts]
    total = source.after(site.keep)[dim]
    if isinstance(given, (list, dict)) and not isinstance(site.now(given), int):
        would = [site.now(v) for v in listed(given)]
    else:
        size = (
            site.now(given) if name not in ("chunk", "tensor_split", "unsafe_chunk") else -(-total // site.now(given))
        )
        would = [min(size, total - start) for start in range(0, total, max(1, size))]
    if would == wanted:
        return None
    return Step("torch.Tensor.split", [site.step.args[0], wanted, dim], {}, site.step.outs)


def _item(site: Site) -> Step | None:
    source = site.shaped(site.step.args[0])
    if source is None or len(site.step.args) < 2:
        return None
    index = site.step.args[1]
    several = isinstance(index, dict) and "tuple" in index
    items = list(listed(index)) if several else [index]
    after = source.after(site.keep)
    taking = sum(1 for i in items if i is not None and not (isinstance(i, dict) and "ellipsis" in i))
    dim, fixed = 0, list(items)
    for number, item in enumerate(items):
        if item is None:
            continue
        if isinstance(item, dict) and "ellipsis" in item:
            dim += len(source.shape) - taking
            continue
        bounds = item["slice"] if isinstance(item, dict) and "slice" in item else None
        if bounds is not None and source.units[dim] is not None and all(map(_is_number, bounds)):
            unit, size = source.units[dim], source.shape[dim]
            stay = stays(unit, site.keep)  # type: ignore[arg-type]
            start, stop, step = slice(*(site.was(v) for v in item["slice"])).indices(size)
            wanted = (int(stay[:start].sum()), int(stay[:stop].sum()), step)
            now = [site.now(v) for v in item["slice"]]
            if UNKNOWN in now or slice(*now).indices(after[dim]) != wanted:
                fixed[number] = {"slice": list(wanted)}
        dim += 1
    if fixed == items:
        return None
    new = {"tuple": fixed} if several else fixed[0]
    return Step(site.step.target, [site.step.args[0], new, *site.step.args[2:]], site.step.kwargs, site.step.outs)


def is_product(value: Value) -> bool:
    """Whether a size is that of one dimension, or of several multiplied."""
    if isinstance(value, dict) and "op" in value:
        return bool(value["op"][0] == "mul") and all(map(is_product, value["op"][1:]))
    return True


def _is_number(value: Value) -> bool:
    """Whether a bound is a size or number, and not read from a tensor."""
    return not isinstance(value, dict) or bool({"attr", "size", "op", "corrected", "is"} & value.keys())


def _narrow(site: Site) -> Step | None:
    source = site.shaped(site.step.args[0])
    if source is None:
        return None
    dim = site.now(site.argument(1, "dim")) % len(source.shape)
    unit = source.units[dim]
    if unit is None:
        return None
    stay = stays(unit, site.keep)
    start, length = (site.was(site.argument(i, n)) for i, n in ((2, "start"), (3, "length")))
    wanted = [int(stay[:start].sum()), int(stay[start : start + length].sum())]
    if [site.now(site.argument(2, "start")), site.now(site.argument(3, "length"))] == wanted:
        return None
    return Step(site.step.target, [site.step.args[0], dim, *wanted], {}, site.step.outs)


def _normalised_shape(site: Site) -> Step | None:
    out, sizes = site.out(), site.argument(1, "normalized_shape")
    if out is None:
        return None
    fixed = _right_sizes(site, listed(sizes), out, len(out.shape) - len(listed(sizes)))
    return None if fixed is None else site.with_argument(1, "normalized_shape", _like(sizes, fixed))


def _norm_groups(site: Site) -> Step | None:
    out, given = site.out(), site.argument(1, "num_groups")
    if out is None or out.units[1] is None:
        return None
    rows = out.shape[1] // site.was(given)
    wanted = int(stays(out.units[1], site.keep).reshape(-1, rows).any(1).sum())
    return None if site.now(given) == wanted else site.with_argument(1, "num_groups", wanted)


def _conv_groups(site: Site) -> Step | None:
    given = site.argument(6, "groups", 1)
    x, weight = site.shaped(site.argument(0, "input")), site.shaped(site.argument(1, "weight"))
    was = site.was(given)
    if x is None or weight is None or was == 1:
        return None
    after_x, after_w = x.after(site.keep), weight.after(site.keep)
    if "transpose" in site.step.target:
        lead = weight.units[0]
        rows = weight.shape[0] // was
        wanted = was if lead is None else int(stays(lead, site.keep).reshape(-1, rows).any(1).sum())
    else:
        wanted = after_x[1] // after_w[1]
    return None if site.now(given) == wanted else site.with_argument(6, "groups", wanted)


def _attention_scale(site: Site) -> Step | None:
    query = site.shaped(site.argument(0, "query"))
    if query is None or query.units[-1] is None or site.step.kwargs.get("scale") is not None:
        return None
    if query.after(site.keep)[-1] == query.shape[-1]:
        return None
    # the default scale follows the size of a head; the network was trained with the one before
    return Step(
        site.step.target, site.step.args, {**site.step.kwargs, "scale": query.shape[-1] ** -0.5}, site.step.outs
    )


def _factors(site: Site) -> Step | None:
    """Numbers that sizes gave stay what they were."""

    def frozen(value: Value) -> Value:
        if isinstance(value, dict) and {"attr", "size", "op"} & set(value):
            return site.was(value) if site.now(value) != site.was(value) else value
        if isinstance(value, dict):
            return {key: frozen(item) for key, item in value.items()}
        return [frozen(item) for item in value] if isinstance(value, list) else value

    args, kwargs = frozen(site.step.args), frozen(site.step.kwargs)
    if (args, kwargs) == (site.step.args, site.step.kwargs):
        return None
    return Step(site.step.target, args, kwargs, site.step.outs)


SIZES: dict[str, Callable[[Site], Step | None]] = {
    **dict.fromkeys(("reshape", "view", "expand", "broadcast_to", "_unsafe_view"), _reshape),
    "unflatten": _unflatten,
    **dict.fromkeys(("split", "chunk", "split_with_sizes", "tensor_split", "unsafe_chunk", "unsafe_split"), _split),
    **dict.fromkeys(("__getitem__", "__setitem__"), _item),
    "narrow": _narrow,
    **dict.fromkeys(("layer_norm", "rms_norm"), _normalised_shape),
    "group_norm": _norm_groups,
    **dict.fromkeys(CONVOLUTIONS, _conv_groups),
    "scaled_dot_product_attention": _attention_scale,
    **dict.fromkeys(ARITHMETIC, _factors),
}
