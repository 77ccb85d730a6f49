"""What every command on a study does: run it, write tables, figures and the page, say what was found."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any

import typer

from secateur.cli.present import command_line, show
from secateur.core.addresses import argument_without_secrets, settings_without_secrets
from secateur.core.errors import RequestError
from secateur.core.extras import check_installed
from secateur.core.files import check_writable, ensure_folder
from secateur.experiments import Outcome, Resources, Store, Study, check_store, execution_of, opened_store, run
from secateur.pipeline.pages import LRP_NOTE
from secateur.reports import write_report
from secateur.tracking import Tracking

STORE = "cells.sqlite"
"""In the folder of results, unless another store is named."""


def work_on(
    study: Study[Any, Any],
    out: Path,
    *,
    store: str | None = None,
    files: str | None = None,
    resources: Resources | None = None,
    only: Collection[str] | None = None,
) -> None:
    """Work out what is missing, then write and show all that the store has.

    Raises:
        SecateurError: at the end, for cells that failed.
    """
    check_execution(study)
    ensure_folder(out)
    with opened_store(store or out / STORE, study, files) as opened:
        outcome = run(study, opened, only=only, resources=resources, command=command_line())
        typer.echo(f"{outcome.made} cells worked on, {outcome.found} found in '{opened}'")
        written(study, opened, out, outcome)
        outcome.raise_failures(opened)


def planned(study: Study[Any, Any], out: Path, store: str | None = None, files: str | None = None) -> str:
    """What a dry run says, after the checks of `check_places`; nothing is made for it."""
    places = check_places(study, out, store, files)
    lines, cells = study.dry_run(), study.cells()
    unready = [resource for resource in study.shared() if not resource.ready()]
    said = [
        "the request is right; nothing was done",
        f"{len(cells)} cells of study '{study.name}'",
        *lines,
        *([f"to make first: {', '.join(map(str, unready))}"] if unready else []),
        places,
    ]
    return "\n".join(said)


def check_places(study: Study[Any, Any], out: Path, store: str | None = None, files: str | None = None) -> str:
    """Refuse what a run would: a folder, store or address of files that it cannot use, or a way to work.

    Nothing is left behind: where files go to an address, a small one is written and deleted again.

    Returns:
        A line that says where results go.

    Raises:
        RequestError: naming it.
        SecateurError: for a database that cannot be reached.
    """
    check_writable(out)
    check_execution(study)
    check_store(store or out / STORE, study, files)
    kept = f"; files of cells: {argument_without_secrets(files)}" if files else ""
    return f"results: {out}; store: {argument_without_secrets(store) if store else out / STORE}{kept}"


def check_execution(study: Study[Any, Any]) -> None:
    """Refuse an address without its executor, an executor that is not installed, and a wrong address.

    Raises:
        RequestError: naming it.
    """
    execution = execution_of(study)
    if execution is None:
        return
    if execution.executor != "ray":
        if execution.ray.address is not None:
            raise RequestError(
                f"'{execution.ray.address}' is the address of a Ray cluster, and the executor is "
                f"'{execution.executor}'; add --executor ray, or leave out --address (execution.ray.address)"
            )
        return
    check_installed("ray", "ray", "executor 'ray'")
    if execution.ray.address is not None:
        from secateur.experiments.ray_address import check_address

        check_address(execution.ray.address)


def written(study: Study[Any, Any], store: Store, out: Path, outcome: Outcome | None = None) -> None:
    """Write and show the tables, findings and the page of a store."""
    stored = store.frames()
    if stored[next(iter(study.tables))].empty:
        typer.echo("no cell is finished: there is nothing to write")
        return
    tables = study.assemble(stored)
    for table in study.overview(tables):
        show(table.columns, table.rows, title=table.title)
    lines = [f"{what}: {path}" for what, path in study.write(tables, out).items()]
    page, found = study.page(tables), [str(finding) for finding in study.findings(tables)]
    failed = store.failures()
    notes = [note for note in page.notes if note != LRP_NOTE]
    notes += [f"{len(failed)} cells failed; the first ({failed[0].cell}): {failed[0].error}"] if failed else []
    stated = [f"{line[0].upper()}{line[1:]}." for line in found]
    page = dataclasses.replace(
        page,
        command=command_line(),
        settings=settings_without_secrets(page.settings),
        notes=[*stated, *notes, LRP_NOTE],
    )
    lines.append(f"report: {write_report(page, out / 'report.html')}")
    lines += _logged(study, tables, out)
    typer.echo("\n".join([*found, *notes, *lines]))


def _logged(study: Study[Any, Any], tables: Any, out: Path) -> list[str]:
    """Log to the trackers that the settings name; where that is."""
    wanted = getattr(study.settings, "tracking", None)
    if wanted is None or not wanted.trackers:
        return []
    settings = settings_without_secrets(study.settings.model_dump(mode="json"))
    with Tracking(wanted, study.name, settings, out, lambda text: typer.echo(f"warning: {text}", err=True)) as tracking:
        study.log(tracking, tables)
        tracking.file(out / "report.html")
    return list(tracking.lines())
