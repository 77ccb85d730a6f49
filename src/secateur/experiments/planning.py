"""How long a study will take on so many workers, from the seconds that finished cells of its store took."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import ValidationError

from secateur.core.addresses import settings_without_secrets
from secateur.core.errors import RequestError
from secateur.experiments.cells import Cell
from secateur.experiments.resources import StoredResources
from secateur.experiments.running import named_cells
from secateur.experiments.settings import Effect, settings_for
from secateur.experiments.store import Store, stored_coordinates
from secateur.experiments.study import Study

FEWEST = 5
"""Measured cells of a stage, for a range; of fewer there is only the mean."""

_LEAST_DRAWS, _MOST_DRAWS, _CELLS_DRAWN = 20, 400, 2_000_000
"""Draws for a range, and cells of all of them together."""

_ENDS = (5, 95)
"""Percentiles of a range."""


@dataclass(frozen=True)
class Duration:
    """Seconds that are expected.

    Attributes:
        seconds: expected.
        low, high: 90 % of drawn schedules lie between; None: too few cells were measured.
    """

    seconds: float
    low: float | None = None
    high: float | None = None

    def scaled(self, factor: float) -> Duration:
        """Times a factor, as for a price."""
        ends = [None if end is None else factor * end for end in (self.low, self.high)]
        return Duration(factor * self.seconds, *ends)

    def text(self, say: Callable[[float], str] | None = None) -> str:
        """In words, with the range where there is one.

        Args:
            say: how a number is written; None: as a time.

        Example:
            >>> Duration(7200.0, 6480.0, 8280.0).text(), Duration(30.0).text()
            ('2.0 h (1.8 h to 2.3 h)', '30 s')
        """
        said = say or (lambda value: _words(value, self.seconds))
        if self.low is None or self.high is None or said(self.low) == said(self.high):
            return said(self.seconds)
        return f"{said(self.seconds)} ({said(self.low)} to {said(self.high)})"


@dataclass(frozen=True)
class StageEstimate:
    """Of one stage.

    Attributes:
        stage: its name.
        finished: cells of this request that are in the store, matched ones included.
        missing: cells that are not.
        measured: finished cells of the stage in the store, of any request: their seconds are what is known.
        workers: that work on it; one for a stage that takes times.
        duration: None: cells are missing and nothing was measured.
        unnamed: cells that have no identity yet, since something that it depends on is not made.
        matched: those of them that count as finished: the store has a finished cell with the same coordinates, and the
            run that asked for it had the same settings of results and inputs.
    """

    stage: str
    finished: int
    missing: int
    measured: int
    workers: int
    duration: Duration | None
    unnamed: int = 0
    matched: int = 0


@dataclass(frozen=True)
class Estimate:
    """Of a whole run.

    Attributes:
        workers: that were asked for.
        stages: in their order, one after another.
        unready: shared resources that are made first; how long they take is not known.
        total: of all stages; None: a stage is not known.
    """

    workers: int
    stages: Sequence[StageEstimate]
    unready: Sequence[str]
    total: Duration | None

    def lines(self, price_per_hour: float | None = None) -> list[str]:
        """For the terminal.

        Args:
            price_per_hour: of one worker; all are paid for until the end.
        """
        found = []
        for each in self.stages:
            begin = f"{each.stage}: {each.missing:,} cells missing, {each.finished:,} finished"
            if not each.missing:
                said = "nothing to do"
            elif each.duration is None:
                said = "no cell was measured yet, nothing is known"
            else:
                worker = "1 worker" if each.workers == 1 else f"{each.workers:,} workers"
                said = f"{each.duration.text()} on {worker}, by {each.measured:,} measured cells"
            found.append(f"{begin}; {said}")
        if self.unready:
            found.append(f"made first, once, and not in the time: {', '.join(self.unready)}")
        for each in self.stages:
            if each.unnamed:
                found.append(
                    f"not exact: {each.unnamed:,} cells of '{each.stage}' have no identity until that is made; "
                    f"{each.matched:,} of them count as finished, because the store has finished cells with their "
                    "coordinates and settings, the others as missing"
                )
        if self.total is None:
            found.append("whole time: not known; run a few cells of each stage, and ask again")
            return found
        found.append(f"whole time on {self.workers:,} workers: {self.total.text()}")
        if price_per_hour is not None:
            cost = self.total.scaled(self.workers * price_per_hour / 3600).text("{:,.2f}".format)
            found.append(f"cost at {price_per_hour:g} per worker and hour, all paid until the end: {cost}")
        return found


def estimate(study: Study[Any, Any], store: Store | None, workers: int, seed: int = 0) -> Estimate:
    """How long the cells that a store does not have will take.

    Stages run one after another, as do rounds of cells that need others of their own stage; cells of one batch are
    worked on by one worker, and the next free worker takes the next batch. A cell takes what finished cells of its
    stage took: the expected time is the mean of schedules with seconds drawn from them, after those were drawn anew
    themselves (a bootstrap), so that few measured cells give a wide range; of fewer than five, that of their mean.

    Nothing is made for it. A cell whose identity depends on a shared resource that is not made, such as the weights of
    a network that is not trained, has none yet: it is looked for by coordinates and settings, and
    `StageEstimate.unnamed` says of how many cells that holds.

    Args:
        study: with its settings.
        store: of it; None: there is none yet.
        workers: how many.
        seed: of the draws.

    Raises:
        RequestError: for fewer than one worker.
    """
    if workers < 1:
        raise RequestError(f"{workers} workers cannot work; give --workers 1 or more")
    unready = [str(resource) for resource in study.shared() if not resource.ready()]
    times = {} if store is None else store.times()
    measured: dict[str, list[float]] = {stage: [] for stage in study.stages}
    for stage, seconds in times.values():
        measured.setdefault(stage, []).append(seconds)
    cells, generator = list(study.cells()), np.random.default_rng(seed)
    named, unnamed = named_cells(study, StoredResources(), cells) if times else ({}, set[Cell]())
    matched = _matched(study, store, unnamed) if store is not None and unnamed else set[Cell]()
    stages, draws = [], []
    for stage in study.stages:
        own = [cell for cell in cells if cell.stage == stage]
        missing = [cell for cell in own if named.get(cell) not in times and cell not in matched]
        here = 1 if stage in study.alone else workers
        known = np.asarray(measured[stage], float)
        duration: Duration | None = None
        if not missing:
            duration = Duration(0.0, 0.0, 0.0)
            draws.append(np.zeros(1))
        elif len(known):
            rounds = _rounds(study, missing)
            drawn = _drawn(rounds, known, len(missing), here, generator)
            by_mean = _schedule(rounds, [float(known.mean())] * len(missing), here)
            expected = float(drawn.mean()) if len(drawn) else by_mean  # many draws see that the last batches wait
            draws.append(drawn if len(drawn) else np.full(1, np.nan))
            low, high = _range(drawn)
            duration = Duration(expected, low, high)
        finished, unknown, alike = len(own) - len(missing), unnamed.intersection(own), matched.intersection(own)
        stages.append(
            StageEstimate(stage, finished, len(missing), len(known), here, duration, len(unknown), len(alike))
        )
    durations = [each.duration for each in stages if each.duration is not None]
    total = None
    if len(durations) == len(stages):
        size = max(len(each) for each in draws)
        whole = sum(np.resize(generator.permutation(each), size) for each in draws)
        low, high = _range(np.asarray(whole))
        total = Duration(sum(each.seconds for each in durations), low, high)
    return Estimate(workers, stages, unready, total)


def _matched(study: Study[Any, Any], store: Store, cells: Collection[Cell]) -> set[Cell]:
    """Cells of which the store has a finished one with the same coordinates, from a run with the same settings."""
    wanted, found = {(cell.stage, stored_coordinates(cell)): cell for cell in cells}, set[Cell]()
    for run, finished in store.finished().items():
        there = wanted.keys() & finished
        stages = _stages_alike(study, store.settings(run)) if there else set()
        found |= {wanted[key] for key in there if key[0] in stages}
    return found


def _stages_alike(study: Study[Any, Any], settings: Mapping[str, Any]) -> set[str]:
    """Stages whose results depend on the same settings in a run; none where it opened other inputs."""
    try:
        before = type(study)(type(study.settings).model_validate(settings))
    except ValidationError:  # of another version
        return set()
    plain = settings_without_secrets
    inputs = [plain(settings_for(each.settings, Effect.INPUTS)) for each in (before, study)]
    if inputs[0] != inputs[1]:
        return set()
    return {stage for stage in study.stages if plain(before.sections(stage)) == plain(study.sections(stage))}


_Rounds = Sequence[Sequence[Sequence[int]]]
"""Rounds, one after another; each has batches, which hold numbers of cells."""


def _rounds(study: Study[Any, Any], missing: Sequence[Cell]) -> _Rounds:
    """As a run works on them; see `secateur.experiments.running`."""
    numbers = {cell: number for number, cell in enumerate(missing)}
    left, found = dict.fromkeys(missing), []
    while left:
        ready = [cell for cell in left if not any(other in left for other in study.needs(cell))]
        if not ready:
            raise RequestError(f"cells of study '{study.name}' need each other in a circle, as ({next(iter(left))})")
        batches: dict[Any, list[int]] = {}
        for cell in ready:
            batches.setdefault(study.batch(cell), []).append(numbers[cell])
        found.append(list(batches.values()))
        done = set(ready)
        left = {cell: None for cell in left if cell not in done}
    return found


def _schedule(rounds: _Rounds, seconds: Sequence[float], workers: int) -> float:
    """Seconds until the last batch of the last round is done."""
    whole = 0.0
    for batches in rounds:
        spent = [sum(seconds[number] for number in batch) for batch in batches]
        free = [0.0] * min(workers, len(spent))
        for each in spent:
            heapq.heapreplace(free, free[0] + each)
        whole += max(free)
    return whole


def _drawn(
    rounds: _Rounds, measured: np.ndarray, count: int, workers: int, generator: np.random.Generator
) -> np.ndarray:
    """Seconds of drawn schedules; none where too few cells were measured."""
    if len(measured) < FEWEST:
        return np.empty(0)
    draws = int(np.clip(_CELLS_DRAWN // count, _LEAST_DRAWS, _MOST_DRAWS))
    found = np.empty(draws)
    for index in range(draws):
        known = generator.choice(measured, len(measured))
        found[index] = _schedule(rounds, generator.choice(known, count).tolist(), workers)
    return found


def _range(drawn: np.ndarray) -> tuple[float | None, float | None]:
    if not len(drawn) or np.isnan(drawn).any():
        return None, None
    low, high = np.percentile(drawn, _ENDS)
    return float(low), float(high)


def _words(seconds: float, beside: float) -> str:
    """As a time, in the unit of one that stands beside it."""
    if beside < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.1f} min" if beside < 7200 else f"{seconds / 3600:,.1f} h"
