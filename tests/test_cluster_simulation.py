"""The simulation of clusters in benchmarks/, where the answer is known."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest

FILE = Path(__file__).parents[1] / "benchmarks" / "cluster_simulation.py"


@pytest.fixture(scope="module")
def benchmark():
    before = list(sys.path)
    spec = importlib.util.spec_from_file_location("cluster_simulation", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["cluster_simulation"] = module
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path[:] = before
        for name in ("cluster_simulation", "experiments", "postgres_server"):
            sys.modules.pop(name, None)


@pytest.fixture
def free(benchmark):
    return benchmark.Operations("free", 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def cluster(benchmark, workers, cells, seconds, **changed):
    usual = {"drivers": 1, "spread": 0.0, "first_stage": 0.1, "hours_between_failures": 1e12}
    return benchmark.Cluster(workers=workers, cells=cells, cell_seconds=seconds, **{**usual, **changed})


def test_without_costs_stages_are_divided_by_the_workers(benchmark, free):
    line = benchmark.simulated(free, cluster(benchmark, 8, 100, 3.0))
    assert line.seconds == pytest.approx(3.0 * (2 + 12)), "10 cells in two rounds, then 90 in twelve"
    assert line.idle_share == pytest.approx(1 - 100 / (8 * 14))


@pytest.mark.parametrize(
    ("costs", "drivers", "limit"),
    [
        ({"driver": 0.004}, 1, 250),
        ({"driver": 0.004}, 2, 500),
        ({"lease": 0.003, "finish": 0.001}, 4, 250),
        ({"lease": 0.003, "finish": 0.001, "driver": 0.001}, 1, 200),
    ],
)
def test_the_slowest_part_is_the_limit(benchmark, free, costs, drivers, limit):
    asked = cluster(benchmark, 800, 40_000, 1.0, drivers=drivers)
    line = benchmark.simulated(replace(free, **costs), asked)
    assert line.cells_per_second == pytest.approx(limit, rel=0.05)
    assert line.idle_share == pytest.approx(1 - limit / 800, abs=0.03)


def test_renewals_take_the_stores_time(benchmark, free):
    asked = cluster(benchmark, 100, 10_000, 1.0)
    line = benchmark.simulated(replace(free, renew=0.5, renew_each=0.01), asked)
    assert line.store_share == pytest.approx(1.5 / benchmark.RENEWED, rel=0.1)


@pytest.mark.parametrize("drivers", [1, 5])
def test_failed_workers_come_back_and_no_cell_is_lost(benchmark, free, drivers):
    asked = cluster(benchmark, 20, 2_000, 100.0, drivers=drivers, hours_between_failures=1.0, spread=0.5)
    simulation = benchmark.Simulation(asked, free)
    whole = simulation.run()
    without = benchmark.Simulation(replace(asked, hours_between_failures=1e12), free)
    assert simulation.failures > 20
    assert simulation.busy == pytest.approx(2_000 * 100, rel=0.05), "each cell is finished once"
    assert whole > without.run()
