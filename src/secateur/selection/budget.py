"""Budgets: the share of a network that stays."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, get_args

from secateur.core.errors import RequestError
from secateur.core.names import did_you_mean

Kind = Literal["units", "params", "macs", "latency"]


class UnreachableBudgetError(RequestError):
    """A budget that cannot be reached.

    Attributes:
        least: the smallest share that can be reached.
        binding: the layer that holds most of it, and why it cannot be smaller; and what else locks removable units.
        limits: arguments that keep units: ``min_keep``, ``round_to``, ``protect``, ``layer_shares``, ``max_remove``.
        capped: whether only ``max_remove`` keeps more units from being removed, for instance in a further step.
    """

    def __init__(
        self, budget: str, least: float, binding: str, limits: tuple[str, ...] = (), capped: bool = False
    ) -> None:
        lower = ", ".join(name for name in limits if name not in _REMEDIES)
        remedies = [f"lower {lower}"] * bool(lower) + [_REMEDIES[name] for name in limits if name in _REMEDIES]
        ways = "".join(f", or {remedy}" for remedy in remedies)
        super().__init__(
            f"a budget of {budget} cannot be reached: at least {least:.1%} stays; {binding}; ask for more{ways}"
        )
        self.least = least
        self.binding = binding
        self.limits = limits
        self.capped = capped
        self._budget = budget

    def of(self, budget: str, least: float) -> UnreachableBudgetError:
        """The same error for another budget, such as one relative to a larger network."""
        return UnreachableBudgetError(budget, least, self.binding, self.limits, self.capped)

    def __reduce__(self) -> tuple[type[UnreachableBudgetError], tuple[str, float, str, tuple[str, ...], bool]]:
        # other processes return it as well
        return type(self), (self._budget, self.least, self.binding, self.limits, self.capped)


_REMEDIES = {"max_remove": "raise max_remove", "layer_shares": "give other layer_shares"}
"""Remedies for limits that are not simply lowered."""


@dataclass(frozen=True, repr=False)
class Budget:
    """The share that stays, in (0, 1], of exactly one of units, parameters, MACs or latency, by name.

    Latency is time per batch in PyTorch on this machine. `secateur.compress` measures it on the pruned network against
    the original; `secateur.select` alone, which has no network, predicts it from measured layers.

    Raises:
        RequestError: for none or several of them, a share without its name, or one out of range.

    Example:
        >>> Budget(macs=0.5).kind, Budget(latency=0.5).share
        ('macs', 0.5)
        >>> Budget(macs=0.5)
        Budget(macs=0.5)
    """

    units: float | None = None
    params: float | None = None
    macs: float | None = None
    latency: float | None = None

    def __new__(cls, *shares: Any, **named: Any) -> Budget:
        """Refuse arguments that the fields do not accept, before they are set."""
        if shares:
            example = shares[0] if _in_range(shares[0]) else 0.5
            raise RequestError(f"a budget names what its share is of: {_forms(f'={example}')}; got {shares[0]!r} alone")
        unknown = next((name for name in named if name not in get_args(Kind)), None)
        if unknown is not None:
            raise _unknown_kind(unknown)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        given = {k: v for k, v in self.__dict__.items() if v is not None}
        if len(given) != 1:
            raise RequestError(f"a budget needs exactly one of {_forms('=')}; got {given or 'none'}")
        ((kind, share),) = given.items()
        if not _in_range(share):
            per_cent = real_number(share)
            hint = f"; for {per_cent:g} % give {kind}={per_cent / 100:g}" if per_cent and 1 < per_cent <= 100 else ""
            raise RequestError(f"a budget is the share that stays, in (0, 1], got {kind}={share!r}{hint}")
        object.__setattr__(self, kind, float(share))

    def __repr__(self) -> str:
        return f"Budget({self.kind}={self.share:g})"

    @property
    def kind(self) -> Kind:
        """``units``, ``params``, ``macs`` or ``latency``."""
        return next(kind for kind in get_args(Kind) if getattr(self, kind) is not None)

    @property
    def share(self) -> float:
        """The share that stays."""
        return float(getattr(self, self.kind))

    @classmethod
    def of(cls, kind: str, share: float) -> Budget:
        """A budget from its kind and share."""
        if kind not in get_args(Kind):
            raise _unknown_kind(kind)
        return cls(**{kind: share})


def check_budget(budget: object) -> None:
    """Refuse anything but a `Budget`.

    Example:
        >>> check_budget(0.5)
        Traceback (most recent call last):
            ...
        secateur.core.errors.RequestError: a budget must be an object like secateur.Budget(macs=0.5), got 0.5
    """
    if not isinstance(budget, Budget):
        raise RequestError(f"a budget must be an object like secateur.Budget(macs=0.5), got {budget!r}")


def _forms(behind: str) -> str:
    return ", ".join(f"{kind}{behind}" for kind in get_args(Kind))


def _in_range(share: object) -> bool:
    number = real_number(share)
    return number is not None and 0 < number <= 1


def real_number(value: object) -> float | None:
    """A real number of any library; None for anything else, including truth values."""
    if isinstance(value, bool):
        return None
    return float(value) if isinstance(value, Real) else None


def _unknown_kind(kind: Any) -> RequestError:
    known = get_args(Kind)
    return RequestError(f"unknown budget kind '{kind}'{did_you_mean(str(kind), known)}; known: {', '.join(known)}")


def check_max_remove(max_remove: object) -> None:
    """Refuse anything but a cap on the number of units that are removed.

    Args:
        max_remove: a whole number of units from 1, a fraction strictly between 0 and 1, one of these by name of layer,
            or None: no cap.

    Raises:
        RequestError: for anything else.

    Example:
        >>> check_max_remove({"conv1": 0})
        Traceback (most recent call last):
            ...
        secateur.core.errors.RequestError: max_remove of 'conv1' is a number of units (1, 2, ...) or a share of its \
units below 1 (0.1), got 0
    """
    if max_remove is None:
        return
    caps = max_remove if isinstance(max_remove, Mapping) else {None: max_remove}
    if not caps:
        raise RequestError("max_remove names no layer; give a number of units, or a number by name of layer")
    for name, cap in caps.items():
        number = real_number(cap)
        if number is None or not (number >= 1 if isinstance(cap, Integral) else 0 < number < 1):
            of, its = ("", "all") if name is None else (f" of '{name}'", "its")
            raise RequestError(
                f"max_remove{of} is a number of units (1, 2, ...) or a share of {its} units below 1 (0.1), got {cap!r}"
            )


def units_to_remove(max_remove: int | float, size: int) -> int:
    """The largest number of ``size`` units that may be removed; a share is rounded down.

    Example:
        >>> units_to_remove(2, 64), units_to_remove(0.1, 64), units_to_remove(0.1, 30), units_to_remove(0.1, 4)
        (2, 6, 3, 0)
    """
    return int(max_remove) if max_remove >= 1 else math.floor(max_remove * size + 1e-9)


def check_min_keep(min_keep: object) -> None:
    """Refuse anything but a number of units or a share of a group.

    Args:
        min_keep: a whole number from 1, or a fraction strictly between 0 and 1.

    Raises:
        RequestError: for anything else; 1.0 could mean one unit or all of them.

    Example:
        >>> check_min_keep(1.0)
        Traceback (most recent call last):
            ...
        secateur.core.errors.RequestError: min_keep is a number of units (1, 2, ...) or a share of each group below 1 \
(0.1), got 1.0
    """
    number = real_number(min_keep)
    if number is None or not (number >= 1 if isinstance(min_keep, Integral) else 0 < number < 1):
        raise RequestError(
            f"min_keep is a number of units (1, 2, ...) or a share of each group below 1 (0.1), got {min_keep!r}"
        )


def units_to_keep(min_keep: int | float, size: int) -> int:
    """The least number of ``size`` units that stay; a share is rounded up.

    Example:
        >>> units_to_keep(2, 64), units_to_keep(0.1, 64), units_to_keep(0.1, 30), units_to_keep(0.01, 4)
        (2, 7, 3, 1)
    """
    least = min_keep if min_keep >= 1 else math.ceil(min_keep * size - 1e-9)  # 0.1 * 30 is slightly more than 3
    return min(size, max(1, int(least)))
