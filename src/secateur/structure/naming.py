"""Derives corrections of a module's own code from recorded calls and the calls that they must become."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from secateur.structure.corrections import Correction, Exchange, Kind
from secateur.structure.scopes import ARITHMETIC, CONVOLUTIONS, Condition, Factor, Step, Value
from secateur.structure.sizes import Site, listed
from secateur.structure.source import Comparison, call_path, comparison_at, kind_of

_SHAPES = frozenset("reshape view expand broadcast_to _unsafe_view".split())
_SPLITS = frozenset("split chunk split_with_sizes tensor_split unsafe_chunk unsafe_split".split())
_SPLIT_NAMES = (
    "split_size", "split_size_or_sections", "split_sizes", "chunks", "sections", "indices_or_sections",
    "tensor_indices_or_sections",
)  # fmt: skip
_FIRST_SIZES: dict[str, tuple[int, tuple[str, ...]]] = {
    **dict.fromkeys(_SHAPES, (1, ("shape", "size"))),
    "unflatten": (2, ("sizes", "unflattened_size")),
    **dict.fromkeys(("layer_norm", "rms_norm"), (1, ("normalized_shape",))),
}
_ARGUMENTS: dict[str, tuple[int, str]] = {"group_norm": (1, "num_groups"), **dict.fromkeys(CONVOLUTIONS, (6, "groups"))}


def changed_positions(site: Site, fixed: Step) -> set[int] | None:
    """Positions of the numbers of a call that change; None where they are ambiguous."""
    name = _name(site)
    if name in _FIRST_SIZES:
        old, new = _sizes(site.step, name), _sizes(fixed, name)
        return {i for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b} if len(old) == len(new) else None
    if name in ("__getitem__", "__setitem__"):
        old, new = _items(site.step), _items(fixed)
        return {i for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b}
    if name in ARITHMETIC:
        positions = {i for i, (a, b) in enumerate(zip(site.step.args, fixed.args, strict=True)) if a != b}
        plain = all(isinstance(fixed.args[i], int) for i in positions)
        return positions if plain and site.step.kwargs == fixed.kwargs else None
    return {0}


def correction_of(site: Site, fixed: Step, positions: set[int]) -> Correction | None:
    """The correction that turns a call into ``fixed``; without its path.

    Args:
        site: the call as it was recorded.
        fixed: the call as it must be; the same step where only another call of this line changes.
        positions: positions of the numbers that change in any call of this line.

    Returns:
        None when code of this kind cannot be corrected.
    """
    name = _name(site)
    path = call_path(site.step.frames)
    if not path:
        return None
    stands = kind_of(site.step.frames)
    method = site.step.target.startswith("torch.Tensor.")
    if name in ("__getitem__", "__setitem__"):
        if stands != "item":
            return None
        old, new = _items(site.step), _items(fixed)
        pairs = {i: (_slice(site.given, old[i]), _slice(site.now, new[i])) for i in positions if i < len(old)}
        if any(a is None or b is None for a, b in pairs.values()):
            return None
        return _made("item", {i: Exchange(((a, b),)) for i, (a, b) in pairs.items()})
    if name in ARITHMETIC:
        return _arithmetic(site, fixed, positions, stands, method)
    if stands != "call":
        return None
    if name in _FIRST_SIZES:
        return _of_sizes(site, fixed, positions, method)
    if name in _SPLITS:
        return _of_split(site, fixed, method)
    if name == "narrow":
        given, becomes = (
            tuple(read(value) for value in (_argument(step, 2, "start"), _argument(step, 3, "length")))
            for step, read in ((site.step, site.given), (fixed, site.now))
        )
        return _made("narrow", {0: Exchange(((given, becomes),))}, method)
    if name == "scaled_dot_product_attention":
        scale = fixed.kwargs.get("scale")
        return Correction((), "scale", value=float(scale)) if isinstance(scale, float) else None
    if name in _ARGUMENTS:
        position, keyword = _ARGUMENTS[name]
        exchange = _exchange(site, _argument(site.step, position, keyword), _argument(fixed, position, keyword))
        return None if exchange is None else _made("argument", {position: exchange}, method, (keyword,))
    return None


def factor_of(site: Site, factor: Factor) -> Correction | None:
    """The correction that keeps a factor at its value before pruning."""
    if not call_path(factor.frames):
        return None
    exchange = Exchange(((site.given(factor.size), site.was(factor.size)),))
    stands = kind_of(factor.frames)
    if stands == "operator" and factor.side:
        return _made("operand", {0: exchange}, names=(factor.side,))
    if stands == "call":
        return _made("argument", {1 if factor.side == "right" else 0: exchange})
    return None


def comparison_of(site: Site, condition: Condition) -> Correction | None:
    """The correction that keeps the outcome of a comparison; None when it cannot be corrected."""
    if condition.name == "text" and kind_of(condition.frames) == "call":
        return _made("argument", {0: Exchange(((site.given(condition.left), site.was(condition.left)),))})
    comparison = comparison_at(condition.frames)
    if condition.name in ("text", "bool", "number") or comparison is None:
        return None
    exchanges = {}
    for position, value in zip(_positions(condition, comparison), (condition.left, condition.right), strict=True):
        given, was = site.given(value), site.was(value)
        if given != was and isinstance(given, int):
            if position is None:
                return None
            exchanges[position] = Exchange(((given, was),))
    return _made("compared", exchanges)


_REFLECTED = {"eq": "eq", "ne": "ne", "lt": "gt", "gt": "lt", "le": "ge", "ge": "le"}


def _positions(condition: Condition, comparison: Comparison) -> tuple[int | None, int | None]:
    """Positions of the size and of the other number in the text; None where they are ambiguous."""
    left_first = comparison.position, comparison.position + 1
    if isinstance(condition.right, dict):
        return left_first  # of two sizes, the left one records the comparison
    if any(comparison.fixed):
        return left_first if comparison.fixed[1] else left_first[::-1]
    if condition.name != _REFLECTED[condition.name]:
        return left_first if condition.name == comparison.operator else left_first[::-1]
    return None, None


def _name(site: Site) -> str:
    return site.step.target.rpartition(".")[2]


def _made(
    kind: Kind,
    exchanges: dict[int, Exchange],
    method: bool = False,
    names: tuple[str, ...] = (),
    first: int = 1,
) -> Correction:
    return Correction((), kind, method, tuple(sorted(exchanges.items())), names, first)


def _exchange(site: Site, old: Value, new: Value) -> Exchange | None:
    """The exchange of one number for another; a ratio where the size differs from call to call."""
    given = site.given(old)
    if isinstance(new, dict) and "op" in new and new != old and given:
        name, left, right = new["op"]
        if name == "mul":
            kept, number = (left, right) if isinstance(right, int) else (right, left)
            if given % max(1, site.now(kept)) == 0:
                return Exchange(ratio=(given // max(1, site.now(kept)), number))
        elif site.now(left) % given == 0:
            return Exchange(ratio=(right, site.now(left) // given))
    becomes = site.now(new)
    if isinstance(given, int) and isinstance(becomes, int):
        return Exchange(((given, becomes),))
    return None


def _of_sizes(site: Site, fixed: Step, positions: set[int], method: bool) -> Correction | None:
    name = _name(site)
    first, names = _FIRST_SIZES[name]
    old, new = _sizes(site.step, name), _sizes(fixed, name)
    exchanges = {}
    for position in positions:
        if position >= len(old):
            continue
        exchange = _exchange(site, old[position], new[position])
        if exchange is None or (old[position] == new[position] and site.dynamic(old[position])):
            return None
        exchanges[position] = exchange
    return _made("sizes", exchanges, method, names, first)


def _of_split(site: Site, fixed: Step, method: bool) -> Correction | None:
    source = site.shaped(site.step.args[0])
    if source is None:
        return None
    given = _argument(site.step, 1, next((k for k in site.step.kwargs if k not in ("dim", "input")), "split_size"))
    dim = site.now(site.argument(2, "dim", 0)) % len(source.shape)
    if fixed is site.step:
        parts: list[int] = []
        while (part := site.out(len(parts))) is not None:
            parts.append(part.after(site.keep)[dim])
    else:
        parts = list(fixed.args[1])
    if isinstance(given, list) and given and isinstance(given[0], dict) and "corrected" in given[0]:
        key = site.given(given[0])  # what the code passes, after the length of the dimension
    else:
        several = isinstance(given, list) or (isinstance(given, dict) and "tuple" in given)
        key = (source.after(site.keep)[dim], *(map(site.now, listed(given)) if several else [site.now(given)]))
    return _made("split", {0: Exchange(((key, tuple(parts)),))}, method, _SPLIT_NAMES)


def _arithmetic(site: Site, fixed: Step, positions: set[int], stands: str | None, method: bool) -> Correction | None:
    name = _name(site)
    if len(positions) != 1:
        return None
    position = next(iter(positions))
    given, becomes = site.given(site.step.args[position]), site.now(fixed.args[position])
    if not isinstance(given, int) or not isinstance(becomes, int):
        return None
    exchange = Exchange(((given, becomes),))
    if stands == "operator":
        return _made("operand", {0: exchange}, names=("left" if name.startswith("__r") else "right",))
    return _made("argument", {position: exchange}, method) if stands == "call" else None


def _argument(step: Step, index: int, name: str) -> Value:
    return step.args[index] if len(step.args) > index else step.kwargs.get(name)


def _sizes(step: Step, name: str) -> list[Value]:
    first, names = _FIRST_SIZES[name]
    given = step.args[first:] or [next((step.kwargs[n] for n in names if n in step.kwargs), [])]
    packed = isinstance(given[0], list) or (isinstance(given[0], dict) and "tuple" in given[0])
    return listed(given[0]) if packed else list(given)


def _items(step: Step) -> list[Value]:
    index = step.args[1]
    return listed(index) if isinstance(index, dict) and "tuple" in index else [index]


def _slice(read: Callable[[Value], Any], item: Value) -> Any:
    if not isinstance(item, dict) or "slice" not in item:
        return None
    return tuple(map(read, item["slice"]))
