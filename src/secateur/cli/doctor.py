"""secateur doctor."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secateur.cli.options import ArchitectureOption, DataOption, TrustOption, WeightsOption, recipe_from
from secateur.core.errors import RequestError

if TYPE_CHECKING:
    import numpy as np
    from rich.table import Table

    from secateur.structure import Structure

_REASON = 64
"""Characters of a reason that are shown without ``--full``."""


def command(
    model: Annotated[str | None, typer.Argument(help="A network to look at; without one: the installation.")] = None,
    weights: WeightsOption = None,
    architecture: ArchitectureOption = None,
    trust_code: TrustOption = None,
    data: DataOption = None,
    shape: Annotated[
        str | None, typer.Option("--shape", help="Input shape C,H,W when no data is named and the network names none.")
    ] = None,
    stream: Annotated[
        bool, typer.Option("--stream", help="Let channels go that norms run over: residual streams as a whole.")
    ] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Name all layers of each group, and give whole reasons.")
    ] = False,
) -> None:
    """Check the installation, or what a network allows.

    Of a network: what can be pruned, and why the rest cannot.
    """
    if model is None:
        from secateur.cli.installation import show_installation

        show_installation()
        return
    from secateur.core.progress import announce
    from secateur.models.settings import ModelSettings, check_model

    sizes = None if shape is None else _sizes(shape)
    flags = {"weights": weights, "architecture": architecture, "trust_code": trust_code}
    given = {key: value for key, value in flags.items() if value is not None}
    check_model(ModelSettings.model_validate({"name": model, **given}))
    recipe = None
    if data is not None:
        recipe = recipe_from(
            None, None, data__source=data, model__allow_untrained=True, model__name=model, **_for_recipe(given)
        )
    announce("loading PyTorch")
    import torch

    from secateur.cli.wide import print_table
    from secateur.models import build, input_shape
    from secateur.models.settings import kind_of
    from secateur.pipeline import prepare
    from secateur.structure import trace
    from secateur.surgery import load

    if recipe is not None:
        prepared = prepare(recipe)
        network, example = prepared.model, prepared.data.test.batch([0])[0]
    else:
        network = load(model) if kind_of(model) == "bundle" else build(model, **given)  # type: ignore[arg-type]
        example = torch.zeros(1, *(sizes or input_shape(network)))
    structure = trace(network, example, stream=stream)
    whole = structure.cost()
    print_table(
        _groups(structure, full),
        f"{model}: {structure.num_units} removable units in {len(structure.groups)} groups, "
        f"{whole.params:,} parameters, {whole.macs:,} MACs per sample",
        "Shares of parameters and MACs: what goes with several groups counts for each in equal parts.",
    )
    if structure.idle:
        typer.echo(f"not executed on this input, left as they are: {', '.join(structure.idle)}")
    for peek in structure.peeks:
        typer.echo(f"note: {peek} was followed")
    typer.echo(f"reachable: {_reachable(structure)}")
    if structure.locked_by_norms:
        try:
            then = f"; then reachable: {_reachable(trace(network, example, stream=True), ' --stream')}"
        except RequestError as error:
            then = f", where that is possible: {error}"
        count = structure.locked_by_norms
        typer.echo(f"norms lock {count} channels of the residual stream; --stream allows removing them{then}")


def _for_recipe(given: Mapping[str, Any]) -> dict[str, Any]:
    return {f"model__{key}": value for key, value in given.items()}


def _sizes(shape: str) -> list[int]:
    try:
        sizes = [int(n) for n in shape.split(",")]
    except ValueError as error:
        raise RequestError(f"--shape should read C,H,W, got '{shape}'") from error
    if min(sizes) < 1:
        raise RequestError(f"--shape should hold sizes of at least 1, got '{shape}'")
    return sizes


def _groups(structure: Structure, full: bool) -> Table:
    """One row per group and per locked entry; shares add up to 100 %."""
    from secateur.cli.wide import folded_table

    table = folded_table(
        (("layers", "left"), ("kind", "left"), *((name, "right") for name in ("units", "params", "MACs")))
    )
    table.add_column("", overflow="fold", ratio=1)
    layers = [*(group.layers for group in structure.groups), *(item.layers for item in structure.locked), ()]
    for row, names in zip(structure.table(), layers, strict=True):
        shares = [float(str(row[key])) for key in ("params", "macs")]
        if not names and max(shares) < 0.00005:
            continue  # nothing is left over
        reason = str(row["reason"]) or "can go"
        table.add_row(
            _named(str(row["group"]), names, full),
            str(row["kind"]),
            str(row["units"]) if names else "",
            *(f"{100 * share:.2f} %" for share in shares),
            reason if full else _shortened(reason),
        )
    table.add_section()
    table.add_row("all", "", "", "100.00 %", "100.00 %", "")
    return table


def _named(group: str, layers: Sequence[str], full: bool) -> str:
    """A group by its first layer, and how many layers more have its units."""
    others = [name for name in layers[1:] if name != group]
    if not others:
        return group
    return ", ".join([group, *others]) if full else f"{group} and {len(others)} more"


def _shortened(text: str) -> str:
    return text if len(text) <= _REASON else f"{text[: _REASON - 4].rstrip()} ..."


def _reachable(structure: Structure, flag: str = "") -> str:
    """The least shares, and a command that reaches them."""
    least = structure.cost(_minimum(structure)).share_of(structure.cost())
    shares = ", ".join(f"{name} {share:.2%}" for name, share in least.items())
    budget = max(0.01, math.ceil(100 * least["macs"]) / 100)
    return f"{shares} with one unit left per group (prune --macs {budget:.2f}{flag})"


def _minimum(structure: Structure) -> np.ndarray:
    """One unit left in each group."""
    import numpy as np

    keep = np.zeros(structure.num_units, bool)
    keep[[group.first for group in structure.groups]] = True
    return keep
