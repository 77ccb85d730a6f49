"""Running a study: what is missing is worked out, what is finished is found in the store."""

from __future__ import annotations

import shlex
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from secateur.core.errors import RequestError, SecateurError
from secateur.core.garbage import collection_paused
from secateur.core.interruption import keeping
from secateur.core.progress import ProgressOption, reported, track
from secateur.experiments.cells import Cell, identity
from secateur.experiments.executors import Done, Executor, Here, Job, execution_of, executor_for
from secateur.experiments.leases import Holder
from secateur.experiments.resources import NotMadeError, Resources
from secateur.experiments.status import Failure
from secateur.experiments.store import Store
from secateur.experiments.study import Study

_LOOK, _LONGEST_LOOK = 0.25, 5.0
"""Seconds between two looks at cells that another run works on, at first and at most."""

_CELLS_AHEAD = 500
"""Cells of several jobs that are looked at in one transaction."""


@dataclass(frozen=True)
class Outcome:
    """What a run did.

    Attributes:
        made: cells that were finished now.
        found: cells that were finished before.
        failures: cells that failed, in the order of the table.
    """

    made: int
    found: int
    failures: Sequence[Failure] = field(default_factory=tuple)

    def raise_failures(self, store: Store) -> None:
        """Raise `SecateurError` when cells failed: how many, why the first did, and how to repeat only it."""
        if not self.failures:
            return
        first, count = self.failures[0], self.made + self.found + len(self.failures)
        command = f"secateur study retry --store {shlex.quote(str(store))} --cell {first.identity[:12]}"
        raise SecateurError(
            f"{len(self.failures)} of {count} cells failed, the first ({first.cell}): {first.error}; "
            f"the others are kept; to repeat only this one: {command}"
        )


@reported("running the study")
def run(
    study: Study[Any, Any],
    store: Store,
    executor: Executor | None = None,
    *,
    only: Collection[str] | None = None,
    resources: Resources | None = None,
    command: str = "",
    progress: ProgressOption = True,
) -> Outcome:
    """Work out the cells of a study that the store does not have, failed ones included.

    Results do not depend on the order of the cells, the number of processes, or how often the run was interrupted.
    Several runs may work on one store at a time: each cell is worked on by one of them, and all end when all is done.

    Args:
        study: with its settings.
        store: of this study.
        executor: where cells are worked on; None: where the settings say (``execution``), or here.
        only: identities of the cells to work on, or their beginnings: those that are finished are worked on again, as
            when a file of theirs was lost; None: all that are missing.
        resources: of this process, where some are at hand.
        command: kept in the store.
        progress: who is told of it, see `secateur.core.progress.ProgressOption`.

    Raises:
        RequestError: before any work, for what the study refuses, or two cells with the same identity.
        SecateurError: when the store cannot be written.
    """
    study.check()
    here = resources or (executor.resources if isinstance(executor, Here) else Resources())
    if executor is None:
        with executor_for(execution_of(study), here) as chosen:
            return _run(study, store, chosen, here, only, command)
    return _run(study, store, executor, here, only, command)


def identities(study: Study[Any, Any], resources: Resources | None) -> dict[str, Cell]:
    """All cells of a study by identity, in the order of the table.

    The identity of a cell that needs others' results holds their identities.

    Args:
        study: with its settings.
        resources: from which inputs are opened for their fingerprints; None: none are opened, and the identities are
            not those that a run has.

    Raises:
        RequestError: for two cells of the same identity, an unknown stage, or a need that no cell before it meets.
    """
    with collection_paused():
        cells = list(study.cells())
        names, unnamed = named_cells(study, resources, cells)
        assert not unnamed  # all resources can be made
        return {names[cell]: cell for cell in cells}


def named_cells(
    study: Study[Any, Any], resources: Resources | None, cells: Sequence[Cell]
) -> tuple[dict[Cell, str], set[Cell]]:
    """Identities of all cells of a study, and those cells that have none, since what they need is not made.

    Args:
        study: with its settings.
        resources: see `identities`; they may raise `NotMadeError`.
        cells: of the study.

    Raises:
        RequestError: as `identities`.
    """
    unknown = [cell for cell in cells if cell.stage not in study.stages]
    if unknown:
        stages = ", ".join(study.stages)
        raise RequestError(f"a cell of study '{study.name}' has stage '{unknown[0].stage}'; known: {stages}")
    names, unnamed = dict[Cell, str](), set[Cell]()
    found: set[str] = set()
    for stage in study.stages:
        sections = study.sections(stage)
        for cell in (cell for cell in cells if cell.stage == stage):
            needs = study.needs(cell)
            for other in needs:
                if other not in names and other not in unnamed:
                    raise RequestError(f"cell ({cell}) of study '{study.name}' needs ({other}), which is not before it")
            try:
                inputs = {} if resources is None else dict(study.inputs(cell, resources))
            except NotMadeError:
                unnamed.add(cell)
                continue
            if not unnamed.isdisjoint(needs):
                unnamed.add(cell)
                continue
            for other in needs:
                inputs[f"result of {names[other]}"] = names[other]
            name = identity(study.name, study.version, cell, sections, inputs)
            if name in found:
                raise RequestError(f"study '{study.name}' has two cells with the same identity: {cell}; leave one out")
            names[cell] = name
            found.add(name)
    return names, unnamed


def _run(
    study: Study[Any, Any],
    store: Store,
    executor: Executor,
    here: Resources,
    only: Collection[str] | None,
    command: str,
) -> Outcome:
    unready = [resource for resource in study.shared() if not resource.ready()]
    for _ in track(executor.prepare(study, unready), "shared resources", len(unready)) if unready else ():
        pass
    cells = identities(study, here)
    missing = store.start(list(cells.items()), study.settings.model_dump(mode="json"), command)
    wanted = missing if only is None else _named(cells, only)
    store.discard(wanted - missing)
    found = len(cells) - len(missing | wanted)
    with keeping(store.kept):
        for stage in study.stages:
            names = [name for name, cell in cells.items() if cell.stage == stage and name in wanted]
            where = Here(here) if stage in study.alone else executor
            title = "cells" if len(study.stages) == 1 else f"cells: {stage}"
            before = sum(cell.stage == stage for cell in cells.values()) - len(names)
            with Holder(store.leases) as holder:
                work = _Work(study, store, where, cells, holder).on(names)
                for _ in track(work, title, before + len(names), done=before) if names else ():
                    pass
    failures = [failure for failure in store.failures() if failure.identity in wanted]
    return Outcome(len(wanted) - len(failures), found, failures)


@dataclass(frozen=True)
class _Work:
    """Cells that are worked on somewhere, and kept; each identity is given when its result is.

    Cells that need others of the same call are worked on when these are finished. Those that another run works on are
    waited for, and taken over when it ends without a result.
    """

    study: Study[Any, Any]
    store: Store
    executor: Executor
    cells: Mapping[str, Cell]
    holder: Holder

    def on(self, names: Sequence[str]) -> Iterator[str]:
        """Round by round."""
        known, waiting = {cell: name for name, cell in self.cells.items()}, list(names)
        while waiting:
            there = set(waiting)
            needs = {name: {known[cell] for cell in self.study.needs(self.cells[name])} for name in waiting}
            yield from self._round([name for name in waiting if not needs[name] & there])
            waiting = [name for name in waiting if needs[name] & there]

    def _round(self, names: Sequence[str]) -> Iterator[str]:
        """Cells that need none of each other."""
        left, pause = list(names), _LOOK
        while left:
            jobs, blocked = _jobs(self.study, self.store, left, self.cells)
            for name, reason in blocked.items():
                self.store.fail(name, reason, time.time(), 0.0)
                yield name
            done_here = set(blocked)
            for finished in self.executor.work(self.study, self._taken(jobs)):
                for done in finished:
                    _keep(self.store, done)
                    done_here.add(done.identity)
                    yield done.identity
            left = [name for name in left if name not in done_here]
            ended = self.store.leases.ended(left) if left else set()
            yield from ended
            left = [name for name in left if name not in ended]
            pause = _LOOK if done_here or ended else min(_LONGEST_LOOK, 2 * pause)
            if left:
                time.sleep(pause)

    def _taken(self, jobs: Sequence[Job]) -> Iterator[Job]:
        """Jobs as they are begun, with those of their cells that no other run works on.

        All runs have the same order. One that meets jobs of others passes over ever more of them in one transaction:
        else each run would ask for each job, and the store would be asked as often as there are runs times jobs.
        """
        position, passed, ahead = 0, 0, 1
        while position < len(jobs):
            at_once = max(1, _CELLS_AHEAD // len(jobs[position].cells))
            some = jobs[position : position + min(ahead, at_once)]
            index, mine = self.holder.take_first([[identity for identity, _ in job.cells] for job in some])
            position, passed = position + index + 1, passed + index
            if mine:
                job = some[index]
                yield replace(job, cells=tuple(cell for cell in job.cells if cell[0] in mine))
                ahead, passed = 1 + 2 * passed, 0
            else:
                position, ahead = position - 1, 2 * ahead


def _keep(store: Store, done: Done) -> None:
    if done.result is not None:
        store.finish(done.identity, done.result, done.started, done.seconds, done.host)
    else:
        store.fail(done.identity, done.error, done.started, done.seconds, done.host)


def _jobs(
    study: Study[Any, Any], store: Store, names: Sequence[str], cells: Mapping[str, Cell]
) -> tuple[list[Job], dict[str, str]]:
    """Cells of the same batch together, in the order of the table; and cells that cannot be worked on, with reasons."""
    known = {cell: name for name, cell in cells.items()}
    needs = {name: {cell: known[cell] for cell in study.needs(cells[name])} for name in names}
    results = store.results({name for needed in needs.values() for name in needed.values()})
    batches: dict[Any, list[tuple[str, Cell]]] = {}
    blocked = {}
    for name in names:
        lacking = [cell for cell, other in needs[name].items() if other not in results]
        if lacking:
            blocked[name] = f"it needs the result of ({lacking[0]}), which is not finished"
        else:
            batches.setdefault(study.batch(cells[name]), []).append((name, cells[name]))
    jobs = []
    for batch in batches.values():
        earlier = {cell: results[other] for name, _ in batch for cell, other in needs[name].items()}
        jobs.append(Job(tuple(batch), earlier))
    return jobs, blocked


def _named(cells: Mapping[str, Cell], only: Collection[str]) -> set[str]:
    """Identities that begin with the given texts."""
    found = set()
    for text in only:
        matching = [name for name in cells if name.startswith(text)]
        if len(matching) != 1:
            reason = "not the only one that begins so" if matching else "none of this run's"
            raise RequestError(f"cell '{text}' is {reason}; `secateur study status` lists the failed ones")
        found.add(matching[0])
    return found
