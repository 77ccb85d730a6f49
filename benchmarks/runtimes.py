"""Latency at half the MACs, in PyTorch and in ONNX Runtime, before and after pruning.

    python benchmarks/runtimes.py                       # ResNet-18, VGG-16-BN, ViT-B/16 at 224 pixels, batch 8
    python benchmarks/runtimes.py --networks torchvision/resnet50@224 --macs 0.5 --round-to 8

Networks have random weights and units go by weight norm, the same share of every layer: times depend on shapes alone.
All four are timed in turn, with the same number of threads; PyTorch runs channels-last.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch.utils.data import TensorDataset

import secateur as sc
from secateur.core.files import write_json
from secateur.core.progress import track
from secateur.core.timing import Latency

NETWORKS = "torchvision/resnet18@224,torchvision/vgg16_bn@224,torchvision/vit_b_16@224"


def main(
    networks: Annotated[str, typer.Option(help="NAME@SIDE, separated by commas.")] = NETWORKS,
    macs: Annotated[float, typer.Option(help="Share that stays.")] = 0.5,
    round_to: Annotated[int, typer.Option(help="Units that stay are a multiple of this.")] = 8,
    batch: Annotated[int, typer.Option(help="Samples per pass.")] = 8,
    repeats: Annotated[int, typer.Option(min=6, help="Timed rounds.")] = 10,
    threads: Annotated[int | None, typer.Option(help="Of both runtimes; as set when absent.")] = None,
    out: Annotated[Path, typer.Option(help="JSON file.")] = Path("out/runtimes.json"),
) -> None:
    """Prune, export, time, print a table, write JSON."""
    rows = [timed(name, macs, round_to, batch, repeats, threads) for name in track(networks.split(","), "networks")]
    table = Table(title=f"latency of one batch of {batch}, {rows[0]['threads']} thread(s), median of {repeats}")
    for column in rows[0]:
        table.add_column(column, justify="left" if column == "network" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=220).print(table)
    write_json(out, rows)


def timed(name: str, macs: float, round_to: int, batch: int, repeats: int, threads: int | None) -> dict[str, Any]:
    """One row."""
    path, _, side = name.partition("@")
    torch.manual_seed(0)
    model = sc.build(path)
    head = [m for m in model.modules() if isinstance(m, torch.nn.Linear)][-1]
    torch.nn.init.normal_(head.weight, std=0.02)  # some networks start with a head of zeros, which checks nothing
    x = torch.randn(batch, 3, int(side), int(side))
    reference = sc.ReferenceSet.sample(TensorDataset(x, torch.arange(batch) % 2), per_class=1)
    structure = sc.trace(model, x[:1])
    scores = sc.score(model, structure, reference, "weight")
    plan = sc.select(scores, sc.Budget(macs=macs), "per-layer", round_to=round_to)
    slim = sc.prune(model, plan)
    count = threads or torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        files = [sc.export(m, Path(folder) / f"{i}.onnx", x[:2]) for i, m in enumerate((model, slim))]
        sessions = [sc.exporting.OnnxSession(f.path, threads=count) for f in files]
        runners = [model, slim, *sessions]
        # the pruned network with the original, in each runtime; ONNX Runtime with PyTorch
        found = sc.exporting.measure_runtime(runners, x, repeats=repeats, threads=count, against=[0, 0, 2])
    before, after, runtime_before, runtime_after = (timing.median_ms for timing in found)
    return {
        "network": path,
        "MACs": plan.achieved["macs"],
        "PyTorch ms": before,
        "pruned ms": after,
        "share": said(found[1]),
        "ONNX Runtime ms": runtime_before,
        "pruned in it ms": runtime_after,
        "share in it": said(found[3]),
        "difference": max(f.difference for f in files),
        "threads": count,
        "note": found[0].warning,
    }


def said(found: Latency) -> str:
    return "-" if found.relative is None else str(found.relative).replace(" of the time", "")


if __name__ == "__main__":
    typer.run(main)
