"""secateur report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secateur.core.errors import RequestError


def command(
    record: Annotated[Path, typer.Argument(help="report.json written by another command.")],
    out: Annotated[Path | None, typer.Option("--out", help="HTML, or .png/.svg for the curves alone.")] = None,
) -> None:
    """Render a report anew from its record.

    No network is needed.
    """
    from secateur.core.files import check_writable
    from secateur.core.names import did_you_mean_file
    from secateur.reports import Comparison, load_report, save_curves, write_report

    target = out or record.with_suffix(".html")
    if target.suffix not in (".html", ".htm", ".png", ".svg"):
        raise RequestError(f"'{target}' should end in .html, .png or .svg")
    if not record.is_file():
        raise RequestError(f"record '{record}' does not exist{did_you_mean_file(record)}")
    check_writable(target.parent)
    found = load_report(record)
    if target.suffix in (".png", ".svg"):
        compared = found.section(Comparison)
        if compared is None or not compared.rows:
            raise RequestError(f"'{record}' has no comparison rows to draw")
        save_curves(compared.rows, target, conditions=found.conditions)
    else:
        write_report(found, target)
    typer.echo(f"report: {target}")
