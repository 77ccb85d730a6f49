"""How fast the 2-D toy study's grid is: prunings per second, and against the same runs one step at a time.

    python benchmarks/toy.py [--seeds 50] [--processes 2] [--plain 12]

The grid is made from nothing in a temporary folder (networks are trained first, unless the cache has them; that is not
counted). For the second figure, some runs are made with the product's general functions instead: `sc.score`,
`sc.select`, `sc.prune`, and a forward pass of the smaller network; both ways on one thread, in turn.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

import secateur as sc
from secateur.core.threads import one_thread
from secateur.experiments import Execution, Resources, executor_for, opened_store, run
from secateur.studies import toy
from secateur.studies.toy.criteria import criterion_for
from secateur.studies.toy.work import Bench


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--plain", type=int, default=12, help="runs to make one step at a time; 0: none")
    given = parser.parse_args()
    settings = toy.ToySettings(
        grid=toy.GridSettings(seeds=tuple(range(given.seeds))), execution=Execution(processes=given.processes)
    )
    study = toy.ToyStudy(settings)
    start = time.perf_counter()
    with executor_for(Execution(processes=given.processes)) as executor:
        for _ in executor.prepare(study, [resource for resource in study.shared() if not resource.ready()]):
            pass
    say(f"networks: {time.perf_counter() - start:.0f} s (trained, or found)")
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        with opened_store(Path(folder) / "cells.sqlite", study) as store:
            outcome = run(study, store)
            study.write(store.frames(), Path(folder))
        seconds = time.perf_counter() - start
    say(f"grid: {outcome.made} prunings on {given.processes} processes in {seconds:.1f} s, start of the processes and")
    say(f"writing of the tables included: {outcome.made / seconds:.1f} prunings per second")
    if given.plain:
        ratio(settings, given.plain)


def ratio(settings: toy.ToySettings, runs: int) -> None:
    """Median time of one run either way, in turn."""
    bench = Bench("moon", settings.network)
    fast, plain = [], []
    with one_thread():
        for index in range(runs + 1):
            counts = settings.grid.samples_per_class
            count = counts[index % len(counts)]
            ways = [(together, fast), (step_by_step, plain)]
            for way, times in ways if index % 2 else reversed(ways):
                start = time.perf_counter()
                way(bench, settings, count, index)
                if index:  # the first round warms up
                    times.append((time.perf_counter() - start) / len(settings.grid.criteria))
    say(
        f"one pruning on moon, one thread, median of {runs} rounds over the sample counts: {1e3 * median(fast):.0f} ms "
        f"in the grid's way, {1e3 * median(plain):.0f} ms step by step: {median(plain) / median(fast):.1f} times faster"
    )


def together(bench: Bench, settings: toy.ToySettings, count: int, seed: int) -> None:
    only = settings.model_copy(
        update={"grid": toy.GridSettings(datasets=(bench.dataset,), criteria=settings.grid.criteria,
                                         samples_per_class=(count,), seeds=(seed,))}
    )  # fmt: skip
    resources = Resources()
    resources.keep(toy.BenchOf(bench.dataset, settings.network), bench)
    for cell in toy.toy_cells(only.grid):
        toy.prune_once(cell, only, resources)


def step_by_step(bench: Bench, settings: toy.ToySettings, count: int, seed: int) -> None:
    points = toy.draw(bench.dataset, count, seed)
    reference = sc.ReferenceSet(
        torch.from_numpy(points.x), torch.from_numpy(points.labels), tuple(range(len(points)))
    )  # fmt: skip
    places = [bench.train, points, *(toy.draw_noisy(bench.dataset, sigma, seed) for sigma in settings.pruning.noise)]
    for criterion in settings.grid.criteria:
        scores = sc.score(bench.model, bench.structure, reference, criterion_for(criterion, seed))
        plan = sc.select(scores, sc.Budget(units=1 - settings.pruning.remove / 3000), strategy="global")
        slim = sc.prune(bench.model, plan)
        with torch.no_grad():
            for network in (bench.model, slim):
                for place in places:
                    (network(torch.from_numpy(place.x)).argmax(1).numpy() == place.labels).mean()


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
