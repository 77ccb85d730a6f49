"""How much of a network may stay."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, get_args

from secateur.core.errors import RequestError
from secateur.core.names import did_you_mean

Kind = Literal["units", "params", "macs", "latency"]


class UnreachableBudgetError(RequestError):
    """A budget that cannot be reached.

    Attributes:
        least: the share that can.
        binding: the layer that holds most of it, and why; and what else locks units that could go.
        limits: what was asked for that keeps units: ``min_keep``, ``round_to``, ``protect``.
    """

    def __init__(self, budget: str, least: float, binding: str, limits: tuple[str, ...] = ()) -> None:
        lower = f", or lower {', '.join(limits)}" if limits else ""
        super().__init__(
            f"a budget of {budget} cannot be reached: at least {least:.1%} stays; {binding}; ask for more{lower}"
        )
        self.least = least
        self.binding = binding
        self.limits = limits
        self._budget = budget

    def of(self, budget: str, least: float) -> UnreachableBudgetError:
        """The same of another budget, such as one counted against a larger network."""
        return UnreachableBudgetError(budget, least, self.binding, self.limits)

    def __reduce__(self) -> tuple[type[UnreachableBudgetError], tuple[str, float, str, tuple[str, ...]]]:
        return type(self), (self._budget, self.least, self.binding, self.limits)  # it comes back from other processes


@dataclass(frozen=True, repr=False)
class Budget:
    """The share that stays, in (0, 1], of exactly one of units, parameters, MACs or latency, by name.

    Latency is time per batch in PyTorch on this machine. `secateur.compress` measures it on the pruned network against
    the original; `secateur.select` alone, which has no network, goes by a prediction from measured layers.

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
        """Refuse what the fields would not take, before they are set."""
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
    """Refuse what is no `Budget`.

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
    """A real number of any library; None for anything else, and for truth values."""
    if isinstance(value, bool):
        return None
    return float(value) if isinstance(value, Real) else None


def _unknown_kind(kind: Any) -> RequestError:
    known = get_args(Kind)
    return RequestError(f"unknown budget kind '{kind}'{did_you_mean(str(kind), known)}; known: {', '.join(known)}")


def check_min_keep(min_keep: object) -> None:
    """Refuse what is neither a number of units nor a share of a group.

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
    """How many of ``size`` units stay at least: a share is rounded up.

    Example:
        >>> units_to_keep(2, 64), units_to_keep(0.1, 64), units_to_keep(0.1, 30), units_to_keep(0.01, 4)
        (2, 7, 3, 1)
    """
    least = min_keep if min_keep >= 1 else math.ceil(min_keep * size - 1e-9)  # 0.1 * 30 is a little more than 3
    return min(size, max(1, int(least)))
