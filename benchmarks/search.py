"""What a pruning curve costs, and whether it is exact: 20 rates beside 20 evaluations of the unpruned network.

    python benchmarks/search.py [--models resnet20-cifar10 vit-cifar10] [--criteria lrp weight] [--limit 2000]
                                [--rounds 5] [--threads 1] [--out FILE.csv]

On CIFAR-10's validation images (`secateur data fetch cifar10`). Timed in turn, in one process: a curve by
`CurveMeter` (cutting included), an evaluation of the unpruned network by the same loop, and, once, the naive way:
each network cut anew and evaluated by `secateur.evaluate`. Prints the median share with its quartiles, and in how many
rates accuracies differ from those of the naive way, and of masked networks at full size.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from pathlib import Path

import torch

import secateur as sc
from secateur.core.progress import reporting
from secateur.criteria import get, parse
from secateur.data import loader, open_data
from secateur.pipeline.pruning_curve import RATES, CurveMeter
from secateur.selection import select_nominal


def measured(name: str, criteria: list[str], limit: int, rounds: int) -> list[dict[str, object]]:
    """A row for each criterion."""
    data = open_data("cifar10")
    model = sc.build(name).eval()
    reference = sc.ReferenceSet.sample(data.train, per_class=10, seed=0)
    structure = sc.trace(model, reference.inputs[:1])
    images = data.val.replace(augmentation=None).subset(range(min(limit, len(data.val))))
    inputs, labels = images.batch(range(len(images)))
    rows = []
    for text in criteria:
        kind, parameters = parse(text)
        scores = sc.score(model, structure, reference, get(kind, **parameters).seeded(0))
        meter = CurveMeter(model, inputs, labels)
        curve = meter.curve(scores)  # the first one checks each network
        masked = meter.curve(scores, masked=True)
        shares = []
        for _ in range(rounds):
            begin = time.perf_counter()
            meter.accuracy(model)
            single = time.perf_counter() - begin
            meter.forget()
            begin = time.perf_counter()
            meter.curve(scores)
            again = time.perf_counter() - begin
            begin = time.perf_counter()
            meter.accuracy(model)
            single = (single + time.perf_counter() - begin) / 2
            shares.append(again / (len(RATES) * single))
        begin, naive = time.perf_counter(), []
        for rate in RATES:
            plan = select_nominal(scores, rate, "global", nothing=True) if rate else None
            network = model if plan is None else sc.prune(model, plan)
            naive.append(sc.evaluate(network, loader(images)).accuracy)
        naive_s = time.perf_counter() - begin
        low, _, high = statistics.quantiles(shares, n=4) if len(shares) > 1 else (shares[0],) * 3
        rows.append(
            {
                "model": name,
                "criterion": text,
                "images": len(images),
                "share": statistics.median(shares),
                "share_q1": low,
                "share_q3": high,
                "naive_share": naive_s / (len(RATES) * single),
                "differ_from_naive": sum(p.accuracy != n for p, n in zip(curve.points, naive, strict=True)),
                "differ_from_masked": sum(
                    p.accuracy != m.accuracy for p, m in zip(curve.points, masked.points, strict=True)
                ),
                "a_pr": curve.a_pr,
                "mean_macs": statistics.fmean(point.macs for point in curve.points),
            }
        )
        print(rows[-1], flush=True)  # noqa: T201
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet20-cifar10", "vit-cifar10"])
    parser.add_argument("--criteria", nargs="+", default=["lrp", "weight"])
    parser.add_argument("--limit", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    with reporting(False):
        rows = [row for name in asked.models for row in measured(name, asked.criteria, asked.limit, asked.rounds)]
    if asked.out is not None:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        with asked.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
