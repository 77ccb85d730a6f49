"""Latency budgets: the pruned network is measured against the original, and the request corrected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from torch import nn

from secateur.core.progress import task
from secateur.data import ReferenceSet
from secateur.evaluation import Latency, LatencyShare, compare_latency, measure_latency
from secateur.selection import LatencyModel, Plan, UnreachableBudgetError
from secateur.selection.timing import shared_table
from secateur.structure import Structure

AIM = 0.05
"""Measuring and correcting ends within 5 % of the request."""

TOLERANCE = 0.10
"""A latency budget counts as met within 10 % of the request."""

ROUNDS = 6
_SLOWED = 1.15
_AGREEMENT = 0.03
_LEAST_CHANGE = 0.003

Choose = Callable[[float], Plan]
"""From a share of predicted latency to a plan."""


class LatencySettings(Protocol):
    """The part of `secateur.PruneSettings` for the measurement of time."""

    @property
    def latency_batch(self) -> int: ...  # noqa: D102
    @property
    def latency_threads(self) -> int | None: ...  # noqa: D102
    @property
    def latency_channels_last(self) -> bool: ...  # noqa: D102
    @property
    def latency_table(self) -> str | None: ...  # noqa: D102


def latency_model(model: nn.Module, structure: Structure, settings: LatencySettings) -> LatencyModel:
    """A model that predicts the network's time from its layers only, on its device and in its precision."""
    parameter = next(model.parameters())
    table = shared_table(
        settings.latency_batch,
        settings.latency_threads,
        str(parameter.device),
        parameter.dtype,
        settings.latency_channels_last,
        settings.latency_table,
    )
    return LatencyModel(structure, table)


@dataclass(frozen=True, eq=False)
class _Try:
    asked: float
    plan: Plan
    times: tuple[Latency, Latency]
    last: UnreachableBudgetError | None

    @property
    def found(self) -> LatencyShare:
        return _share(self.times)


class LatencyGoal:
    """Brings the measured latency to the requested share.

    A plan is selected for a predicted share, its network is measured in turn with the original, and the predicted share
    is corrected: first along the line through the unpruned network and the measurement, then between the nearest
    measurements above and below the request. The next budget starts from what was measured for the ones before.

    Attributes:
        predicted: the model that predicts times of the network, calibrated by one measurement.
        reached: times of the original and of the network of the last budget reached, measured in turn.
    """

    def __init__(
        self, model: nn.Module, structure: Structure, reference: ReferenceSet, settings: LatencySettings
    ) -> None:
        self._original = model
        self.reached: tuple[Latency, Latency] | None = None
        self._settings = settings
        inputs = reference.inputs
        repeated = inputs.repeat(-(-settings.latency_batch // len(inputs)), *[1] * (inputs.ndim - 1))
        self._inputs = repeated[: settings.latency_batch].to(next(model.parameters()).device)
        (whole,) = measure_latency(
            [model],
            self._inputs,
            threads=settings.latency_threads,
            channels_last=settings.latency_channels_last,
        )
        self.predicted = latency_model(model, structure, settings).calibrated(whole.median_ms)
        self._quiet_ms = whole.median_ms
        self._slope = 1.0  # predicted reduction per measured reduction

    def of(self, structure: Structure) -> LatencyModel:
        """A goal for the current network, which was traced again."""
        return self.predicted.moved(structure)

    def intermediate(self, share: float, choose: Choose) -> Plan:
        """A plan on the way to a budget, by prediction only, corrected by the measurements so far.

        Its share is a little larger, because units that were removed too early cannot be put back.
        """
        return self._plan(self._aimed(min(share * (1 + AIM), (1 + share) / 2)), choose)[0]

    def learn(self, share: float, choose: Choose, build: Callable[[Plan], nn.Module]) -> None:
        """Measure one plan for ``share``, so that intermediate plans are predicted better."""
        asked = self._aimed(share)
        plan, _ = self._plan(asked, choose)
        self._note(asked, _share(self._measure(build(plan))).share)

    def reach(self, share: float, choose: Choose, build: Callable[[Plan], nn.Module]) -> tuple[Plan, str]:
        """The plan whose network takes ``share`` of the original's time.

        Args:
            share: share of the measured time.
            choose: returns the plan for a predicted share.
            build: returns the network of a plan.

        Returns:
            The plan, whose ``achieved`` holds the measured share as ``latency``; and a remark where it is off by more
            than 10 %, else "".

        Raises:
            RequestError: when all removable units are removed and the time is more than 10 % above the request.
        """
        tries: list[_Try] = []
        asked: float | None = self._aimed(share)
        with task(f"networks measured for {share:.0%} of the latency") as measured:
            while asked is not None and len(tries) < ROUNDS:
                plan, last = self._plan(asked, choose)
                same = next((t for t in tries if t.plan.removed == plan.removed), None)
                times = self._measure(build(plan)) if same is None else same.times
                if same is None and (last is not None or abs(_share(times).share / share - 1) <= AIM):
                    times = _middle([times, self._measure(build(plan))])  # chance does not decide twice
                tries.append(_Try(asked if last is None else last.least, plan, times, last))
                asked = None if abs(_share(times).share / share - 1) <= AIM else _next(tries, share)
                measured.advance()
        best = min(tries, key=lambda t: abs(t.found.share - share))
        if best.last is not None and best.found.share > share * (1 + TOLERANCE):
            raise UnreachableBudgetError(f"{share:.1%} of latency", best.found.share, best.last.binding)
        self._note(best.asked, best.found.share)
        self.predicted.table.save()
        self.reached = best.times
        plan = replace(best.plan, achieved={**best.plan.achieved, "latency": best.found.share})
        return plan, _remark(tries, best, share)

    def _aimed(self, share: float) -> float:
        """The predicted share at which about ``share`` will be measured."""
        return share if share >= 1 else min(0.995, max(0.01, 1 - (1 - share) * self._slope))

    def _note(self, asked: float, measured: float) -> None:
        if measured < 0.98:  # closer to the original, noise exceeds the difference
            self._slope = min(3.0, max(0.3, (1 - asked) / (1 - measured)))

    def _plan(self, asked: float, choose: Choose) -> tuple[Plan, UnreachableBudgetError | None]:
        """A plan for the predicted share, or the smallest that can be reached."""
        try:
            return choose(asked), None
        except UnreachableBudgetError as error:
            return choose(error.least), error

    def _measure(self, slim: nn.Module) -> tuple[Latency, Latency]:
        """The median of up to five runs, among those in which the original is about as fast as in its best run.

        Within a run, a busy machine may favour one network for a second or two; several runs that agree are more
        reliable than one long run.
        """
        runs: list[tuple[Latency, Latency]] = []
        while True:
            run = compare_latency(
                self._original,
                slim,
                self._inputs,
                threads=self._settings.latency_threads,
                channels_last=self._settings.latency_channels_last,
            )
            self._quiet_ms = min(self._quiet_ms, run[0].median_ms)
            runs.append(run)
            quiet = [r for r in runs if r[0].median_ms <= _SLOWED * self._quiet_ms]
            if len(runs) == 5 or (len(quiet) > 1 and _disagreement(quiet) <= _AGREEMENT):
                return _middle(quiet or runs)


def _share(times: tuple[Latency, Latency]) -> LatencyShare:
    relative = times[1].relative
    assert relative is not None
    return relative


def _disagreement(runs: list[tuple[Latency, Latency]]) -> float:
    """Half the range of the runs' shares, relative to their median."""
    shares = [_share(run).share for run in runs]
    return (max(shares) - min(shares)) / (max(shares) + min(shares))


def _middle(runs: list[tuple[Latency, Latency]]) -> tuple[Latency, Latency]:
    """The run with the median share (of an even number the larger of two); its interval is extended to all runs."""
    ordered = sorted(runs, key=lambda run: _share(run).share)
    before, after = ordered[len(runs) // 2]
    shares = [_share(run) for run in runs]
    ends = [end for share in shares for end in share.interval or (share.share,)]
    found = replace(
        _share((before, after)), interval=(min(ends), max(ends)), rounds=sum(share.rounds for share in shares)
    )
    return before, replace(after, repeats=found.rounds, relative=found)


def _next(tries: list[_Try], share: float) -> float | None:
    """The predicted share to try next; None when no other is expected to be closer."""
    at = [(1.0, 1.0), *((t.asked, t.found.share) for t in tries)]
    slow = min((pair for pair in at if pair[1] > share), default=at[0])
    fast = max((pair for pair in at if pair[1] <= share), default=None)
    if fast is None:
        if any(t.last is not None for t in tries):
            return None
        asked, measured = slow
        guess = 1 - (1 - share) * (1 - asked) / (1 - measured) if measured < 0.98 else 0.8 * asked
        return min(0.97 * asked, max(0.5 * asked, guess))
    width = slow[0] - fast[0]
    if width < _LEAST_CHANGE:
        return None  # neighbouring plans, or contradictory measurements
    if len(tries) >= ROUNDS // 2:
        return fast[0] + width / 2
    guess = fast[0] + width * (share - fast[1]) / (slow[1] - fast[1])
    return min(slow[0] - 0.1 * width, max(fast[0] + 0.1 * width, guess))


def _remark(tries: list[_Try], best: _Try, share: float) -> str:
    if abs(best.found.share / share - 1) <= TOLERANCE:
        return ""
    low, high = best.found.interval or (best.found.share, best.found.share)
    noisy = best.found.uncertainty > AIM or any(
        a.asked < b.asked and a.found.share > b.found.share * (1 + AIM) for a in tries for b in tries
    )
    reason = (
        "times on this machine are too noisy to decide; measure on a quieter one, or with more threads to itself"
        if noisy
        else "times change in steps; a smaller round_to or another strategy gives other steps"
    )
    return (
        f"latency {best.found.share:.1%} ({low:.1%} to {high:.1%}) for {share:.1%} asked, "
        f"the nearest of {len(tries)} measured: {reason}"
    )
