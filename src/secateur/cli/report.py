"""secateur report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secateur.core.errors import RequestError
from secateur.report import load_report, save_curves, write_report


def command(
    record: Annotated[Path, typer.Argument(help="report.json written by another command.")],
    out: Annotated[Path | None, typer.Option("--out", help="HTML, or .png/.svg for the curves alone.")] = None,
) -> None:
    """Render a report anew from its record, without any network."""
    found = load_report(record)
    target = out or record.with_suffix(".html")
    if target.suffix in (".png", ".svg"):
        if not found.rows:
            raise RequestError(f"'{record}' has no comparison rows to draw")
        save_curves(found.rows, target)
    elif target.suffix in (".html", ".htm"):
        write_report(found, target)
    else:
        raise RequestError(f"'{target}' should end in .html, .png or .svg")
    typer.echo(f"report: {target}")
