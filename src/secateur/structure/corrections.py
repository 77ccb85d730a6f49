"""Corrections of single calls that name sizes, in a module's own code.

Where code says ``x.reshape(B, N, 3, 12, C // 12)`` and three of twelve heads are removed, that one call gets other
numbers; everything else in the module's code (branches, masks, caches, training) stays as its author wrote it. A
correction maps the numbers that the code passes to the right ones, and raises an error for a number that no traced call
passed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from secateur.core.errors import RequestError
from secateur.structure import source
from secateur.structure.provenance import corrected
from secateur.structure.source import CallPath, Site

source.PASSED_OVER.add(__file__)

Key = Any
"""What the code passes: an integer, or a tuple of integers and None."""


@dataclass(frozen=True)
class Exchange:
    """The right numbers for those that the code passes.

    Attributes:
        table: pairs (number that the code passes, right number), one for each traced number.
        ratio: instead of a table, the divisor and the factor, where the number is a multiple of a size that differs
            from call to call, such as samples times heads.
    """

    table: tuple[tuple[Key, Key], ...] = ()
    ratio: tuple[int, int] | None = None

    def __call__(self, value: Any, where: str, *, together: bool = False) -> Any:
        """The right number or numbers for what the code passes; ``together``: several numbers replace one value."""
        if self.ratio is not None:
            divisor, factor = self.ratio
            if value * factor % divisor:
                raise _untraced(where, value)
            return corrected(value * factor // divisor, value)
        for given, becomes in self.table:
            if given == value:
                return corrected(becomes, value, together)
        raise _untraced(where, value)

    def joined(self, other: Exchange) -> Exchange | None:
        """Both exchanges as one; None when they contradict each other."""
        if self.ratio or other.ratio:
            return self if self == other else None
        table = dict(self.table)
        if any(table.setdefault(given, becomes) != becomes for given, becomes in other.table):
            return None
        return Exchange(tuple(table.items()))

    def covers(self, other: Exchange) -> bool:
        """Whether it contains all numbers of another exchange."""
        if self.ratio is None:
            return other.ratio is None and set(other.table) <= set(self.table)
        divisor, factor = self.ratio
        pairs = (other.ratio,) if other.ratio else other.table
        return all(given * factor == becomes * divisor for given, becomes in pairs)

    def updated(self, newer: Exchange) -> Exchange:
        """This exchange, overridden by a newer one where they differ."""
        if self.ratio or newer.ratio:
            return newer
        return Exchange(tuple({**dict(self.table), **dict(newer.table)}.items()))


def _untraced(where: str, value: Any) -> RequestError:
    return RequestError(
        f"'{where}' was pruned for the calls that were traced, and this one gives it another size ({value}); trace "
        "such a call as well: sc.trace(model, example, variants=[...])"
    )


Kind = Literal["sizes", "split", "item", "narrow", "argument", "scale", "operand", "compared"]


@dataclass(frozen=True)
class Correction:
    """One call in a module's own code, and the numbers that it gets instead of its own.

    Attributes:
        path: call path from the module's ``forward`` to the call.
        kind: how the call names sizes: ``sizes`` (of a reshape, view, expand, unflatten, layer norm), ``split`` (a
            dimension in parts), ``item`` (slices between brackets), ``narrow``, ``argument`` (a single number),
            ``scale`` (of attention, which otherwise follows the size of a head), ``operand`` of an arithmetic operator,
            numbers that are ``compared``.
        is_method: whether it is a method of a tensor.
        exchanges: by position: of a size in a shape, of an item in an index, or of an argument.
        names: keywords under which the argument may be passed; for an operand, its side.
        first: for sizes, the index of the argument that holds them, or of the first one that is a size.
        value: the scale.
    """

    path: CallPath
    kind: Kind
    is_method: bool = False
    exchanges: tuple[tuple[int, Exchange], ...] = ()
    names: tuple[str, ...] = ()
    first: int = 1
    value: float | None = None

    @property
    def side(self) -> str:
        """Which operand of an operator is corrected; empty for other kinds."""
        return self.names[0] if self.kind == "operand" else ""

    @property
    def where(self) -> str:
        """Name of the function in which the call is, for messages."""
        return self.path[-1].function

    def at(self, path: CallPath) -> Correction:
        """The same correction for another call."""
        return replace(self, path=path)

    def joined(self, other: Correction) -> Correction | None:
        """Both corrections as one, for a line that runs several times; None when they contradict each other."""
        if replace(self, exchanges=()) != replace(other, exchanges=()):
            return None
        exchanges = dict(self.exchanges)
        for position, exchange in other.exchanges:
            both = exchanges[position].joined(exchange) if position in exchanges else exchange
            if both is None:
                return None
            exchanges[position] = both
        return replace(self, exchanges=tuple(sorted(exchanges.items())))

    def covers(self, other: Correction) -> bool:
        """Whether this correction contains all numbers of another one."""
        own = dict(self.exchanges)
        return self.value == other.value and all(
            position in own and own[position].covers(exchange) for position, exchange in other.exchanges
        )

    def updated(self, newer: Correction) -> Correction:
        """This correction, overridden by a newer one of the same call where they differ."""
        exchanges = dict(self.exchanges)
        for position, exchange in newer.exchanges:
            exchanges[position] = exchanges[position].updated(exchange) if position in exchanges else exchange
        return replace(newer, is_method=self.is_method, exchanges=tuple(sorted(exchanges.items())))

    # -- what runs instead of the call ------------------------------------------------------------------------------

    def call(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function with corrected arguments."""
        if self.kind == "split":
            return self._split(*args, **kwargs)
        right, named = self._arguments(args, kwargs)
        return function(*right, **named)

    def method(self, name: str, tensor: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a tensor's method with corrected arguments."""
        if self.kind == "split":
            return self._split(tensor, *args, **kwargs)
        (_, *others), kwargs = self._arguments((tensor, *args), kwargs)
        return getattr(tensor, name)(*others, **kwargs)

    def item(self, index: Any, /) -> Any:
        """The corrected index."""
        items = list(index) if isinstance(index, tuple) else [index]
        for position, exchange in self.exchanges:
            if position >= len(items) or not isinstance(items[position], slice):
                raise _untraced(self.where, "an index of another kind")
            item = items[position]
            items[position] = slice(*exchange((item.start, item.stop, item.step), self.where))
        return tuple(items) if isinstance(index, tuple) else items[0]

    def number(self, value: Any, /) -> Any:
        """The corrected number."""
        return self.exchanges[0][1](value, self.where)

    def compared(self, position: int, value: Any, /) -> Any:
        """The corrected operand of a comparison."""
        exchange = dict(self.exchanges).get(position)
        if exchange is None:
            return value
        if not isinstance(value, int):
            raise _untraced(self.where, value)
        return exchange(value, self.where)

    def _arguments(self, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Sequence[Any], dict[str, Any]]:
        """Corrected arguments; the first one is the tensor."""
        args, kwargs = list(args), dict(kwargs)
        if self.kind == "scale":
            if kwargs.get("scale") is None:
                kwargs["scale"] = self.value
        elif self.kind == "sizes":
            self._sizes(args, kwargs)
        elif self.kind == "narrow":
            ends = _Argument(args, kwargs, 2, ("start",)), _Argument(args, kwargs, 3, ("length",))
            for end, right in zip(ends, self.exchanges[0][1](tuple(e.value for e in ends), self.where), strict=True):
                end.set(right)
        else:
            for index, exchange in self.exchanges:
                argument = _Argument(args, kwargs, index, self.names)
                if not isinstance(argument.value, int):
                    raise _untraced(self.where, argument.value)
                argument.set(exchange(argument.value, self.where))
        return args, kwargs

    def _sizes(self, args: list[Any], kwargs: dict[str, Any]) -> None:
        first = self.first
        name = next((name for name in self.names if name in kwargs), "")
        packed = bool(name) or isinstance(args[first], (tuple, list))
        sizes = list(kwargs[name] if name else args[first] if packed else args[first:])
        for position, exchange in self.exchanges:
            if position >= len(sizes):
                raise _untraced(self.where, "a shape of another length")
            if not (isinstance(sizes[position], int) and sizes[position] == -1):
                sizes[position] = exchange(sizes[position], self.where)
        if name:
            kwargs[name] = sizes
        elif packed:
            args[first] = tuple(sizes)
        else:
            args[first:] = sizes

    def _split(self, *args: Any, **kwargs: Any) -> Any:
        listed, named = list(args), dict(kwargs)
        x = listed[0] if listed else named[next(k for k in ("input", "self", "tensor") if k in named)]
        dim = _Argument(listed, named, 2, ("dim",), 0).value % x.ndim
        given = _Argument(listed, named, 1, self.names).value
        key = (x.shape[dim], *(given if isinstance(given, (tuple, list)) else (given,)))
        return torch.split(x, list(self.exchanges[0][1](key, self.where, together=True)), dim)

    # -- plain values ----------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "path": [[site.function, site.text, list(site.span)] for site in self.path],
            "kind": self.kind,
            "is_method": self.is_method,
            "exchanges": [
                {"place": position, "ratio": list(e.ratio)}
                if e.ratio
                else {"place": position, "table": [[_plain(given), _plain(becomes)] for given, becomes in e.table]}
                for position, e in self.exchanges
            ],
            "names": list(self.names),
            "first": self.first,
            "value": self.value,
        }

    @classmethod
    def from_json(cls, value: Any) -> Correction:
        """Read `to_json` back; raises KeyError, TypeError or ValueError for anything else."""
        path = tuple(Site(str(f), str(t), _four(span)) for f, t, span in value["path"])
        if not path or value["kind"] not in Kind.__args__:  # type: ignore[attr-defined]
            raise ValueError("a correction without a call")
        exchanges = []
        for item in value["exchanges"]:
            if "ratio" in item:
                divisor, factor = (_integer(v) for v in item["ratio"])
                if divisor < 1:
                    raise ValueError("a ratio with a divisor below 1")
                exchange = Exchange(ratio=(divisor, factor))
            else:
                exchange = Exchange(tuple((_key(given), _key(becomes)) for given, becomes in item["table"]))
            exchanges.append((_integer(item["place"]), exchange))
        number = None if value["value"] is None else float(value["value"])
        names = tuple(str(n) for n in value["names"])
        if value["kind"] == "operand" and names not in (("left",), ("right",)):
            raise ValueError("an operand without a side")
        if value["kind"] in ("split", "narrow", "operand", "compared") and not exchanges:
            raise ValueError("a correction without numbers")
        first = _integer(value["first"])
        return cls(path, value["kind"], bool(value["is_method"]), tuple(exchanges), names, first, number)


class _Argument:
    """One argument of a call, passed by position or by name."""

    def __init__(
        self, args: list[Any], kwargs: dict[str, Any], index: int, names: Sequence[str], default: Any = None
    ) -> None:
        owner: Any = args if len(args) > index else kwargs
        self.key: Any = index if len(args) > index else next((n for n in names if n in kwargs), None)
        self.owner = owner
        self.value = default if self.key is None else owner[self.key]

    def set(self, value: Any) -> None:
        if self.key is not None:
            self.owner[self.key] = value


def _plain(key: Key) -> Any:
    return list(key) if isinstance(key, tuple) else key


def _key(value: Any) -> Key:
    if isinstance(value, list):
        return tuple(None if v is None else _integer(v) for v in value)
    return _integer(value)


def _integer(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is no integer")
    return value


def _four(span: Any) -> source.Span:
    a, b, c, d = (_integer(v) for v in span)
    return a, b, c, d


def updated(corrections: Iterable[Correction], newer: Iterable[Correction]) -> tuple[Correction, ...]:
    """Corrections of a module's code, overridden by newer ones where they differ."""
    by_line = {(c.path, c.kind, c.names): c for c in corrections}
    for correction in newer:
        key = (correction.path, correction.kind, correction.names)
        by_line[key] = by_line[key].updated(correction) if key in by_line else correction
    return tuple(by_line.values())
