"""Clusters simulated event by event: workers, machines, drivers, and one store; see `cluster_simulation.py`.

What runs do (`secateur.experiments.running`) is followed: a driver leases jobs (batches of cells) in the order of the
table, twice as many as it has workers, so that none waits while the driver is quick enough. It keeps the results of a
job one cell after another, each in a transaction, and leases the next job in one. The store works on one transaction at
a time. Leases are renewed every 15 s. A stage begins when the one before is finished; several drivers see that when
they next look, every five seconds at most. All drivers have the same order, so that each passes over what others took.

Workers fail by themselves: their driver sees it and gives the job to another worker at once. Machines fail with all
their workers. The driver on such a machine goes too, and with it all its jobs, results that were not kept included:
they are free when their leases have run out, and are taken when a driver has been through the table. When the machine
is back, its driver names the cells and notes its run like a new one.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from secateur.experiments.leases import SECONDS as LEASE
from secateur.experiments.running import _CELLS_AHEAD as CELLS_AHEAD

RENEWED = 15.0
"""Seconds between two renewals of a driver's leases."""

FIRST_LOOK, LONGEST_LOOK = 0.25, 5.0
"""Seconds between two looks of a driver that waits for others, at first and at most."""

AHEAD = 2
"""Jobs that a driver leases for each of its workers."""

ON_A_MACHINE = 16
"""Workers."""


@dataclass(frozen=True)
class Operations:
    """Seconds.

    Attributes:
        store: which.
        lease: transaction that takes one cell.
        lease_each: for each cell more in it.
        look_each: for each cell that it passes over, since others have it.
        finish: transaction that keeps one cell's rows.
        renew: transaction that renews leases.
        renew_each: for each of them.
        driver: work of the driver for a job, besides.
        driver_each: likewise for each of its cells.
        name: to work out the identity of a cell, by each driver at its start.
        note: to note that a cell is wanted, by the first run.
        note_again: likewise by each run after it.
    """

    store: str
    lease: float = 0.0
    lease_each: float = 0.0
    look_each: float = 0.0
    finish: float = 0.0
    renew: float = 0.0
    renew_each: float = 0.0
    driver: float = 0.0
    driver_each: float = 0.0
    name: float = 0.0
    note: float = 0.0
    note_again: float = 0.0

    def store_seconds(self, batch: int) -> float:
        """Of transactions for each cell, where one driver works."""
        return self.finish + (self.lease + (batch - 1) * self.lease_each) / batch

    def driver_seconds(self, batch: int) -> float:
        """Likewise of all that a driver does, transactions included: it waits for them."""
        return self.store_seconds(batch) + self.driver_each + self.driver / batch


@dataclass(frozen=True)
class Cluster:
    """What is simulated.

    Attributes:
        workers: how many.
        drivers: that serve them; workers and machines are dealt out evenly, and driver n is on machine n.
        cells: of all stages.
        cell_seconds: mean.
        batch: cells in a job.
        spread: standard deviation of the logarithm of a cell's seconds.
        slow_share: of the cells, which take longer than others; the mean stays.
        slow_factor: how many times as long.
        longest_first: the order of cells; else it is random.
        stages: shares of the cells.
        shared: resources that are made before all cells, each by one worker.
        shared_seconds: of each.
        worker_hours: mean hours between two failures of one worker.
        machine_hours: likewise of one machine.
        worker_restart: seconds until a failed worker is back.
        machine_restart: likewise a machine.
        machine_failures: further ones, each at a time (seconds) of a machine (number).
    """

    workers: int
    drivers: int
    cells: int
    cell_seconds: float
    batch: int = 1
    spread: float = 0.5
    slow_share: float = 0.0
    slow_factor: float = 10.0
    longest_first: bool = False
    stages: tuple[float, ...] = (0.01, 0.99)
    shared: int = 0
    shared_seconds: float = 0.0
    worker_hours: float = 24.0
    machine_hours: float = 720.0
    worker_restart: float = 60.0
    machine_restart: float = 300.0
    machine_failures: tuple[tuple[float, int], ...] = ()

    @property
    def machines(self) -> int:
        """How many."""
        return max(self.drivers, -(-self.workers // ON_A_MACHINE))


class Simulation:
    """A cluster at work; see the module.

    Args:
        cluster: what is simulated.
        operations: seconds of what the store and drivers do.
        seed: of cell times and failures.

    Attributes:
        busy: seconds of workers on cells whose results were kept.
        store_busy: seconds of transactions.
        driver_busy: seconds of all drivers, transactions included.
        worker_failures, machine_failures: how many.
        repeated: jobs that were begun, or leased, and lost.
        starting: seconds until the first cell could be leased.
    """

    def __init__(self, cluster: Cluster, operations: Operations, seed: int = 0) -> None:
        self.cluster, self.operations = cluster, operations
        self.busy = self.store_busy = self.driver_busy = self.starting = 0.0
        self.worker_failures = self.machine_failures = self.repeated = 0
        self._random = np.random.default_rng(seed)
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number, self._store_free = 0, 0.0
        drivers, workers, machines = cluster.drivers, cluster.workers, cluster.machines
        self._machine_of = [worker % machines for worker in range(workers)]
        self._driver_of = [machine % drivers for machine in self._machine_of]
        self._machine_up = [True] * machines
        # workers: what an earlier epoch was to do is not done
        self._up, self._epoch, self._running = [True] * workers, [0] * workers, [-1] * workers
        # drivers, likewise by their life
        self._alive, self._life, self._serving = [False] * drivers, [0] * drivers, [False] * drivers
        self._idle: list[list[int]] = [[] for _ in range(drivers)]
        self._ready: list[deque[int]] = [deque() for _ in range(drivers)]  # jobs that are leased
        self._answers: list[deque[int]] = [deque() for _ in range(drivers)]  # jobs that are done, to be kept
        self._held: list[set[int]] = [set() for _ in range(drivers)]  # all jobs that are leased and not kept
        counts = Counter(self._driver_of)
        self._capacity = [AHEAD * counts[driver] for driver in range(drivers)]
        self._renewed, self._pause = [0.0] * drivers, [FIRST_LOOK] * drivers
        self._at, self._window, self._fresh = [0] * drivers, [1] * drivers, [False] * drivers

    def run(self) -> float:
        """Simulate all; seconds until the last cell is kept."""
        cluster, operations = self.cluster, self.operations
        naming, noting = operations.name * cluster.cells, operations.note * cluster.cells
        now = self.starting = self._store(naming, noting)
        if cluster.shared:
            now += -(-cluster.shared // cluster.workers) * cluster.shared_seconds
            self.busy += cluster.shared * cluster.shared_seconds
        for machine in range(cluster.machines):
            self._schedule_failure(0.0, machine)
        for when, machine in cluster.machine_failures:
            self._add(when, self._machine_fails, machine)
        for driver in range(cluster.drivers):
            self._renewed[driver] = now
            self._add(now + RENEWED * (driver + 1) / cluster.drivers, self._renew, driver)
            # the others note their runs one after another, while the first works
            begin = now if driver == 0 else self._store(naming, operations.note_again * cluster.cells)
            self._add(max(now, begin), self._awake, driver, 0)
        done = 0.0
        for share in cluster.stages:
            count = round((done + share) * cluster.cells) - round(done * cluster.cells)
            now, done = self._stage(now, count) if count else now, done + share
        return now

    def _stage(self, now: float, cells: int) -> float:
        batch, drivers = self.cluster.batch, self.cluster.drivers
        starts = range(0, cells, batch)
        self._times = np.add.reduceat(self._durations(cells), starts).tolist()
        self._sizes = [min(batch, cells - start) for start in starts]
        self._fails = self._failures(len(starts)).tolist()
        self._jobs, self._head, self._unfinished = len(self._times), 0, len(self._times)
        self._free: deque[int] = deque()  # jobs that were lost, and can be leased
        self._at, self._window, self._fresh = [0] * drivers, [1] * drivers, [False] * drivers
        for driver in range(drivers):
            if self._alive[driver]:
                delay = self._random.uniform(0, LONGEST_LOOK) if drivers > 1 else 0.0
                self._add(now + delay, self._awake, driver, self._life[driver])
        events, pop = self._events, heapq.heappop
        while self._unfinished:
            now, _, happens, arguments = pop(events)
            happens(now, *arguments)
        return now

    def _durations(self, count: int) -> np.ndarray:
        cluster = self.cluster
        middle = np.log(cluster.cell_seconds) - cluster.spread**2 / 2
        times = self._random.lognormal(middle, cluster.spread, count)
        if cluster.slow_share:
            slow = self._random.random(count) < cluster.slow_share
            times = times * np.where(slow, cluster.slow_factor, 1.0)
            times = times / (1 + cluster.slow_share * (cluster.slow_factor - 1))
        return -np.sort(-times) if cluster.longest_first else times

    def _failures(self, count: int) -> np.ndarray:
        """Seconds until workers fail, from the beginning of so many jobs."""
        return self._random.exponential(3600 * self.cluster.worker_hours, count)

    def _add(self, when: float, happens: Callable[..., None], *arguments: Any) -> None:
        self._number += 1
        heapq.heappush(self._events, (when, self._number, happens, arguments))

    def _store(self, now: float, spent: float) -> float:
        """A transaction that is asked for now; when it has ended."""
        if spent:
            self._store_free = max(now, self._store_free) + spent
            self.store_busy += spent
            return self._store_free
        return now

    # drivers

    def _awake(self, now: float, driver: int, life: int) -> None:
        """A driver has started, sees that a stage has begun, or looks again."""
        if life != self._life[driver]:
            return
        if not self._alive[driver]:
            self._alive[driver] = True
            mine = (worker for worker, of in enumerate(self._driver_of) if of == driver)
            self._idle[driver] = [worker for worker in mine if self._up[worker]]
        self._serve(now, driver)

    def _serve(self, now: float, driver: int) -> None:
        """Let a driver go on, unless it is at something: keep what is done, and lease what is to be done."""
        if self._serving[driver] or not self._alive[driver]:
            return
        answers, held = self._answers[driver], self._held[driver]
        thinking = 0.0
        if answers:
            thinking = self.operations.driver + self.operations.driver_each * self._sizes[answers[0]]
        elif len(held) >= self._capacity[driver] or not self._some_left():
            if not held and self._unfinished:  # what others have may come back
                self._add(now + self._pause[driver], self._awake, driver, self._life[driver])
                self._pause[driver] = min(LONGEST_LOOK, 2 * self._pause[driver])
            return
        self._serving[driver] = True
        self.driver_busy += thinking
        if self.cluster.drivers == 1 or not thinking:
            self._transact(now + thinking, driver, self._life[driver])
        else:  # other drivers' transactions may come first
            self._add(now + thinking, self._transact, driver, self._life[driver])

    def _some_left(self) -> bool:
        return self._head < self._jobs or bool(self._free)

    def _transact(self, now: float, driver: int, life: int) -> None:
        """The transactions of one turn: keep the results of a job, and lease another one."""
        if life != self._life[driver]:
            return
        answers, held = self._answers[driver], self._held[driver]
        spent, kept, job = 0.0, -1, -1
        if answers:
            kept = answers.popleft()
            spent = self.operations.finish * self._sizes[kept]
        if len(held) - (kept >= 0) < self._capacity[driver] and self._some_left():
            job, leasing = self._leased(driver)
            spent += leasing
            held.add(job)
            self._pause[driver] = FIRST_LOOK
        end = self._store(now, spent)
        self.driver_busy += end - now
        self._add(end, self._served, driver, life, kept, job)

    def _leased(self, driver: int) -> tuple[int, float]:
        """The next job of a driver, and seconds of the transactions; see `secateur.experiments.running`."""
        operations, batch = self.operations, self.cluster.batch
        through = self._head >= self._jobs
        if self._free and (self.cluster.drivers == 1 or self._fresh[driver] or through):
            job, looked = self._free.popleft(), self._unfinished * batch if through else 0
            more = (self._sizes[job] - 1) * operations.lease_each + looked * operations.look_each
            return job, operations.lease + more
        at, passed, window, spent = self._at[driver], 0, self._window[driver], 0.0
        most = max(1, CELLS_AHEAD // batch)
        while (index := self._head - at) >= (some := min(window, most)):
            spent += operations.lease + some * batch * operations.look_each
            at, passed, window = at + some, passed + some, 2 * some
        job = self._head
        spent += operations.lease + (self._sizes[job] - 1) * operations.lease_each
        spent += (some - 1) * batch * operations.look_each
        self._head += 1
        self._at[driver], self._window[driver] = job + 1, 1 + 2 * (passed + index)
        return job, spent

    def _served(self, now: float, driver: int, life: int, kept: int, job: int) -> None:
        if life != self._life[driver]:
            return
        self._serving[driver] = False
        if kept >= 0:
            self._held[driver].discard(kept)
            self.busy += self._times[kept]
            self._unfinished -= 1
        if job >= 0:
            self._ready[driver].append(job)
            self._deal_out(now, driver)
        self._serve(now, driver)

    def _deal_out(self, now: float, driver: int) -> None:
        """Give idle workers what is leased."""
        idle, ready = self._idle[driver], self._ready[driver]
        while idle and ready:
            self._begin(now, idle.pop())

    def _renew(self, now: float, driver: int) -> None:
        if self._alive[driver]:
            held = sum(self._sizes[job] for job in self._held[driver])
            self._store(now, self.operations.renew + self.operations.renew_each * held)
            self._renewed[driver] = now
        self._add(now + RENEWED, self._renew, driver)

    # workers

    def _begin(self, now: float, worker: int) -> None:
        """A worker takes a job of its driver, or waits for one."""
        driver = self._driver_of[worker]
        if not self._ready[driver]:
            self._idle[driver].append(worker)
            return
        job = self._ready[driver].popleft()
        self._running[worker] = job
        duration = self._times[job]
        fails = self._fails[job]
        happens = self._failed if fails < duration else self._done
        self._add(now + min(fails, duration), happens, worker, self._epoch[worker])

    def _done(self, now: float, worker: int, epoch: int) -> None:
        if epoch != self._epoch[worker]:
            return
        driver = self._driver_of[worker]
        self._answers[driver].append(self._running[worker])
        self._running[worker] = -1
        self._begin(now, worker)
        self._serve(now, driver)

    def _failed(self, now: float, worker: int, epoch: int) -> None:
        """A worker fails; its driver gives the job to the next one."""
        if epoch != self._epoch[worker]:
            return
        self.worker_failures += 1
        self.repeated += 1
        driver = self._driver_of[worker]
        job = self._running[worker]
        self._fails[job] = float(self._failures(1)[0])
        self._ready[driver].appendleft(job)
        self._leave(worker)
        self._add(now + self.cluster.worker_restart, self._back, worker, self._epoch[worker])
        self._deal_out(now, driver)

    def _leave(self, worker: int) -> None:
        self._up[worker], self._running[worker] = False, -1
        self._epoch[worker] += 1
        idle = self._idle[self._driver_of[worker]]
        if worker in idle:
            idle.remove(worker)

    def _back(self, now: float, worker: int, epoch: int) -> None:
        if epoch != self._epoch[worker]:
            return
        self._up[worker] = True
        if self._alive[self._driver_of[worker]]:
            self._begin(now, worker)

    # machines

    def _schedule_failure(self, now: float, machine: int) -> None:
        self._add(now + self._random.exponential(3600 * self.cluster.machine_hours), self._machine_fails, machine)

    def _machine_fails(self, now: float, machine: int) -> None:
        if not self._machine_up[machine]:
            return
        self._machine_up[machine] = False
        self.machine_failures += 1
        driver = machine % self.cluster.drivers
        there = [worker for worker, where in enumerate(self._machine_of) if where == machine]
        lost = [self._running[worker] for worker in there if self._running[worker] >= 0]
        for worker in there:
            self._leave(worker)
        if machine == driver:  # the driver is on it
            self._driver_fails(now, driver)
        else:
            self.repeated += len(lost)
            self._ready[driver].extendleft(lost)
            self._deal_out(now, driver)
        self._add(now + self.cluster.machine_restart, self._machine_back, machine)

    def _driver_fails(self, now: float, driver: int) -> None:
        """All of its jobs are free when their leases have run out; workers on other machines have nothing to do."""
        lost = sorted(self._held[driver])
        self.repeated += len(lost)
        for worker, of in enumerate(self._driver_of):
            if of == driver and self._running[worker] >= 0:
                self._epoch[worker] += 1
                self._running[worker] = -1
        self._alive[driver], self._serving[driver] = False, False
        self._life[driver] += 1
        for jobs in (self._held, self._ready, self._answers, self._idle):
            jobs[driver].clear()
        self._add(max(now, self._renewed[driver] + LEASE), self._leases_end, lost, self._times)

    def _leases_end(self, now: float, lost: list[int], times: list[float]) -> None:
        assert times is self._times, "a stage does not end before all of its jobs are kept"
        self._free.extend(lost)

    def _machine_back(self, now: float, machine: int) -> None:
        self._machine_up[machine] = True
        self._schedule_failure(now, machine)
        driver = machine % self.cluster.drivers
        for worker, where in enumerate(self._machine_of):
            if where == machine:
                self._up[worker] = True
                if self._alive[driver]:
                    self._begin(now, worker)
        if machine == driver:
            cells, operations = self.cluster.cells, self.operations
            begin = self._store(now + operations.name * cells, operations.note_again * cells)
            self._at[driver], self._window[driver], self._fresh[driver] = 0, 1, True
            self._add(max(begin, now + operations.name * cells), self._awake, driver, self._life[driver])


def limits(operations: Operations, batch: int = 1) -> tuple[float, float]:
    """Cells per second that one driver, and that the store, can finish at most."""
    driver, store = operations.driver_seconds(batch), operations.store_seconds(batch)
    return 1 / driver if driver else np.inf, 1 / store if store else np.inf


def mean_and_range(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, lowest and highest."""
    return float(np.mean(values)), min(values), max(values)
