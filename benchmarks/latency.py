"""Latency budgets: what was asked for, what the plan says it measured, and what independent measurements say later.

    OMP_NUM_THREADS=1 python benchmarks/latency.py --threads 1          # three networks, some minutes
    python benchmarks/latency.py --networks torchvision/resnet18@224 --shares 0.7,0.5 --round-to auto

A network is a name that `secateur.build` knows, with the side of its images behind an @. Scores are one-shot, without
repair, so that only the budget is looked at; inputs are noise, which times do not depend on.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.data import TensorDataset

import secateur as sc
from secateur.core.errors import SecateurError
from secateur.core.files import write_json
from secateur.core.progress import track
from secateur.core.timing import Latency
from secateur.evaluation import compare_latency

COLUMNS = ("network", "requested", "predicted", "achieved", "interval", "again", "off", "macs", "units", "seconds")


def main(
    networks: Annotated[
        str, typer.Option(help="NAME@SIDE, separated by commas.")
    ] = "resnet20-cifar10@32,vgg11-bn-32@32,torchvision/resnet18@224",
    shares: Annotated[str, typer.Option(help="Of latency, separated by commas.")] = "0.7,0.5",
    rounds: Annotated[int, typer.Option(help="Independent measurements of each result.")] = 3,
    criterion: Annotated[str, typer.Option(help="Ranks the units.")] = "weight",
    strategy: Annotated[str, typer.Option(help="global, per-cost or per-layer.")] = "per-layer",
    round_to: Annotated[str, typer.Option(help="A number or auto.")] = "1",
    batch: Annotated[int, typer.Option(help="Samples per pass.")] = 8,
    threads: Annotated[int | None, typer.Option(help="Of PyTorch; as set when absent.")] = None,
    channels_last: Annotated[bool, typer.Option(help="Memory format while timing.")] = True,
    out: Annotated[Path, typer.Option(help="JSON file.")] = Path("out/latency.json"),
) -> None:
    """Prune to latency budgets, measure again, print a table, write JSON."""
    settings = sc.PruneSettings.published(
        strategy=strategy,
        round_to=round_to if round_to == "auto" else int(round_to),
        latency_batch=batch,
        latency_threads=threads,
        latency_channels_last=channels_last,
    )
    wanted = sorted((float(share) for share in shares.split(",")), reverse=True)
    rows: list[dict[str, Any]] = []
    for name in track(networks.split(","), "networks"):
        rows += measured(name, wanted, rounds, criterion, settings)
    table = Table(title=f"latency by {criterion}, {strategy}, round_to {round_to}, batch {batch}, threads {threads}")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "network" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(f"{row[c]:.3f}" if isinstance(row[c], float) else str(row[c]) for c in COLUMNS))
    Console(width=140).print(table)
    for row in rows:
        if row["note"]:
            Console(width=140).print(f"{row['network']} {row['requested']}: {row['note']}", markup=False)
    write_json(out, {"settings": settings.model_dump(mode="json"), "criterion": criterion, "rows": rows})


def measured(
    name: str, shares: list[float], rounds: int, criterion: str, settings: sc.PruneSettings
) -> list[dict[str, Any]]:
    """One row per share, largest first, each pruned on its own."""
    model, inputs = built(name)
    reference = sc.ReferenceSet.sample(TensorDataset(inputs, torch.arange(len(inputs)) % 2), len(inputs) // 2)
    rows = []
    for share in shares:
        begin = time.perf_counter()
        row: dict[str, Any] = dict.fromkeys(COLUMNS, "-") | {"network": name, "requested": share, "note": ""}
        rows.append(row)
        try:
            best = sc.compress(model, reference, sc.Budget(latency=share), criterion, settings)
        except SecateurError as error:
            row["note"] = str(error)
            continue
        found = best.plan.achieved
        row |= {"seconds": time.perf_counter() - begin, "note": best.history[-1].note}
        row |= {"predicted": found["latency_predicted"], "achieved": found["latency"]}
        row |= {"macs": found["macs"], "units": found["units"]}
        times = best.latency
        assert times is not None
        row |= {"interval": interval(times[1]), "latency": [t.to_json() for t in times]}
        again = [
            compare_latency(
                model,
                best.model,
                inputs[: settings.latency_batch],
                threads=settings.latency_threads,
                channels_last=settings.latency_channels_last,
            )[1]
            for _ in range(rounds)
        ]
        middle = float(np.median([t.relative.share for t in again if t.relative is not None]))
        row |= {"again": middle, "rounds": [t.to_json() for t in again], "off": middle / share - 1}
        busy = [t.warning for t in (times[1], *again) if t.warning]
        row["note"] = "; ".join(text for text in (row["note"], *busy[:1]) if text)
    return rows


def interval(found: Latency) -> str:
    share = found.relative
    return "-" if share is None or share.interval is None else "{:.2f} to {:.2f}".format(*share.interval)


def built(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A network and at least as many inputs as any batch here has."""
    network, _, side = name.partition("@")
    torch.manual_seed(0)
    arguments = {"num_classes": 10} if "/" in network else {}
    model = sc.build(network, **arguments).eval()
    return model, torch.randn(64, 3, int(side or 224), int(side or 224))


if __name__ == "__main__":
    typer.run(main)
