"""Relevance on published networks as they come: one row each, as `tests/test_attribution_networks.py` builds them.

    python benchmarks/networks.py                  # all of them, some minutes
    python benchmarks/networks.py --only deit_tiny_patch16_224,Swin

The gap is what did not arrive at the inputs, as a share of the relevance that started: biases, constants and the
softmax absorb it. The last column is what the accounts do not explain of it, as a share of all that was absorbed.
"""

from __future__ import annotations

import copy
import sys
import time
import warnings
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

import secateur as sc
from secateur.core.progress import track

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import test_attribution_networks as networks


def main(
    only: Annotated[str, typer.Option(help="Names, separated by commas; all when empty.")] = "",
    composite: Annotated[str, typer.Option(help="Rules.")] = "attnlrp",
) -> None:
    """Print a table: finite, deterministic, nothing changed, conservation gap."""
    warnings.simplefilter("ignore")  # the libraries' own, at creation
    families = (
        (networks.from_torchvision, networks.TORCHVISION),
        (networks.from_timm, networks.TIMM),
        (networks.from_hugging_face, networks.HUGGING_FACE),
    )
    wanted = set(only.split(",")) - {""}
    chosen = [(build, name) for build, names in families for name in names if not wanted or name in wanted]
    table = Table(title=f"relevance by {composite}, 2 random images, random weights")
    for column in ("network", "seconds", "layers", "finite", "deterministic", "unchanged", "gap", "unexplained"):
        table.add_column(column, justify="left" if column == "network" else "right", no_wrap=True)
    for build, name in track(chosen, "networks"):
        torch.manual_seed(0)
        model, side = build(name)
        x = torch.randn(2, 3, side, side)
        networks.lively(model, x)
        before = copy.deepcopy(model.state_dict())
        begin = time.perf_counter()
        found = sc.attribute(model, x, [0, 1], composite)
        same = torch.equal(found.input, sc.attribute(model, x, [0, 1], composite).input)
        seconds = time.perf_counter() - begin
        again = sc.attribute(model, x, [0, 1], composite, account=True)
        absorbed = torch.stack(list(again.absorbed.values()))
        unexplained = (again.gap - absorbed.sum(0)).abs() / absorbed.abs().sum(0).clamp(min=1)
        table.add_row(
            name,
            f"{seconds:.1f}",
            str(len(found.units)),
            _yes(bool(torch.isfinite(found.input).all())),
            _yes(same),
            _yes(all(torch.equal(value, before[key]) for key, value in model.state_dict().items())),
            f"{float((found.gap / found.start).abs().max()):.2g}",
            f"{float(unexplained.max()):.0e}",
        )
    Console(width=120).print(table)


def _yes(held: bool) -> str:
    return "yes" if held else "NO"


if __name__ == "__main__":
    typer.run(main)
