"""Images per second from JPEG files: decoded once against decoded in every epoch; and memory over many images.

    python benchmarks/loading.py [--images 1000] [--rounds 5] [--workers 0 2] [--memory] [--out FOLDER]

The plain way is a data set as most people write it: PIL, torchvision's Resize, CenterCrop, ToTensor and Normalize, and
a DataLoader. Both ways give the same batches, which is checked, and run in turn, in changing order; an epoch begins
with the start of its worker processes. PyTorch's operations use one thread, as they do in worker processes anyway. The
pictures are synthetic, 600 x 450 pixels. ``--memory`` decodes 50,000 paths (2,000 pictures, 25 times each) at 64 px,
and then goes through them in batches.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from secateur.core.progress import Progress, reporting
from secateur.data import LabelledImages, Normalisation, Resize, loader
from secateur.data.decoded import decoded_images

IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
RESIZE = Resize(size=256, crop=224)


class PlainFolder(Dataset[tuple[torch.Tensor, int]]):
    """What the ways are compared with."""

    def __init__(self, paths: list[Path], labels: np.ndarray) -> None:
        self.paths, self.labels = paths, labels
        self.transform = transforms.Compose(
            [
                transforms.Resize(RESIZE.size),
                transforms.CenterCrop(RESIZE.side),
                transforms.ToTensor(),
                transforms.Normalize(IMAGENET.mean, IMAGENET.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        with Image.open(self.paths[index]) as picture:
            return self.transform(picture.convert("RGB")), int(self.labels[index])


def write_pictures(folder: Path, count: int, size: tuple[int, int] = (600, 450)) -> list[Path]:
    """Smooth pictures with a spot, without noise, of about the size in bytes of dermoscopic JPEGs."""
    y, x = np.mgrid[: size[1], : size[0]] / max(size)
    paths = []
    for index in range(count):
        draw = np.random.default_rng(index)
        spot = np.exp(
            -((x - draw.uniform(0.3, 0.7)) ** 2 + (y - draw.uniform(0.2, 0.5)) ** 2) / draw.uniform(0.005, 0.03)
        )
        texture = 0.06 * np.sin(x * draw.uniform(100, 300)) * np.sin(y * draw.uniform(100, 300))
        pixels = (0.8 + texture - 0.5 * spot)[..., None] * draw.uniform(0.6, 1, 3)
        paths.append(folder / f"{index:05}.jpg")
        Image.fromarray(np.uint8(255 * pixels.clip(0, 1))).save(paths[-1], quality=92)
    return paths


def seconds(work: Callable[[], Any]) -> tuple[float, float]:
    """On the clock, and of all cores by this process and those it started."""
    begin, before = time.perf_counter(), sum(os.times()[:4])
    work()
    return time.perf_counter() - begin, sum(os.times()[:4]) - before


def go_through(make: Callable[[int], Any], workers: int) -> int:
    return sum(len(labels) for _, labels in make(workers))


def speed(folder: Path, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """Images per second, both ways, for each number of workers."""
    paths = write_pictures(folder, asked.images)
    labels = np.arange(len(paths)) % 7
    plain = PlainFolder(paths, labels)

    def ours() -> LabelledImages:
        return LabelledImages(decoded_images(paths, RESIZE).images, labels, list("abcdefg"), IMAGENET)

    (decoding, _), mapped, (opening, _) = seconds(ours), ours(), seconds(ours)
    for expected, found in zip(DataLoader(plain, 50), loader(mapped, 50), strict=True):
        assert torch.allclose(expected[0], found[0], atol=1e-6)
        assert torch.equal(expected[1], found[1])
    print(f"decoded once: {decoding:.1f} s, {len(paths) / decoding:.0f} images/s; opened again: {opening:.2f} s")  # noqa: T201
    ways: dict[str, Callable[[int], Any]] = {
        "plain": lambda workers: DataLoader(plain, asked.batch, shuffle=True, num_workers=workers),
        "decoded": lambda workers: loader(mapped, asked.batch, shuffle=True, workers=workers),
    }
    rows = []
    for workers in asked.workers:
        times: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        for turn in range(asked.rounds):
            for way in list(ways) if turn % 2 == 0 else list(reversed(ways)):
                times[way].append(seconds(partial(go_through, ways[way], workers)))
        row: dict[str, Any] = {"workers": workers, "images": len(paths)}
        for kind, of in (("clock", 0), ("cpu", 1)):
            plain_s, decoded_s = ([found[of] for found in times[way]] for way in ways)
            ratios = [long / short for long, short in zip(plain_s, decoded_s, strict=True)]
            row |= {f"plain_{kind}_s": statistics.median(plain_s), f"decoded_{kind}_s": statistics.median(decoded_s)}
            row |= {f"{kind}_ratio": statistics.median(ratios), f"least_{kind}_ratio": min(ratios)}
        row["plain_per_s"] = len(paths) / row["plain_clock_s"]
        row["decoded_per_s"] = len(paths) / row["decoded_clock_s"]
        row["first_epoch_s"] = decoding + row["decoded_clock_s"]
        rows.append(row)
    return rows


def memory_mb(field: str = "VmRSS") -> float:
    """Of this process: ``VmRSS`` all that is resident, ``RssAnon`` without pages of files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def memory(folder: Path, count: int, distinct: int) -> list[dict[str, Any]]:
    """Resident memory while images are decoded, counted and given in batches."""
    pictures = write_pictures(folder, min(distinct, count))
    paths = (pictures * -(-count // len(pictures)))[:count]
    rows: list[dict[str, Any]] = []

    def note(stage: str, done: int) -> None:
        rows.append({"stage": stage, "images": done, "rss_mb": memory_mb(), "anonymous_mb": memory_mb("RssAnon")})

    def watch(progress: Progress) -> None:
        if progress.total == count and progress.done >= len(rows) * count // 20:
            note("decoding", progress.done)

    begin = time.perf_counter()
    with reporting(watch):
        decoded = decoded_images(paths, Resize(size=64))
    print(f"{count:,} images decoded in {time.perf_counter() - begin:.0f} s, {decoded.images.nbytes / 1e6:.0f} MB")  # noqa: T201
    with reporting(False):
        decoded.histogram(np.arange(count))
    note("histogram", count)
    data = LabelledImages(decoded.images, np.zeros(count, np.int64), ["a"], IMAGENET)
    for index, _ in enumerate(loader(data, 256, shuffle=True)):
        if index % 20 == 0:
            note("epoch", index * 256)
    return rows


def stages(rows: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Of all rows: decoding after a tenth of the images and at its end, counting, and both ends of the epoch."""
    decoding, epoch = ([row for row in rows if row["stage"] == stage] for stage in ("decoding", "epoch"))
    early = next(row for row in decoding if row["images"] >= count // 10)
    return [early, decoding[-1], *(row for row in rows if row["stage"] == "histogram"), epoch[0], epoch[-1]]


def show(rows: list[dict[str, Any]], shown: list[dict[str, Any]], name: str, out: Path | None) -> None:
    for key in rows[0]:
        values = (f"{row[key]:12.2f}" if isinstance(row[key], float) else f"{row[key]:>12}" for row in shown)
        print(f"{key:20}" + "".join(values))  # noqa: T201
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{name}.json").write_text(json.dumps(rows, indent=1))
        with (out / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000, help="pictures in an epoch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--memory", action="store_true", help="watch memory in place of speed")
    parser.add_argument("--count", type=int, default=50_000, help="paths, with --memory")
    parser.add_argument("--distinct", type=int, default=2000, help="pictures among them")
    parser.add_argument("--out", type=Path, help="folder for JSON and CSV")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        torch.set_num_threads(1)
        os.environ["SECATEUR_CACHE"] = str(Path(folder) / "cache")
        print(f"{os.cpu_count()} cores, PyTorch {torch.__version__}")  # noqa: T201
        if asked.memory:
            rows = memory(Path(folder), asked.count, asked.distinct)
            show(rows, stages(rows, asked.count), "memory", asked.out)
        else:
            rows = speed(Path(folder), asked)
            show(rows, rows, "speed", asked.out)


if __name__ == "__main__":
    main()
