"""Times taken in turn within one run, and what may be said of their ratio.

Axes: R rounds, N networks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from numbers import Real
from typing import TYPE_CHECKING, Any

from secateur.core.figures import milliseconds

if TYPE_CHECKING:
    import numpy as np

BUSY = 0.10
"""Interquartile range of a network's times, relative to their median, from which on the machine counts as busy.

On quiet machines it was 1 to 5 %, and 10 to 200 % with other processes on the same cores. From 10 % on, the median of
16 rounds is known no better than to about 5 %."""

_STRETCHES = 8

clock = time.perf_counter


@dataclass(frozen=True)
class LatencyShare:
    """Time of one network as a share of another's, both timed in turn.

    Attributes:
        share: median over rounds of the ratio within the round.
        interval: that holds the true median with at least 95 % confidence, if rounds are independent: the ratios of
            two ranks, by the binomial distribution. On a busy machine rounds are alike for a while; there it is made
            to hold the medians of eight stretches of the run, and still speaks of this run alone. None for fewer than
            6 rounds, which cannot say so much.
        rounds: how many.
        before_ms: median time of the network that is compared with, in milliseconds per batch.
        spread: interquartile range of that network's times, relative to their median.

    Example:
        >>> print(LatencyShare(0.67, (0.64, 0.7), 15, 10.2)), print(LatencyShare(1.0, (0.96, 1.05), 15, 10.2))
        0.67 of the time [0.64, 0.70]
        no measurable difference [0.96, 1.05]
        (None, None)
    """

    share: float
    interval: tuple[float, float] | None
    rounds: int
    before_ms: float
    spread: float = 0.0

    @property
    def uncertainty(self) -> float:
        """Half the interval, relative to the share; infinite without an interval."""
        return math.inf if self.interval is None else (self.interval[1] - self.interval[0]) / 2 / self.share

    @property
    def after_ms(self) -> float:
        """Time of the network in milliseconds: ``share`` of ``before_ms``."""
        return self.share * self.before_ms

    @property
    def measurable(self) -> bool:
        """Whether the interval, rounded as it is printed, leaves out 1."""
        if self.interval is None:
            return False
        low, high = (round(value, self._digits) for value in self.interval)
        return not low <= 1 <= high

    @property
    def faster(self) -> bool:
        """Whether the network takes measurably less time."""
        return self.measurable and self.share < 1

    @property
    def busy(self) -> bool:
        """Whether the machine was busy, see `BUSY`."""
        return self.spread > BUSY

    @property
    def _digits(self) -> int:
        return 2 if self.share >= 0.1 else 3

    def __str__(self) -> str:
        digits = self._digits
        if self.interval is None:
            return f"{self.share:.{digits}f} of the time (no interval: fewer than 6 rounds)"
        interval = "[" + ", ".join(f"{value:.{digits}f}" for value in self.interval) + "]"
        if not self.measurable:
            return f"no measurable difference {interval}"
        return f"{self.share:.{digits}f} of the time {interval}"

    def columns(self, prefix: str = "latency") -> dict[str, float | int | None]:
        """The values as columns of a table.

        Example:
            >>> found = LatencyShare(0.67, (0.64, 0.7), 15, 10.0, 0.02)
            >>> LatencyShare.from_columns(found.columns()) == found
            True
        """
        low, high = self.interval or (None, None)
        values = (self.after_ms, self.share, low, high, self.spread, self.rounds)
        return dict(zip(column_names(prefix), values, strict=True))

    @classmethod
    def from_columns(cls, row: Mapping[str, Any], prefix: str = "latency") -> LatencyShare | None:
        """Read `columns` back; None where there is no share. Older tables have no intervals."""
        after, share, low, high, spread, rounds = (_finite(row.get(name)) for name in column_names(prefix))
        if share is None or share <= 0:
            return None
        interval = None if low is None or high is None else (low, high)
        return cls(share, interval, int(rounds or 0), (after or 0.0) / share, spread or 0.0)


def column_names(prefix: str = "latency") -> tuple[str, ...]:
    """Names of the columns that `LatencyShare.columns` fills.

    Example:
        >>> column_names()[:3]
        ('latency_ms', 'latency_share', 'latency_interval_low')
    """
    return tuple(f"{prefix}_{name}" for name in ("ms", "share", "interval_low", "interval_high", "spread", "rounds"))


@dataclass(frozen=True)
class Latency:
    """Milliseconds per batch: median and quartiles over the rounds.

    Of networks that were timed in turn, the first one's times are as the clock gave them. Another one's are its ratios
    to the network it is compared with times that network's median, so that drift of the machine cancels, and the
    quotient of two medians is the share that was measured.

    Attributes:
        median_ms: per batch.
        quartiles_ms: first and third.
        batch_size: samples per batch.
        repeats: rounds.
        threads: of PyTorch, or of the runtime.
        relative: to the time of the network it was compared with; None: it was compared with none.
    """

    median_ms: float
    quartiles_ms: tuple[float, float]
    batch_size: int
    repeats: int
    threads: int
    relative: LatencyShare | None = None

    @property
    def spread(self) -> float:
        """Interquartile range over median, of the network that others are compared with."""
        if self.relative is not None:
            return self.relative.spread
        return (self.quartiles_ms[1] - self.quartiles_ms[0]) / self.median_ms

    @property
    def busy(self) -> bool:
        """Whether the machine was busy, see `BUSY`."""
        return self.spread > BUSY

    @property
    def warning(self) -> str:
        """What to know of a measurement on a busy machine, or ""."""
        return busy_warning(self.spread)

    def columns(self, prefix: str = "latency") -> dict[str, float | int | None]:
        """As `LatencyShare.columns`; the network that others are compared with has share 1 and no interval."""
        if self.relative is not None:
            return self.relative.columns(prefix)
        values = (self.median_ms, 1.0, None, None, self.spread, self.repeats)
        return dict(zip(column_names(prefix), values, strict=True))

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"spread": self.spread, "busy": self.busy}

    @classmethod
    def from_json(cls, value: Any) -> Latency:
        """Read `to_json` back; raises TypeError, KeyError or ValueError for anything else."""
        relative = value.get("relative")
        if relative is not None:
            interval = relative["interval"]
            relative = LatencyShare(
                float(relative["share"]),
                None if interval is None else (float(interval[0]), float(interval[1])),
                int(relative["rounds"]),
                float(relative["before_ms"]),
                float(relative["spread"]),
            )
        low, high = value["quartiles_ms"]
        return cls(
            float(value["median_ms"]),
            (float(low), float(high)),
            int(value["batch_size"]),
            int(value["repeats"]),
            int(value["threads"]),
            relative,
        )

    def __str__(self) -> str:
        return f"{milliseconds(self.median_ms)} per batch of {self.batch_size}"


def busy_warning(spread: float | None) -> str:
    """The sentence for times taken on a busy machine; "" for a quiet one.

    Args:
        spread: see `LatencyShare`.

    Example:
        >>> busy_warning(0.23), busy_warning(0.02)
        ('measured on a busy machine: spread 23 %', '')
    """
    return f"measured on a busy machine: spread {100 * spread:.0f} %" if spread is not None and spread > BUSY else ""


def in_turn(calls: Sequence[Callable[[], object]], warmup: int = 3) -> Iterator[tuple[float, ...]]:
    """Milliseconds of each call, round after round; every other round runs in reverse order.

    Take an even number of rounds where calls are to be compared: the median ratio then lies between those of both
    orders.

    Args:
        calls: each returns when its work is done.
        warmup: rounds that are not given.
    """
    order, done = list(range(len(calls))), 0
    while True:
        order.reverse()
        times = [0.0] * len(calls)
        for index in order:
            start = clock()
            calls[index]()
            times[index] = 1000 * (clock() - start)
        done += 1
        if done > warmup:
            yield tuple(times)


def until_known(
    rounds: Iterator[tuple[float, ...]],
    precision: float,
    repeats: tuple[int, int],
    seconds: tuple[float, float],
) -> np.ndarray:
    """Times [R, 2] of two calls, until the ratio of the second to the first is known well enough.

    On a busy machine all the time is taken: other processes come and go within seconds, and favour one or the other
    network meanwhile.

    Args:
        rounds: from `in_turn`.
        precision: relative half width of the interval at which measuring ends.
        repeats: fewest and most rounds. Their number is even, so that both orders are in it equally often: in one of
            them drift favours the first network, in the other the second.
        seconds: least and most, once the fewest rounds are done.
    """
    import numpy as np

    times = [next(rounds)]  # after warming up
    begin = clock()
    while True:
        times.append(next(rounds))
        spent = clock() - begin
        if len(times) % 2 or len(times) < repeats[0] or (spent < seconds[0] and len(times) < repeats[1]):
            continue
        found = np.array(times)
        share = share_of(found, 1, 0)
        if len(times) >= repeats[1] or spent > seconds[1] or (share.uncertainty <= precision and not share.busy):
            return found


def share_of(times_RN: np.ndarray, after: int, before: int, before_ms: float | None = None) -> LatencyShare:
    """Time of network ``after`` as a share of network ``before``'s.

    Args:
        times_RN: milliseconds of networks timed in turn.
        after: column.
        before: column.
        before_ms: milliseconds of ``before``; None: its median.
    """
    import numpy as np

    ratios = times_RN[:, after] / times_RN[:, before]
    low, middle, high = (float(q) for q in np.quantile(times_RN[:, before], (0.25, 0.5, 0.75)))
    spread = (high - low) / middle
    interval = _interval(ratios)
    if interval is not None and spread > BUSY and len(ratios) >= 2 * _STRETCHES:
        medians = [float(np.median(stretch)) for stretch in np.array_split(ratios, _STRETCHES)]
        interval = min(interval[0], *medians), max(interval[1], *medians)
    whole = middle if before_ms is None else before_ms
    return LatencyShare(float(np.median(ratios)), interval, len(ratios), whole, spread)


def _interval(ratios_R: np.ndarray) -> tuple[float, float] | None:
    """Of the median, from independent ratios."""
    import numpy as np

    rank, ordered = _rank(len(ratios_R)), np.sort(ratios_R)
    return None if rank is None else (float(ordered[rank]), float(ordered[-1 - rank]))


def latencies(
    times_RN: np.ndarray, batch_size: int, threads: int, against: Sequence[int] | None = None
) -> list[Latency]:
    """Latency of each network.

    Args:
        times_RN: milliseconds of networks timed in turn.
        batch_size: samples per batch.
        threads: see `Latency`.
        against: for each network but the first the one it is compared with, which stands before it; None: the first.

    Example:
        >>> import numpy as np
        >>> first, second = latencies(np.array([[2.0, 1.0], [4.0, 2.0], [3.0, 1.5]]), 8, 1)
        >>> first.median_ms, second.median_ms, second.relative.share
        (3.0, 1.5, 0.5)
    """
    import numpy as np

    found: list[Latency] = []
    for place, times in enumerate(times_RN.T):
        relative = None
        if place:
            other = 0 if against is None else against[place - 1]
            relative = share_of(times_RN, place, other, found[other].median_ms)
            times = times / times_RN[:, other] * relative.before_ms
        low, middle, high = (float(q) for q in np.quantile(times, (0.25, 0.5, 0.75)))
        found.append(Latency(middle, (low, high), batch_size, len(times), threads, relative))
    return found


@cache
def _rank(count: int) -> int | None:
    """The highest k for which the values of ranks k and -1 - k hold the median with 95 % confidence, if any does.

    Example:
        >>> _rank(5), _rank(6), _rank(9), _rank(15)
        (None, 0, 1, 3)
    """
    outside, rank = 0.0, None
    for k in range(count // 2):
        outside += math.comb(count, k) / 2 ** (count - 1)
        if outside > 0.05:
            break
        rank = k
    return rank


def _finite(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    return float(value) if math.isfinite(value) else None
