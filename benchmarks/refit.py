"""Accuracy of pruned networks by repair, without training; and the time of a refit in forward passes.

    python benchmarks/refit.py [--model resnet20-cifar10] [--budgets 0.7 0.5 0.3] [--seeds 0 1 2]
                               [--criteria lrp taylor weight] [--strategy auto] [--limit N] [--out FOLDER]
    python benchmarks/refit.py --recipe RECIPE --weights FILE ...
    python benchmarks/refit.py --speed

A shipped network, or one that `secateur train --recipe RECIPE` has trained, on CIFAR-10 (`secateur data fetch
cifar10`), scored once on ten images of each class, units ranked by the strategy that `secateur prune` takes. Repairs of
the same plan: nothing; mean compensation and recalibrated norms; the refit on the same 100 images (the default of
`secateur prune`); the refit on 500 training images without labels. Intervals are 95 % over seeds. ``--speed``: the
refit of a ResNet-18 at 224 pixels on 100 images, in plain forward passes of these images by the unpruned network,
both timed in turn.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from pathlib import Path
from typing import Any

import torch

import secateur as sc
from secateur.core.progress import reporting, track
from secateur.core.statistics import mean_interval
from secateur.criteria import get, parse
from secateur.data import ReferenceSet, loader
from secateur.pipeline import PruneSettings, load_recipe, prepare
from secateur.pipeline.repair import Repair

REPAIRS = {
    "nothing": {"repair": "none", "recalibrate": False},
    "mean": {"repair": "mean"},
    "refit": {"repair": "refit"},
    "refit on 500": {"repair": "refit", "repair_samples": 500},
}


def accuracies(asked: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each seed, criterion, budget and repair."""
    if asked.recipe is None:
        data, model = sc.open_data("cifar10"), sc.build(asked.model).eval()
    else:
        prepared = prepare(load_recipe(asked.recipe, {"data.source": "cifar10", "model.weights": str(asked.weights)}))
        data, model, asked.model = prepared.data, prepared.model.eval(), asked.recipe
    test = data.test if asked.limit is None else data.test.subset(list(range(asked.limit)))
    rows = []
    for seed in track(asked.seeds, "seeds"):
        reference = ReferenceSet.sample(data.train, 10, seed)
        for criterion in asked.criteria:
            plain = PruneSettings(schedule="one-shot", strategy=asked.strategy, **REPAIRS["nothing"])
            name, parameters = parse(criterion)
            scored_by = get(name, **parameters)
            budgets = [sc.Budget(macs=share) for share in sorted(asked.budgets, reverse=True)]
            for share, found in zip(
                sorted(asked.budgets, reverse=True),
                sc.prune_to_budgets(model, reference, budgets, scored_by, plain),
                strict=True,
            ):
                for name, changes in REPAIRS.items():
                    repair = Repair.of(PruneSettings(schedule="one-shot", **changes), reference, data.train)
                    begin = time.perf_counter()
                    slim = sc.prune(model, found.plan, check=False)
                    repair(slim, model, found.plan)
                    seconds = time.perf_counter() - begin
                    accuracy = sc.evaluate(slim, loader(test)).accuracy
                    keys = {"model": asked.model, "criterion": criterion, "strategy": found.plan.strategy}
                    keys |= {"macs": share, "seed": seed, "repair": name}
                    rows.append({**keys, "accuracy": accuracy, "samples": len(test), "seconds": seconds})
    return rows


def show(rows: list[dict[str, Any]], asked: argparse.Namespace) -> None:
    for criterion in asked.criteria:
        for share in sorted(asked.budgets, reverse=True):
            own = [row for row in rows if (row["criterion"], row["macs"]) == (criterion, share)]
            cells = []
            for name in REPAIRS:
                found = mean_interval([100 * row["accuracy"] for row in own if row["repair"] == name])
                half = "" if found.low is None else f" ±{found.mean - found.low:4.1f}"
                cells.append(f"{name} {found.mean:5.1f}{half}")
            print(f"{criterion:24}{share:5.2f}  " + "   ".join(cells))  # noqa: T201


def speed(rounds: int) -> None:
    torch.manual_seed(0)
    model = sc.build("torchvision/resnet18").eval()
    inputs = torch.randn(100, 3, 224, 224)
    reference = ReferenceSet(inputs, torch.arange(100), tuple(range(100)))
    plan = sc.compress(
        model, ReferenceSet(inputs[:8], torch.arange(8), tuple(range(8))), sc.Budget(macs=0.5), "weight",
        PruneSettings(schedule="one-shot", repair="none", recalibrate=False),
    ).plan  # fmt: skip
    ratios = []
    for turn in range(rounds + 1):
        slim = sc.prune(model, plan, check=False)
        begin = time.perf_counter()
        with torch.no_grad():
            for batch in inputs.split(50):
                model(batch)
        middle = time.perf_counter()
        sc.refit(slim, model, plan, reference)
        end = time.perf_counter()
        if turn:  # the first round pays for what is compiled once
            ratios.append((end - middle) / (middle - begin))
            print(f"refit {end - middle:.1f} s, one pass {middle - begin:.1f} s: {ratios[-1]:.1f} passes")  # noqa: T201
    print(f"median: {statistics.median(ratios):.1f} passes, {torch.get_num_threads()} threads")  # noqa: T201


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20-cifar10")
    parser.add_argument("--recipe")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.7, 0.5, 0.3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--criteria", nargs="+", default=["lrp", "taylor", "weight"])
    parser.add_argument("--strategy", default="auto")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    with reporting(False):
        if asked.speed:
            speed(3)
            return
        rows = accuracies(asked)
    show(rows, asked)
    if asked.out is not None:
        asked.out.mkdir(parents=True, exist_ok=True)
        with (asked.out / "refit.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
