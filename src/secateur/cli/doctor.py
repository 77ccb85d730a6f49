"""secateur doctor."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from secateur.cli.options import DataOption, WeightsOption, recipe_from
from secateur.cli.present import percent, show
from secateur.core.devices import choose_device
from secateur.core.errors import RequestError
from secateur.criteria import known
from secateur.models import build, input_shape
from secateur.pipeline import known_recipes, prepare
from secateur.structure import Structure, trace
from secateur.surgery import load


def command(
    model: Annotated[str | None, typer.Argument(help="A network to look at; without one: the installation.")] = None,
    weights: WeightsOption = None,
    data: DataOption = None,
    shape: Annotated[
        str | None, typer.Option("--shape", help="Input shape C,H,W when no data is named and the network names none.")
    ] = None,
    stream: Annotated[
        bool, typer.Option("--stream", help="Let channels go that norms run over: residual streams as a whole.")
    ] = False,
) -> None:
    """Check the installation, or what can be pruned in a network and why the rest cannot."""
    if model is None:
        _installation()
        return
    if data is not None:
        prepared = prepare(recipe_from(None, None, data__source=data, model__name=model, model__weights=weights))
        network, example = prepared.model, prepared.data.test.batch([0])[0]
    else:
        sizes = None if shape is None else _sizes(shape)
        network = load(model) if Path(model).is_dir() else build(model, weights)
        example = torch.zeros(1, *(sizes or input_shape(network)))
    structure = trace(network, example, stream=stream)
    rows = [
        (*(r[k] for k in ("group", "kind", "layers", "units")), percent(r["params"]), percent(r["macs"]), _verdict(r))  # type: ignore[arg-type]
        for r in structure.table()
    ]
    show(("group", "kind", "layers", "units", "parameters", "MACs", ""), rows, f"{model}: {structure}")
    least = structure.cost(_minimum(structure)).share_of(structure.cost())
    typer.echo("reachable: " + ", ".join(f"{name} {share:.2%}" for name, share in least.items()))
    if not stream and any("norm" in item.reason for item in structure.locked):
        typer.echo("channels that norms run over are locked; --stream lets them go")
    if structure.idle:
        typer.echo(f"not executed on this input, left as they are: {', '.join(structure.idle)}")
    for peek in structure.peeks:
        typer.echo(f"note: {peek} was followed")


def _verdict(row: dict[str, object]) -> object:
    return row["reason"] or "can go"


def _sizes(shape: str) -> list[int]:
    try:
        return [int(n) for n in shape.split(",")]
    except ValueError as error:
        raise RequestError(f"--shape should read C,H,W, got '{shape}'") from error


def _minimum(structure: Structure) -> np.ndarray:
    """One unit left in each group."""
    keep = np.zeros(structure.num_units, bool)
    keep[[group.first for group in structure.groups]] = True
    return keep


def _installation() -> None:
    rows = []
    for name in ("secateur", "torch", "torchvision", "accelerate", "altair", "timm", "mlxtend", "scikit-learn"):
        try:
            rows.append((name, version(name)))
        except PackageNotFoundError:
            extra = {"timm": "timm", "mlxtend": "demo", "scikit-learn": "toy"}.get(name)
            rows.append((name, f"missing: pip install 'secateur[{extra}]'" if extra else "missing"))
    rows += [
        ("python", platform.python_version()),
        ("device", str(choose_device())),
        ("threads", f"{torch.get_num_threads()} of {os.cpu_count()} cores"),
        ("criteria", ", ".join(known())),
        ("recipes", ", ".join(known_recipes())),
    ]
    show(("what", "found"), rows, "installation")
