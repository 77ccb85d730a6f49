"""Half the MACs, then k epochs of the same fine-tuning: Secateur's default recipe beside Torch-Pruning 1.6.1.

    python benchmarks/finetuned.py [--epochs 0 1] [--seeds 0 1 2] [--rates 0.003 0.01 0.03] [--images N]
                                   [--rate-images N] [--macs 0.5] [--methods ...] [--out FOLDER]

The shipped ResNet-20 on CIFAR-10 (`secateur data fetch cifar10`). Secateur: LRP-ε on ten images of each class, by
the defaults of `secateur prune`. Torch-Pruning (`pip install torch-pruning`): global, by group importance (magnitude,
Taylor, Hessian; the latter two from the same reference images), the last layer left alone, at the ratio that comes
closest to the same MACs from below. All are fine-tuned on the same images by SGD with crops and flips, with labels
alone and distilled from the unpruned network (T = 4, w = 0.7), each at the rate that gave the best accuracy on 2,000
validation images after one epoch of ``--rate-images`` images with the first seed. Accuracy on all test images.
Intervals are 95 % over the seeds: of reference samples and of the order of images. Rows are kept in
``OUT/finetuned.csv`` as they are measured, and not measured again.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import secateur as sc
from secateur.core.progress import reporting
from secateur.core.statistics import mean_interval
from secateur.data import DataSettings, ImageData, LabelledImages, ReferenceSet, loader
from secateur.evaluation import count_macs
from secateur.training import DistillationSettings, TrainSettings, fit

DISTILLED = DistillationSettings(temperature=4.0, weight=0.7)
LABELS, TEACHER = "labels", "distilled"


def ours(model: nn.Module, reference: ReferenceSet, share: float) -> nn.Module:
    return sc.compress(model, reference, sc.Budget(macs=share)).model


def torch_pruning(kind: str) -> Callable[[nn.Module, ReferenceSet, float], nn.Module]:
    """Of one importance, at the largest size within the budget that some bisections find."""
    import torch_pruning as tp

    def pruned(model: nn.Module, reference: ReferenceSet, ratio: float) -> nn.Module:
        slim = copy.deepcopy(model)
        importance = getattr(tp.importance, f"Group{kind}Importance")()
        losses = nn.functional.cross_entropy(slim(reference.inputs), reference.targets, reduction="none")
        if kind == "Taylor":
            losses.mean().backward()
        pruner = tp.pruner.BasePruner(
            slim, reference.inputs[:1], importance, global_pruning=True, pruning_ratio=ratio, ignored_layers=[slim.fc]
        )
        if kind == "Hessian":
            importance.zero_grad()
            for loss in losses:
                slim.zero_grad()
                loss.backward(retain_graph=True)
                importance.accumulate_grad(slim)
        pruner.step()
        slim.zero_grad(set_to_none=True)
        return slim

    def closest(model: nn.Module, reference: ReferenceSet, share: float) -> nn.Module:
        example = reference.inputs[:1]
        whole, low, high = count_macs(model, example), 0.0, 1.0
        best = None
        for _ in range(9):
            middle = (low + high) / 2
            slim = pruned(model, reference, middle)
            if count_macs(slim, example) <= share * whole:
                best, high = slim, middle
            else:
                low = middle
        assert best is not None
        return best

    return closest


METHODS: dict[str, Callable[[], Callable[[nn.Module, ReferenceSet, float], nn.Module]]] = {
    "secateur": lambda: ours,
    "magnitude": lambda: torch_pruning("Magnitude"),
    "taylor": lambda: torch_pruning("Taylor"),
    "hessian": lambda: torch_pruning("Hessian"),
}


@dataclass(frozen=True)
class Key:
    """What a row is of."""

    method: str
    learned: str
    epochs: int
    seed: int
    rate: float
    images: int

    def text(self) -> str:
        return json.dumps(list(vars(self).values()))


class Bench:
    """Networks, data, and the rows so far."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked = asked
        self.plain: ImageData = sc.open_data("cifar10")
        augmented = sc.open_data(DataSettings(source="cifar10", augmentation="crop-flip"))
        generator = torch.Generator().manual_seed(0)
        order = torch.randperm(len(augmented.train), generator=generator)
        self.train = augmented.train.subset(order[: asked.images].tolist())
        drawn = torch.randperm(len(self.plain.val), generator=generator)[:2000]
        self.splits: dict[str, LabelledImages] = {
            "val": self.plain.val.subset(drawn.tolist()),
            "test": self.plain.test,
        }
        self.model = sc.build("resnet20-cifar10").eval()
        self.pruned: dict[tuple[str, int], nn.Module] = {}
        self.file = asked.out / "finetuned.csv"
        self.rows: dict[str, dict[str, Any]] = {}
        if self.file.exists():
            with self.file.open(newline="") as file:
                self.rows = {row.pop("key"): dict(row) for row in csv.DictReader(file)}

    def accuracy(self, key: Key, split: str) -> float:
        """Measured, or as it was."""
        if key.text() not in self.rows:
            slim = copy.deepcopy(self._pruned(key.method, key.seed))
            if key.epochs:
                settings = TrainSettings(
                    epochs=key.epochs, learning_rate=key.rate, seed=key.seed, keep="last",
                    distillation=DISTILLED if key.learned == TEACHER else None,
                )  # fmt: skip
                teacher = self.model if key.learned == TEACHER else None
                fit(slim, self.train.subset(list(range(key.images))), None, settings, teacher=teacher)
            example = self.splits["val"].batch([0])[0]
            share = count_macs(slim, example) / count_macs(self.model, example)
            found = {name: sc.evaluate(slim, loader(images)).accuracy for name, images in self.splits.items()}
            self.rows[key.text()] = {**vars(key), "macs": share, **found}
            self._write()
            print(key, found, flush=True)  # noqa: T201
        return float(self.rows[key.text()][split])

    def _pruned(self, method: str, seed: int) -> nn.Module:
        if (method, seed) not in self.pruned:
            reference = ReferenceSet.sample(self.plain.train, 10, seed)
            self.pruned[method, seed] = METHODS[method]()(self.model, reference, self.asked.macs).eval()
        return self.pruned[method, seed]

    def _write(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["key", *next(iter(self.rows.values()))])
            writer.writeheader()
            writer.writerows({"key": key, **row} for key, row in self.rows.items())

    def best_rate(self, method: str, learned: str) -> float:
        """By validation images after one short epoch."""
        seed, images = self.asked.seeds[0], min(self.asked.rate_images, len(self.train))
        keys = {rate: Key(method, learned, 1, seed, rate, images) for rate in self.asked.rates}
        return max(keys, key=lambda rate: self.accuracy(keys[rate], "val"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rates", type=float, nargs="+", default=[0.003, 0.01, 0.03])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--images", type=int, help="of the training set; all of them where it is not given")
    parser.add_argument("--rate-images", type=int, default=20_000, help="that the rate is chosen with")
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--out", type=Path, default=Path("out/finetuned"))
    asked = parser.parse_args()
    with reporting(False):
        bench = Bench(asked)
        lines = []
        for epochs in sorted(asked.epochs):
            for method in asked.methods:
                for learned in (LABELS, TEACHER) if epochs else (LABELS,):
                    rate = bench.best_rate(method, learned) if epochs else 0.0
                    images = len(bench.train) if epochs else 0
                    keys = [Key(method, learned, epochs, seed, rate, images) for seed in asked.seeds]
                    found = [100 * bench.accuracy(key, "test") for key in keys]
                    interval = mean_interval(found)
                    half = "" if interval.low is None else f" ±{interval.mean - interval.low:4.1f}"
                    macs = statistics.mean(float(bench.rows[key.text()]["macs"]) for key in keys)
                    how = f"{learned}, rate {rate:g}" if epochs else ""
                    lines.append(f"{epochs} epochs  {method:10} {interval.mean:5.1f}{half}  MACs {macs:.3f}  {how}")
    print("\n".join(lines))  # noqa: T201


if __name__ == "__main__":
    main()
