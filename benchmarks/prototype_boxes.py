"""How much of each prototype's evidence lies on the lesion, by three kinds of box; on synthetic lesions.

    python benchmarks/prototype_boxes.py [--scale 0.1] [--epochs 12] [--seeds 0 1] [--out FOLDER]

For every seed, pictures are drawn (`secateur data synthesise` does the same), a small prototype network is trained on
them, and its prototypes are projected. Of every prototype on a training picture:

- box on lesion: share of each box's area that lies on the lesion, beside the share of the whole picture;
- map on lesion: share of the positive upsampled similarity, and of the positive relevance, that lies on the lesion;
- kept: whether purity pruning (6 nearest patches, fewer than 3 of the class) keeps it, for prototypes whose relevance
  lies mostly on the lesion, and for the others.

Intervals are 95 % over prototypes, which share a network within a seed: they say nothing of other networks.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

import secateur as sc
from secateur.core.statistics import mean_interval
from secateur.data import DataSettings, ImageData, LabelledImages, Resize, loader
from secateur.data.synthetic import write_lesions
from secateur.models.prototype_network import PrototypeNetwork
from secateur.prototypes import (
    BOX_KINDS,
    PrototypePruneSettings,
    PrototypeTrainSettings,
    nearest_patches,
    prototype_relevance,
    train_prototypes,
)
from secateur.prototypes.boxes import upsampled_map
from secateur.prototypes.selection import decide

Row = dict[str, float]


def masks_of(data: ImageData, folder: Path) -> LabelledImages:
    """Areas of the lesions in the training pictures, cropped and resized as these are."""
    assert data.assignment is not None
    ids = [name for name, split in zip(data.assignment.ids, data.assignment.splits, strict=True) if split == "train"]
    assert len(ids) == len(data.train)
    drawn = folder / "HAM10000_segmentations_lesion_tumor"
    return data.train.replace(images=[drawn / f"{name}_segmentation.png" for name in ids], augmentation=None)


def measure(seed: int, scale: float, epochs: int) -> tuple[list[Row], float]:
    """One row for each prototype, and the network's accuracy on the test pictures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(write_lesions(Path(name) / "lesions", scale=scale, seed=seed, size=(224, 168), masks=True))
        data = sc.open_data(
            DataSettings(source=str(folder), resize=Resize(size=64), augmentation="crop-flip", seed=seed)
        )
        torch.manual_seed(seed)
        network = sc.build("prototype-network", backbone="resnet20", image_size=64, num_classes=7, per_class=5,
                           channels=64, add_on="plain")  # fmt: skip
        assert isinstance(network, PrototypeNetwork)
        how = PrototypeTrainSettings(
            epochs=epochs, warm_epochs=0, push_every=epochs, batch_size=32, repeat="weighted", seed=seed,
            rates={"backbone": 0.003, "step": max(1, epochs * 2 // 3), "factor": 0.2},
        )  # fmt: skip
        found = train_prototypes(network, data.train, data.val, how).last
        plain = data.train.replace(augmentation=None)
        kept = {
            decision.number: decision.kept
            for decision in decide(network, plain, nearest_patches(network, plain, 6), PrototypePruneSettings())
        }
        masks = masks_of(data, folder)
        rows = []
        for place, source in enumerate(found.sources):
            on = masks.raw([source.patch.image])[0].float().mean(0) > 127
            inputs = plain.batch([source.patch.image])[0]
            with torch.no_grad():
                similarity = upsampled_map(network.inspect(inputs).maps[0, place], (64, 64)).clamp_min(0)
            relevance = prototype_relevance(network, inputs, [place])[0].sum(0).clamp_min(0)
            row = {
                "prototype": source.prototype,
                "kept": float(kept[source.prototype]),
                "picture": float(on.float().mean()),
                "similarity map": share(similarity, on),
                "relevance map": share(relevance, on),
            }
            for kind in BOX_KINDS:
                box = source.boxes[kind]
                row[f"{kind} box"] = float(on[box.top : box.bottom, box.left : box.right].float().mean())
            rows.append(row)
        return rows, sc.evaluate(network, loader(data.test)).accuracy


def share(values: torch.Tensor, on: torch.Tensor) -> float:
    """Of positive values that lie on the lesion."""
    total = float(values.sum())
    return float((values * on).sum()) / total if total else 0.0


def report(rows: Sequence[Row]) -> None:
    """Print the means with their intervals."""
    names = ["picture", *(f"{kind} box" for kind in BOX_KINDS), "similarity map", "relevance map"]
    print(f"share on the lesion, mean over {len(rows)} prototypes [95 % interval]")  # noqa: T201
    for name in names:
        found = mean_interval([row[name] for row in rows])
        print(f"  {name:20s} {100 * found.mean:5.1f} %{found.interval_text(100)}")  # noqa: T201
    for name in ("receptive-field box", "relevance box"):
        paired = mean_interval([row[name] - row["activation box"] for row in rows])
        said = "" if paired.verdict else "; cannot be told from none" if paired.verdict is None else ""
        print(f"  {name} less activation box: {100 * paired.mean:+.1f} points{paired.interval_text(100)}{said}")  # noqa: T201
    groups = {"on the lesion": True, "beside it": False}
    parts = {
        name: [row["kept"] for row in rows if (row["relevance map"] > 0.5) is wanted] for name, wanted in groups.items()
    }
    for name, kept in parts.items():
        print(f"kept by purity, relevance mostly {name}: {sum(kept):.0f} of {len(kept)}")  # noqa: T201
    one, other = (np.array(parts[name]) for name in groups)
    if len(one) > 1 and len(other) > 1:
        error = 1.96 * (one.var(ddof=1) / len(one) + other.var(ddof=1) / len(other)) ** 0.5
        difference = one.mean() - other.mean()
        said = "" if abs(difference) > error else "; cannot be told from none"
        low, high = 100 * (difference - error), 100 * (difference + error)
        print(f"difference: {100 * difference:+.1f} points [{low:+.1f}, {high:+.1f}]{said}")  # noqa: T201


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--scale", type=float, default=0.1, help="of the 10,015 pictures")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--out", type=Path, help="folder for prototype_boxes.csv")
    asked = parser.parse_args()
    rows: list[Row] = []
    for seed in asked.seeds:
        found, accuracy = measure(seed, asked.scale, asked.epochs)
        print(f"seed {seed}: accuracy {100 * accuracy:.1f} % on the test pictures")  # noqa: T201
        rows += [{"seed": seed, **row} for row in found]
    report(rows)
    if asked.out is not None:
        asked.out.mkdir(parents=True, exist_ok=True)
        with (asked.out / "prototype_boxes.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
