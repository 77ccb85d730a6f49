"""The simulation of clusters in benchmarks/, where the answer is known."""

from __future__ import annotations

import heapq
import importlib
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
NEVER = {"worker_hours": 1e12, "machine_hours": 1e12}


@pytest.fixture(scope="module")
def model():
    before = list(sys.path)
    sys.path.insert(0, str(FOLDER))
    try:
        yield importlib.import_module("cluster_model")
    finally:
        sys.path[:] = before
        sys.modules.pop("cluster_model", None)


@pytest.fixture
def free(model):
    return model.Operations("free")


def cluster(model, workers, cells, seconds, **changed):
    usual = {"drivers": 1, "spread": 0.0, "stages": (1.0,), **NEVER}
    return model.Cluster(workers=workers, cells=cells, cell_seconds=seconds, **{**usual, **changed})


def finished(model, operations, asked, seed=0):
    """The simulation, at its end, and its seconds."""
    simulation = model.Simulation(asked, operations, seed)
    return simulation, simulation.run()


def dealt_out(times, workers):
    """Slow truth: seconds until the last job is done, each taken by the worker that is free first."""
    free = [0.0] * workers
    for each in times:
        heapq.heapreplace(free, free[0] + each)
    return max(free)


def test_without_costs_stages_are_divided_by_the_workers(model, free):
    simulation, whole = finished(model, free, cluster(model, 8, 100, 3.0, stages=(0.1, 0.9)))
    assert whole == pytest.approx(3.0 * (2 + 12)), "10 cells in two rounds, then 90 in twelve"
    assert simulation.busy == pytest.approx(300)


def test_one_worker_takes_the_sum_of_all_times(model, free):
    operations = replace(free, lease=0.05, finish=0.025, driver=0.0125)
    simulation, whole = finished(model, operations, cluster(model, 1, 400, 10.0, spread=0.7))
    # the next job is leased in time, so that the first lease and the last result alone add to the work
    assert whole == pytest.approx(simulation.busy + 0.05 + 0.025 + 0.0125)


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("longest_first", [False, True])
def test_times_of_any_kind_are_dealt_out_like_by_hand(model, free, batch, longest_first):
    asked = cluster(
        model, 13, 500, 1.0, spread=1.0, batch=batch, slow_share=0.05, longest_first=longest_first, stages=(0.2, 0.8)
    )
    simulation, whole = finished(model, free, asked, seed=5)
    random, expected = np.random.default_rng(5), 0.0
    random.exponential(3600 * asked.machine_hours)  # as the simulation draws
    for count in (100, 400):
        times = random.lognormal(-0.5, 1.0, count) * np.where(random.random(count) < 0.05, 10.0, 1.0) / 1.45
        times = -np.sort(-times) if longest_first else times
        jobs = [times[start : start + batch].sum() for start in range(0, count, batch)]
        random.exponential(size=len(jobs))
        expected += dealt_out(jobs, 13)
    assert whole == pytest.approx(expected)
    assert simulation.repeated == 0


@pytest.mark.parametrize(
    ("costs", "drivers", "batch", "limit"),
    [
        ({"driver": 0.004}, 1, 1, 250),
        ({"driver": 0.004}, 2, 1, 500),
        ({"lease": 0.003, "finish": 0.001}, 1, 1, 250),
        ({"lease": 0.003, "finish": 0.001}, 4, 1, 250),
        ({"lease": 0.003, "finish": 0.001, "driver": 0.001}, 1, 1, 200),
        ({"lease": 0.004, "finish": 0.001, "driver": 0.004, "driver_each": 0.001}, 1, 4, 250),
        ({"lease": 0.004, "lease_each": 0.001, "finish": 0.00125}, 2, 4, 333),
    ],
)
def test_the_slowest_part_is_the_limit(model, free, costs, drivers, batch, limit):
    operations = replace(free, **costs)
    simulation, whole = finished(model, operations, cluster(model, 800, 40_000, 1.0, drivers=drivers, batch=batch))
    assert 40_000 / whole == pytest.approx(limit, rel=0.06)
    by_driver, by_store = model.limits(operations, batch)
    assert limit == pytest.approx(min(by_store, drivers * by_driver), rel=0.01)
    assert simulation.busy == pytest.approx(40_000)


@pytest.mark.parametrize("workers", [1, 5, 20, 80])
def test_throughput_lies_within_the_bounds_of_a_closed_queue(model, free, workers):
    """Asymptotic bounds of a queue with one server, N customers, think time Z and service S: N / (Z + N S) to
    min(N / Z, 1 / S)."""
    service, think, cells = 0.05, 1.0, 4_000
    operations = replace(free, lease=0.02, finish=0.03)
    _, whole = finished(model, operations, cluster(model, workers, cells, think, spread=0.5), seed=1)
    slack = 1.03  # the ends of the run, and the mean of so many times
    assert workers / (think + workers * service) / slack <= cells / whole <= min(workers / think, 1 / service) * slack


def test_renewals_take_the_stores_time(model, free):
    operations = replace(free, renew=0.5, renew_each=0.005)
    simulation, whole = finished(model, operations, cluster(model, 100, 60_000, 1.0))
    assert simulation.store_busy / whole == pytest.approx(1.5 / model.RENEWED, rel=0.1), "of 200 leases"


def test_stragglers_cost_their_own_time_at_the_end_and_nothing_when_they_come_first(model, free):
    asked = cluster(model, 100, 10_000, 10.0, slow_share=0.01, slow_factor=10.0)
    ideal = 10_000 * 10.0 / 100
    whole = {first: finished(model, free, replace(asked, longest_first=first))[1] for first in (False, True)}
    assert ideal * 1.04 < whole[False] < ideal * 1.12, "the last slow cell begins near the end: at most 100 s more"
    assert whole[True] == pytest.approx(ideal, rel=0.03)


def test_shared_resources_are_made_before_the_cells(model, free):
    asked = cluster(model, 10, 100, 1.0, shared=12, shared_seconds=30.0)
    simulation, whole = finished(model, free, asked)
    assert whole == pytest.approx(2 * 30.0 + 10.0)
    assert simulation.busy == pytest.approx(12 * 30.0 + 100.0)


def test_the_start_is_named_once_for_each_driver_and_noted_one_after_another(model, free):
    operations = replace(free, name=0.001, note=0.002, note_again=0.0015)
    simulation, _ = finished(model, operations, cluster(model, 8, 1_000, 100.0, drivers=4))
    assert simulation.starting == pytest.approx(1.0 + 2.0)
    assert simulation.store_busy == pytest.approx(2.0 + 3 * 1.5)


def test_drivers_pass_over_what_others_took(model, free):
    """Each cell is looked at by each driver once, but for the one that takes it, and at most twice in all windows."""
    cells, drivers = 8_000, 8
    operations = replace(free, look_each=1e-4)
    simulation, _ = finished(model, operations, cluster(model, 64, cells, 1.0, drivers=drivers))
    looked = simulation.store_busy / 1e-4
    assert 0.9 * (drivers - 1) * cells < looked < 3 * drivers * cells


@pytest.mark.parametrize("drivers", [1, 5])
def test_failed_workers_come_back_and_no_cell_is_lost(model, free, drivers):
    asked = cluster(model, 20, 2_000, 100.0, drivers=drivers, worker_hours=1.0, spread=0.5)
    simulation, whole = finished(model, free, asked)
    without = finished(model, free, replace(asked, worker_hours=1e12))
    expected = simulation.busy / 3600
    assert simulation.worker_failures == pytest.approx(expected, rel=0.3)
    assert simulation.busy == pytest.approx(2_000 * 100, rel=0.05), "each cell is finished once"
    assert whole > without[1]


def test_a_machine_takes_all_its_cells_along_and_its_driver_their_leases(model, free):
    """Two machines of one worker each, four cells of 100 s; the second machine goes after 50 s, for 300 s."""
    asked = cluster(model, 2, 4, 100.0, drivers=2, machine_failures=((50.0, 1),))
    simulation, whole = finished(model, free, asked)
    assert simulation.machine_failures == 1
    assert simulation.repeated == 2, "the cell under way and the one that was leased ahead"
    # leases were renewed at 45 s and end at 165 s; the other driver has its two cells done at 200 s, then does these
    assert whole == pytest.approx(400.0)
    simulation, whole = finished(model, free, replace(asked, machine_restart=60.0))
    # back at 110 s, the driver looks again until the leases end at 165 s, 5 s later at most, and has two cells to do
    assert 365.0 <= whole <= 370.0


def test_a_driver_on_another_machine_gives_lost_cells_to_others_at_once(model, free):
    asked = cluster(model, 32, 64, 100.0, machine_failures=((50.0, 1),))
    simulation, whole = finished(model, free, asked)
    assert simulation.repeated == 16, "what was leased ahead is not lost"
    assert whole == pytest.approx(400.0), "of 16 workers: the machine is back at 350 s, when nothing is left"


def test_when_the_machine_of_the_only_driver_goes_all_begun_work_is_lost(model, free):
    asked = cluster(model, 32, 320, 100.0, machine_failures=((150.0, 0),))
    simulation, whole = finished(model, free, asked)
    assert asked.machines == 2
    assert simulation.repeated == 64, "a cell under way and one ahead for each of 32 workers"
    # one round of ten is done at 100 s; the driver is back at 450 s, and has nine to do
    assert whole == pytest.approx(450.0 + 900.0)


@pytest.mark.parametrize("drivers", [1, 4])
def test_failures_of_machines_lose_no_cell(model, free, drivers):
    asked = cluster(model, 64, 6_400, 100.0, drivers=drivers, spread=0.5, machine_hours=2.0, worker_hours=24.0, batch=3)
    simulation, whole = finished(model, free, asked)
    assert simulation.machine_failures == pytest.approx(4 * whole / 3600 / 2, rel=0.8)
    assert simulation.busy == pytest.approx(640_000, rel=0.05), "each cell is finished once"
    assert whole > finished(model, free, replace(asked, **NEVER))[1]
