"""Projection and nearest patches against one evaluation pass over the same images; and memory over their number.

    python benchmarks/prototypes.py [--images 50000] [--rounds 3] [--memory] [--out FOLDER]

A prototype network on ResNet-20 (10 prototypes for each of 10 classes, of 64 channels) looks at images of 32 x 32
pixels: those of CIFAR-10 where they are on this machine, or else noise, of which the passes take as long. In turn, and
in changing order: `secateur.evaluate` on all images, `project` (its pass, then features, checksums and three boxes of
the source images), `nearest_patches` (six for each prototype). Weights are random, and projection starts from the same
ones each time. ``--memory`` measures the peak resident memory of a projection in processes of their own, over 2,000 and
over all images, less what was resident before.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import secateur as sc
from secateur.core.errors import RequestError
from secateur.core.progress import reporting
from secateur.data import LabelledImages, Normalisation, loader
from secateur.models.prototype_network import PrototypeNetwork
from secateur.prototypes import nearest_patches, project


def open_images(count: int) -> tuple[LabelledImages, str]:
    """So many images of 32 x 32 pixels, and what they are."""
    try:
        data = sc.open_data("cifar10")
        kinds = [data.train, data.val, data.test]
        pixels = np.concatenate([np.asarray(split.images) for split in kinds])[:count]
        labels = np.concatenate([split.labels for split in kinds])[:count]
        if len(pixels) == count:
            return LabelledImages(pixels, labels, data.class_names, data.normalisation), "CIFAR-10"
    except RequestError:
        pass
    pixels = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)
    names = tuple("abcdefghij")
    return LabelledImages(pixels, np.arange(count) % 10, names, Normalisation((0.5,) * 3, (0.25,) * 3)), "noise"


def make_network() -> PrototypeNetwork:
    """The same each time."""
    torch.manual_seed(0)
    found = sc.build(
        "prototype-network", backbone="resnet20", image_size=32, num_classes=10, per_class=10, channels=64,
        add_on="plain",
    )  # fmt: skip
    assert isinstance(found, PrototypeNetwork)
    return found.eval()


def speed(count: int, rounds: int) -> dict[str, Any]:
    """Seconds of each, and the median of the ratios to the evaluation pass of the same round."""
    data, what = open_images(count)
    network = make_network()
    ways: dict[str, Callable[[], object]] = {
        "evaluate": lambda: sc.evaluate(network, loader(data)),
        "project": lambda: project(copy.deepcopy(network), data),
        "nearest_patches": lambda: nearest_patches(network, data, 6),
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    with reporting(False):
        project(copy.deepcopy(network), data.subset(list(range(640))))  # what is loaded and measured once
        for turn in range(rounds):
            for way in list(ways) if turn % 2 == 0 else list(reversed(ways)):
                begin = time.perf_counter()
                ways[way]()
                times[way].append(time.perf_counter() - begin)
    row: dict[str, Any] = {"images": count, "data": what, "rounds": rounds, "threads": torch.get_num_threads()}
    for way, found in times.items():
        row[f"{way}_s"] = statistics.median(found)
        if way != "evaluate":
            ratios = [one / base for one, base in zip(found, times["evaluate"], strict=True)]
            row |= {f"{way}_ratio": statistics.median(ratios), f"{way}_most": max(ratios)}
    return row


def peak_mb() -> float:
    """Of this process so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def memory_of(count: int) -> float:
    """MB that a projection over so many images takes at most, beyond images, network and a pass over a few."""
    data, _ = open_images(count)
    network = make_network()
    with reporting(False):
        project(copy.deepcopy(network), data.subset(list(range(640))))
        before = peak_mb()
        project(network, data)
    return peak_mb() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    if asked.memory_of is not None:
        print(memory_of(asked.memory_of))  # noqa: T201
        return
    row = speed(asked.images, asked.rounds)
    if asked.memory:
        for count in (2_000, asked.images):
            own = [sys.executable, __file__, "--memory-of", str(count)]
            done = subprocess.run(own, check=True, capture_output=True, text=True)
            row[f"memory_mb_{count}"] = float(done.stdout.split()[-1])
    for name, value in row.items():
        print(f"{name:24}{value:.3f}" if isinstance(value, float) else f"{name:24}{value}")  # noqa: T201
    if asked.out is not None:
        asked.out.mkdir(parents=True, exist_ok=True)
        (asked.out / "prototypes.json").write_text(json.dumps(row, indent=1))
        with (asked.out / "prototypes.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            writer.writeheader()
            writer.writerow(row)


if __name__ == "__main__":
    main()
