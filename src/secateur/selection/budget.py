"""How much of a network may stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from secateur.core.errors import RequestError

Kind = Literal["units", "params", "macs", "latency"]


class UnreachableBudgetError(RequestError):
    """A budget that cannot be reached.

    Attributes:
        least: the share that can.
        binding: the layer that holds most of it, and why.
    """

    def __init__(self, budget: str, least: float, binding: str) -> None:
        super().__init__(
            f"a budget of {budget} cannot be reached: at least {least:.1%} stays; {binding}; "
            "ask for more, or lower min_keep, round_to or protect"
        )
        self.least = least
        self.binding = binding
        self._budget = budget

    def __reduce__(self) -> tuple[type[UnreachableBudgetError], tuple[str, float, str]]:
        return type(self), (self._budget, self.least, self.binding)  # it comes back from other processes


@dataclass(frozen=True)
class Budget:
    """The share that stays, in (0, 1], of exactly one of units, parameters, MACs or latency.

    Latency is time per batch in PyTorch on this machine. `secateur.compress` measures it on the pruned network against
    the original; `secateur.select` alone, which has no network, goes by a prediction from measured layers.

    Example:
        >>> Budget(macs=0.5).kind, Budget(latency=0.5).share
        ('macs', 0.5)
    """

    units: float | None = None
    params: float | None = None
    macs: float | None = None
    latency: float | None = None

    def __post_init__(self) -> None:
        given = {k: v for k, v in self.__dict__.items() if v is not None}
        if len(given) != 1:
            raise RequestError(f"a budget needs exactly one of units=, params=, macs=, latency=; got {given or 'none'}")
        share = next(iter(given.values()))
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
            raise RequestError(f"a budget is the share that stays, in (0, 1], got {next(iter(given))}={share}")

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
            raise RequestError(f"unknown budget kind '{kind}'; known: {', '.join(get_args(Kind))}")
        return cls(**{kind: share})
