"""What several processes take of the time of one: scoring, evaluation and training epochs of a ResNet-20.

    OMP_NUM_THREADS=1 torchrun --standalone --nproc-per-node 2 benchmarks/ranks.py
        [--data cifar10] [--images 600] [--per-class 10] [--batch-size 50] [--rounds 11] [--device cpu]

The same processes do both: in each round, rank 0 does the work by itself while the others wait, and all do it
together, in changing order. Each pair gives one ratio; printed are the median of ratios and its 95 % interval (order
statistics). Half of the time of one is the best that two can do. On CPUs, give each process one thread, and as many
cores as there are processes. Processor time is that of rank 0: the part of its time in which it does not wait for
others, which a busy machine changes little.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read when PyTorch is imported

import torch

import secateur as sc
from secateur.core.devices import choose_device
from secateur.core.ranks import Ranks, launched
from secateur.data import loader
from secateur.training import TrainSettings, fit

Work = Callable[[], object]


def works(asked: argparse.Namespace, device: torch.device) -> dict[str, Work]:
    """What is timed, by its name."""
    data = sc.open_data(asked.data)
    images = data.train.subset(range(asked.images))
    reference = sc.ReferenceSet.sample(data.train, asked.per_class, seed=0)
    channels, side = reference.inputs.shape[1], reference.inputs.shape[-1]
    torch.manual_seed(0)
    model = sc.build("resnet20", num_classes=len(data.class_names), in_channels=channels).eval().to(device)
    structure = sc.trace(model, torch.zeros(1, channels, side, side, device=device))
    settings = TrainSettings(epochs=1, batch_size=asked.batch_size, device=asked.device)

    def score(criterion: str) -> Work:
        return lambda: sc.score(model, structure, reference, criterion, progress=False)

    return {
        "scoring by lrp": score("lrp"),
        "scoring by taylor": score("taylor"),
        "evaluation": lambda: sc.evaluate(model, loader(images, asked.batch_size), progress=False),
        "a training epoch": lambda: fit(copy.deepcopy(model), images, None, settings, progress=False),
    }


@dataclass(frozen=True)
class Spent:
    """What a piece of work takes.

    Attributes:
        wall: seconds until the last rank has done it.
        processor: seconds that this rank computes.
    """

    wall: float
    processor: float


def spent(work: Work, ranks: Ranks, device: torch.device) -> Spent:
    """What a piece of work takes, from the moment when all ranks are ready."""
    ranks.gather(None)
    wall, processor = time.perf_counter(), time.process_time()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    processor = time.process_time() - processor
    ranks.gather(None)
    return Spent(time.perf_counter() - wall, processor)


def shares(work: Work, ranks: Ranks, device: torch.device, rounds: int) -> list[Spent]:
    """What the work takes all together, as shares of what it takes rank 0 by itself, of each round."""

    def quiet() -> None:  # results stay where they are
        work()

    def one() -> None:
        ranks.once(quiet)

    ways: list[Work] = [one, work]
    for way in ways:
        way()  # first calls are slower
    found = []
    for turn in range(rounds):
        took = {way: spent(way, ranks, device) for way in (ways if turn % 2 else ways[::-1])}
        both, alone = took[work], took[one]
        found.append(Spent(both.wall / alone.wall, both.processor / alone.processor))
    return found


def text(values: list[float]) -> str:
    """Median and its 95 % interval by order statistics; of fewer than six values, smallest and largest."""
    from scipy.stats import binom

    beyond = max(int(binom.ppf(0.025, len(values), 0.5)) - 1, 0)
    ordered = sorted(values)
    return f"{statistics.median(values):.2f} [{ordered[beyond]:.2f}, {ordered[-1 - beyond]:.2f}]"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--images", type=int, default=600, help="of evaluation and of an epoch")
    parser.add_argument("--per-class", type=int, default=10, help="reference samples")
    parser.add_argument("--batch-size", type=int, default=50, help="of all processes together in training")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    with launched() as ranks:
        if not ranks.several:
            parser.error("start it by torchrun, with two processes or more")
        device = choose_device(asked.device)
        for name, work in works(asked, device).items():
            found = shares(work, ranks, device, asked.rounds)
            if ranks.main:
                wall, processor = text([each.wall for each in found]), text([each.processor for each in found])
                print(f"{name}: {ranks.size} processes take {wall} of the time of one, processor time {processor}")  # noqa: T201


if __name__ == "__main__":
    main()
