"""How units of different layers are best compared before a refit: every criterion under every strategy.

    python benchmarks/strategies.py [--model resnet20-cifar10] [--budgets 0.7 0.5 0.3] [--seeds 0 1]
                                    [--criteria ...] [--images N] [--out FOLDER]

A shipped network on CIFAR-10 (`secateur data fetch cifar10`): one scoring on ten images of each class, units ranked
by each strategy, plain or centred scores, a refit on the same images; accuracy on validation images. The defaults of
`secateur prune` and `Criterion.strategy` were chosen by it. Rows are written to ``OUT/strategies.csv``.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import statistics
from pathlib import Path
from typing import Any

import torch

import secateur as sc
from secateur.core.progress import reporting, track
from secateur.criteria import get, parse
from secateur.data import ReferenceSet, loader
from secateur.pipeline import PruneSettings
from secateur.selection.names import STRATEGY_NAMES

CRITERIA = ("lrp", "lrp:composite=epsilon-plus", "taylor", "grad", "activation", "weight", "random")
NEVER_CENTRED = ("weight", "random", "grad")
"""They look at no activations."""


def measure(asked: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each seed, criterion, strategy, kind of scores, and budget."""
    data, model = sc.open_data("cifar10"), sc.build(asked.model).eval()
    order = torch.randperm(len(data.val), generator=torch.Generator().manual_seed(0))
    val = data.val.subset(order[: asked.images].tolist())
    budgets = [sc.Budget(macs=share) for share in sorted(asked.budgets, reverse=True)]
    variants = list(itertools.product(asked.seeds, asked.criteria, STRATEGY_NAMES, (False, True)))
    rows = []
    for seed, text, strategy, centred in track(variants, "strategies"):
        name, parameters = parse(text)
        if centred and name in NEVER_CENTRED:
            continue
        reference = ReferenceSet.sample(data.train, 10, seed)
        settings = PruneSettings(strategy=strategy, centred=centred)
        criterion = get(name, **parameters).seeded(seed)
        for budget, found in zip(
            budgets, sc.prune_to_budgets(model, reference, budgets, criterion, settings), strict=True
        ):
            keys = {"criterion": text, "strategy": strategy, "centred": centred, "macs": budget.share, "seed": seed}
            rows.append({**keys, "accuracy": sc.evaluate(found.model, loader(val)).accuracy, "samples": len(val)})
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    shares = sorted({row["macs"] for row in rows}, reverse=True)
    variants = dict.fromkeys((row["criterion"], row["strategy"], row["centred"]) for row in rows)
    for criterion, strategy, centred in variants:
        means = []
        for share in shares:
            wanted = (criterion, strategy, centred, share)
            own = [row for row in rows if (row["criterion"], row["strategy"], row["centred"], row["macs"]) == wanted]
            means.append(100 * statistics.mean(row["accuracy"] for row in own))
        cells = "  ".join(f"{share:g}: {mean:5.1f}" for share, mean in zip(shares, means, strict=True))
        how = "centred" if centred else ""
        print(f"{criterion:28}{strategy:12}{how:9}{cells}  mean {statistics.mean(means):5.1f}")  # noqa: T201


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20-cifar10")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.7, 0.5, 0.3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--criteria", nargs="+", default=list(CRITERIA))
    parser.add_argument("--images", type=int, default=1000, help="of the validation split")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    with reporting(False):
        rows = measure(asked)
    show(rows)
    if asked.out is not None:
        asked.out.mkdir(parents=True, exist_ok=True)
        with (asked.out / "strategies.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
