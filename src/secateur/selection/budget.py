"""How much of a network may stay."""

from __future__ import annotations

from dataclasses import dataclass

from secateur.core.errors import RequestError
from secateur.structure.groups import Measure


@dataclass(frozen=True)
class Budget:
    """The share that stays, in (0, 1], of exactly one of units, parameters or MACs.

    Example:
        >>> Budget(macs=0.5).kind, Budget(macs=0.5).share
        ('macs', 0.5)
    """

    units: float | None = None
    params: float | None = None
    macs: float | None = None
    latency: float | None = None

    def __post_init__(self) -> None:
        given = {k: v for k, v in self.__dict__.items() if v is not None}
        if self.latency is not None:
            raise RequestError("latency budgets are not supported yet; use macs and measure the latency with evaluate")
        if len(given) != 1:
            raise RequestError(f"a budget needs exactly one of units=, params=, macs=; got {given or 'none'}")
        share = next(iter(given.values()))
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
            raise RequestError(f"a budget is the share that stays, in (0, 1], got {next(iter(given))}={share}")

    @property
    def kind(self) -> Measure:
        """``units``, ``params`` or ``macs``."""
        return "units" if self.units is not None else "params" if self.params is not None else "macs"

    @property
    def share(self) -> float:
        """The share that stays."""
        return float(getattr(self, self.kind))

    @classmethod
    def of(cls, kind: str, share: float) -> Budget:
        """A budget from its kind and share."""
        if kind not in ("units", "params", "macs", "latency"):
            raise RequestError(f"unknown budget kind '{kind}'; known: units, params, macs")
        return cls(**{kind: share})
