"""secateur study: list, run, look at, and repeat studies of any kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secateur.cli.options import (
    AddressOption,
    DryOption,
    ExecutorOption,
    FilesOption,
    PrintOption,
    ProcessesOption,
    RecipeOption,
    SetOption,
    StoreOption,
    echo_settings,
    set_values,
    settings_from,
)
from secateur.core.errors import RequestError
from secateur.core.files import check_writable, ensure_folder
from secateur.core.progress import announce
from secateur.experiments.writing import formats_of

if TYPE_CHECKING:
    from secateur.experiments import Study

app = typer.Typer(no_args_is_help=True, help="Run studies; see and repeat what is in their stores.")

NameArgument = Annotated[str, typer.Argument(help="Of the study, see `secateur study list`.")]
OutOption = Annotated[Path | None, typer.Option("--out", help="Folder for results; default: out/NAME.")]
FolderOption = Annotated[Path | None, typer.Option("--out", help="Folder that the study wrote.")]
FormatOption = Annotated[
    list[str] | None, typer.Option("--format", help="Of tables: csv, parquet, latex, html; several as csv,latex.")
]


@app.command("list")
def list_() -> None:
    """List the studies that are known."""
    from secateur.studies.catalogue import known_studies, study_class

    announce("loading PyTorch")
    width = max(map(len, known_studies()))
    typer.echo("\n".join(f"{name:{width}}  {study_class(name).summary}" for name in known_studies()))


@app.command()
def run(
    name: NameArgument,
    recipe: RecipeOption = None,
    store: StoreOption = None,
    files: FilesOption = None,
    processes: ProcessesOption = None,
    executor: ExecutorOption = None,
    address: AddressOption = None,
    overrides: SetOption = None,
    out: OutOption = None,
    print_config: PrintOption = False,
    dry_run: DryOption = False,
    estimate: Annotated[
        bool,
        typer.Option("--estimate", help="Say how long what is missing takes, by finished cells; do no work."),
    ] = False,
    workers: Annotated[
        int | None, typer.Option("--workers", help="For --estimate; default: --processes of the settings.")
    ] = None,
    price_per_hour: Annotated[
        float | None, typer.Option("--price-per-hour", help="Of one worker, for --estimate.", min=0)
    ] = None,
) -> None:
    """Run a study; finished cells are found again.

    A cell that fails is kept with its reason, and does not stop the others.
    """
    announce("loading PyTorch")
    from secateur.studies.catalogue import study_class

    kind = study_class(name)
    if not estimate and (workers is not None or price_per_hour is not None):
        raise RequestError("--workers and --price-per-hour are for --estimate; give --processes for a run")
    flags = _execution(kind, processes=processes, executor=executor, ray__address=address)
    settings = settings_from(kind.settings_type, recipe, overrides, **flags)
    if print_config:
        echo_settings(settings)
        return
    study, folder = kind(settings), out or Path("out") / name
    check_writable(folder)
    if dry_run:
        from secateur.cli.studies import planned

        typer.echo(planned(study, folder, store, files))
        return
    study.check()
    if estimate:
        typer.echo("\n".join(_estimated(study, store or str(folder / "cells.sqlite"), workers, price_per_hour)))
        return
    from secateur.cli.studies import work_on

    work_on(study, folder, store=store, files=files)


@app.command()
def status(
    seconds: Annotated[
        float | None, typer.Argument(help="Between two looks, for --watch; default: 2.", metavar="[SECONDS]", min=0.1)
    ] = None,
    out: FolderOption = None,
    store: StoreOption = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Look again every SECONDS, until the study is done or Ctrl-C.")
    ] = False,
) -> None:
    """Say how far a study is, who works on what, and which cells failed."""
    if seconds is not None and not watch:
        raise RequestError(f"{seconds:g} seconds are for --watch; give it, or leave them out")
    from secateur.experiments import opened_cells

    with opened_cells(_location(out, store)) as opened:
        from secateur.cli import study_status

        if watch:
            study_status.watch(opened, 2.0 if seconds is None else seconds)
        else:
            typer.echo("\n".join(study_status.status_lines(opened)))


@app.command()
def results(
    out: FolderOption = None,
    store: StoreOption = None,
    files: FilesOption = None,
    to: Annotated[
        Path | None, typer.Option("--to", help="Folder for tables, figures and page; default: --out.")
    ] = None,
    formats: FormatOption = None,
) -> None:
    """Write tables, figures and the page from a store, without any work.

    With --format: tables in these formats, the statistics of the study's own question, and figures; no page.
    """
    target = to or out
    if target is None:
        raise RequestError("give --to, the folder for tables and the page")
    named = formats_of(formats or ())
    with _opened(out, store, files) as (study, opened):
        if not named:
            from secateur.cli.studies import written

            written(study, opened, ensure_folder(target))
            return
        from secateur.cli.study_statistics import write_all

        typer.echo("\n".join(write_all(study, opened, ensure_folder(target), named)))


@app.command()
def statistics(
    out: FolderOption = None,
    store: StoreOption = None,
    to: Annotated[Path | None, typer.Option("--to", help="Folder for tables and the figure; default: --out.")] = None,
    table: Annotated[str | None, typer.Option("--table", help="Of the study; default: what the study says.")] = None,
    measure: Annotated[str | None, typer.Option("--measure", help="Column that is measured.")] = None,
    compare: Annotated[
        list[str] | None, typer.Option("--compare", help="Column whose values are compared; repeat.")
    ] = None,
    pairs: Annotated[list[str] | None, typer.Option("--pairs", help="Column to pair over, as seed; repeat.")] = None,
    blocks: Annotated[
        list[str] | None, typer.Option("--blocks", help="Column to rank over, as dataset or subset; repeat.")
    ] = None,
    average: Annotated[
        list[str] | None, typer.Option("--average", help="Column to take the mean over, as budget; repeat.")
    ] = None,
    where: Annotated[
        list[str] | None, typer.Option("--where", help="Rows that count: COLUMN=VALUE or COLUMN!=VALUE; repeat.")
    ] = None,
    against: Annotated[
        str | None, typer.Option("--against", help="Candidate that the others are compared with; default: all pairs.")
    ] = None,
    lower_is_better: Annotated[
        bool | None, typer.Option("--lower-is-better/--higher-is-better", help="For ranks.", show_default=False)
    ] = None,
    correction: Annotated[
        str, typer.Option("--correction", help="For the number of comparisons: bonferroni, or holm.")
    ] = "bonferroni",
    formats: FormatOption = None,
) -> None:
    """Means with intervals, paired comparisons and ranks from a store, without any work."""
    target = to or out
    if target is None:
        raise RequestError("give --to, the folder for tables and the figure")
    named = formats_of(formats or ())
    with _opened(out, store) as (study, opened):
        from secateur.cli.study_statistics import question_from, show_statistics, stored_tables
        from secateur.experiments import study_statistics

        roles = {"compare": compare, "pairs": pairs, "blocks": blocks, "average": average}
        question = question_from(
            study,
            table=table,
            measure=measure,
            columns={name: tuple(values or ()) for name, values in roles.items()},
            conditions=where or (),
            lower_is_better=lower_is_better,
        )
        computed = study_statistics(stored_tables(study, opened), question, against, correction)
        show_statistics(computed, ensure_folder(target), named)


@app.command()
def retry(
    out: FolderOption = None,
    store: StoreOption = None,
    files: FilesOption = None,
    cell: Annotated[
        list[str] | None, typer.Option("--cell", help="Beginning of its name in `status`; repeat; default: all failed.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Settings that change no result: --set execution.time_limit=600", metavar="A.B=C"),
    ] = None,
) -> None:
    """Work on failed cells again, with the settings of the last run."""
    from secateur.cli.studies import work_on
    from secateur.core.sections import check_presentation
    from secateur.pipeline.recipe import changed_settings

    with _opened(out, store) as (study, opened):
        _check_settings(opened.settings())
        if overrides:
            changed = changed_settings(study.settings, set_values(overrides))
            check_presentation(study.settings, changed)
            study = type(study)(changed)
        names = cell or [each.identity for each in opened.failures()]
        location = str(opened.file) if opened.file else opened.url.render_as_string(hide_password=False)
    if not names:
        typer.echo("no cell has failed")
        return
    folder = out or (Path("out") / study.name if "://" in location else Path(location).parent)
    work_on(study, folder, store=location, files=files, only=names)


def _check_settings(settings: Any) -> None:
    """Refuse to work with settings of which a secret was left out when they were stored."""
    from secateur.core.addresses import HIDDEN

    if f":{HIDDEN}@" in str(settings) or f"={HIDDEN}" in str(settings):
        raise RequestError("the settings have an address whose password is not kept; repeat the `secateur study run`")


def _opened(out: Path | None, store: str | None, files: str | None = None) -> Any:
    """The store of a study that was run, and the study with the settings of its last run."""
    import contextlib

    announce("loading PyTorch")
    from secateur.experiments import opened_store, stored_study, study_of
    from secateur.studies.catalogue import study_class

    location = _location(out, store)
    kind = study_class(study_of(location))

    @contextlib.contextmanager
    def context() -> Any:
        with opened_store(location, kind, files, reading=True) as opened:
            yield stored_study(opened, kind), opened

    return context()


def _location(out: Path | None, store: str | None) -> str:
    """The store that is meant: a named one, or that of a folder, under its usual name or the only one there."""
    if store is not None:
        return store
    if out is None:
        raise RequestError("give --out, the folder of a study, or its --store")
    others = sorted(out.glob("*.sqlite")) if out.is_dir() else []
    return str(others[0] if len(others) == 1 else out / "cells.sqlite")


def _estimated(
    study: Study[Any, Any], location: str, workers: int | None, price_per_hour: float | None
) -> Sequence[str]:
    """How long a run will take; where nothing was measured, what a dry run says."""
    from secateur.core.pool import cores
    from secateur.experiments import estimate, execution_of, opened_store
    from secateur.experiments.database import file_of, store_url

    execution = execution_of(study)
    usual = 1 if execution is None else execution.processes or cores()
    count = usual if workers is None else workers
    file = file_of(store_url(location))
    if file is not None and not file.is_file():  # opening it would make it
        known = estimate(study, None, count)
    else:
        with opened_store(location, study, reading=True) as opened:
            known = estimate(study, opened, count)
    first = [] if known.total is not None else study.dry_run()
    return ["nothing was done", *first, *known.lines(price_per_hour)]


def _execution(kind: type[Study[Any, Any]], **flags: Any) -> dict[str, Any]:
    """Flags as settings, wherever the study has its section ``execution``."""
    given = {name: value for name, value in flags.items() if value is not None}
    if not given:
        return {}
    from secateur.experiments import Execution, sections

    found = [each.path for each in sections(kind.settings_type()) if isinstance(each.value, Execution)]
    if not found:
        name = next(iter(given)).split("__")[-1]
        raise RequestError(f"study '{kind.name}' has no section 'execution'; leave out --{name}")
    return {f"{found[0].replace('.', '__')}__{name}": value for name, value in given.items()}
