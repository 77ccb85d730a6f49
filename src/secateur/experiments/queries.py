"""What is read of the cells of a store: how far the last run is, how fast, what took how long."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from secateur.experiments.database import clock, utc
from secateur.experiments.status import FAILED, FINISHED, WAITING, Pace, Status


def last_run(runs: sa.Table) -> sa.ScalarSelect[Any]:
    """Number of the last run."""
    return sa.select(sa.func.max(runs.c.number)).scalar_subquery()


def read_status(connection: sa.Connection, study: str, cells: sa.Table, runs: sa.Table) -> Status:
    """See `Store.status`."""
    query = (
        sa.select(cells.c.stage, cells.c.state, sa.func.count(), sa.func.max(cells.c.finished))
        .where(cells.c.run == last_run(runs))
        .group_by(cells.c.state, cells.c.stage)  # as the index has them
    )
    counts: dict[str, dict[str, int]] = {}
    latest = ""
    for stage, state, number, finished in connection.execute(query):
        counts.setdefault(stage, {})[state] = number
        latest = max(latest, finished or "")
    last = connection.execute(sa.select(runs.c.started, runs.c.command).order_by(runs.c.number.desc()).limit(1)).first()
    started, command = last or ("", "")
    return Status(study, counts, started, latest, command)


def read_paces(connection: sa.Connection, cells: sa.Table, runs: sa.Table, window: float) -> list[Pace]:
    """See `Store.paces`."""
    last = connection.execute(sa.select(runs.c.started).order_by(runs.c.number.desc()).limit(1)).scalar()
    if last is None:
        return []
    now = clock(connection)
    begin = max(now - window, datetime.fromisoformat(last).timestamp())
    seconds = max(now - begin, 1.0)
    query = sa.select(cells.c.stage, sa.func.count()).where(cells.c.run == last_run(runs)).group_by(cells.c.stage)
    left = connection.execute(query.where(cells.c.state == WAITING))
    waiting = {str(stage): int(number) for stage, number in left}
    done = query.where(cells.c.state.in_((FINISHED, FAILED)), cells.c.finished > utc(begin))
    return [Pace(stage, number, seconds, waiting.get(stage, 0)) for stage, number in connection.execute(done)]


def read_times(connection: sa.Connection, cells: sa.Table) -> dict[str, tuple[str, float]]:
    """See `Store.times`."""
    query = sa.select(cells.c.identity, cells.c.stage, cells.c.seconds).where(cells.c.state == FINISHED)
    return {name: (stage, seconds or 0.0) for name, stage, seconds in connection.execute(query)}


def read_finished(connection: sa.Connection, cells: sa.Table) -> dict[int, set[tuple[str, str]]]:
    """See `Store.finished`."""
    query = sa.select(cells.c.run, cells.c.stage, cells.c.coordinates).where(cells.c.state == FINISHED)
    found: dict[int, set[tuple[str, str]]] = {}
    for run, stage, coordinates in connection.execute(query):
        found.setdefault(run, set()).add((stage, coordinates))
    return found
