"""secateur toy: the 2-D study, one run, a grid, its analysis, its pictures."""

from __future__ import annotations

import webbrowser
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secateur import reports as rp
from secateur.cli.options import (
    AddressOption,
    DryOption,
    ExecutorOption,
    FilesOption,
    OutOption,
    PrintOption,
    ProcessesOption,
    RecipeOption,
    SetOption,
    StoreOption,
    echo_settings,
    settings_from,
)
from secateur.core.errors import RequestError
from secateur.core.extras import check_installed
from secateur.core.files import check_writable, ensure_folder
from secateur.core.names import did_you_mean_file
from secateur.core.progress import announce, track
from secateur.studies import toy

if TYPE_CHECKING:
    from secateur.experiments import Resources

app = typer.Typer(no_args_is_help=True, help="The 2-D toy study of decision boundaries.")

DatasetOption = Annotated[list[str] | None, typer.Option("--dataset", help="moon, circle, mult, mult-K; repeat.")]
CriterionOption = Annotated[
    list[str] | None, typer.Option("--criterion", help="lrp, taylor, ..., lrp:composite=NAME; repeat.")
]
NoiseOption = Annotated[list[float] | None, typer.Option("--noise", help="σ of unseen noisy points; repeat.")]
RemoveOption = Annotated[int | None, typer.Option("--remove", help="Hidden neurons that go, of 3000.")]
TrainingOption = Annotated[
    str | None,
    typer.Option("--training-data", help="Training points, .npz or .csv; or a folder with NAME.npz, NAME.csv."),
]
ReluOption = Annotated[
    bool | None, typer.Option("--all-relu/--published", help="A ReLU behind the third hidden layer, too.")
]
RanksOption = Annotated[bool | None, typer.Option("--ranks/--no-ranks", help="Keep the pruning orders.")]
RenderOption = Annotated[
    str | None, typer.Option("--render", help="none, svg, png, pdf, or show: open in the browser.")
]
ColormapOption = Annotated[str | None, typer.Option("--colormap", help="Of the classes: okabe-ito, viridis, ...")]
OneCountOption = Annotated[int | None, typer.Option("--samples-per-class", help="Reference samples of each class.")]
OneSeedOption = Annotated[int | None, typer.Option("--seed", help="Of the reference samples and the noisy points.")]

_SHOWN = ("spearman", "kendall", "first-1000", "last-1000")
_ONE = {"grid__samples_per_class": (5,), "grid__seeds": (0,)}


@app.command()
def run(
    recipe: RecipeOption = None,
    dataset: DatasetOption = None,
    criterion: CriterionOption = None,
    samples_per_class: OneCountOption = None,
    seed: OneSeedOption = None,
    noise: NoiseOption = None,
    remove: RemoveOption = None,
    all_relu: ReluOption = None,
    training_data: TrainingOption = None,
    ranks: RanksOption = None,
    render: RenderOption = None,
    colormap: ColormapOption = None,
    results: Annotated[
        Path | None, typer.Option("--results", help="Table to add the rows to; default: runs.csv in --out.")
    ] = None,
    overrides: SetOption = None,
    out: OutOption = Path("out/toy-run"),
    print_config: PrintOption = False,
    dry_run: DryOption = False,
) -> None:
    """Prune once by each criterion, draw the boundaries.

    By one or more criteria on one draw of reference samples; a table and a picture. It takes seconds, in this process
    and without a store: `toy grid` has those.
    """
    chosen = _settings(
        recipe, overrides, grid__datasets=dataset or (None if recipe else ("moon",)), grid__criteria=criterion,
        **_single(recipe, samples_per_class, seed), pruning__noise=noise, pruning__remove=remove,
        network__all_relu=all_relu, training__data=training_data, output__ranks=ranks, output__render=render,
        output__colormap=colormap,
    )  # fmt: skip
    count, draw = _one(chosen, "run")
    table = results or out / "runs.csv"
    if table.suffix != ".csv":
        raise RequestError(f"--results names a CSV, got '{table}'; choose a name that ends in .csv")
    if _stop(chosen, out, print_config, dry_run):
        return
    import pandas as pd

    from secateur.cli.toy_tables import show_run

    if table.exists():
        toy.read_rows(table)
    ensure_folder(table.parent)
    resources = _prepare(chosen, out)
    study = toy.ToyStudy(chosen)
    cells = study.cells()
    measured = [study.work(cell, resources, {}) for cell in track(cells, "prunings")]
    rows = [row for result in measured for row in result.rows["results"]]
    show_run(pd.DataFrame(rows), f"accuracy in %: {chosen.pruning.remove} of 3000 neurons removed")
    # read again: another run may have added to it meanwhile
    written = {"table": toy.add_rows(rows, toy.read_rows(table) if table.exists() else None, table)}
    if chosen.output.ranks:
        orders = toy.ORDERS.frame([row for result in measured for row in result.rows["orders"]])
        written["ranks"] = toy.write_ranks(orders, out / "run-ranks.parquet")
    if chosen.output.render != "none":
        panels = [
            toy.panels(bench, _orders(chosen, bench.dataset, resources), count, draw, chosen.pruning.remove)
            for bench in _benches(chosen, resources)
        ]
        written |= _draw(panels, chosen, chosen.output.render, out / "boundaries")
    _echo(written)


@app.command()
def grid(
    recipe: RecipeOption = None,
    dataset: DatasetOption = None,
    criterion: CriterionOption = None,
    samples_per_class: Annotated[
        list[int] | None, typer.Option("--samples-per-class", help="Reference samples of each class; repeat.")
    ] = None,
    seed: Annotated[list[int] | None, typer.Option("--seed", help="Repeat for several.")] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", help="The first N seeds, from 0.", min=1)] = None,
    noise: NoiseOption = None,
    remove: RemoveOption = None,
    all_relu: ReluOption = None,
    training_data: TrainingOption = None,
    ranks: RanksOption = None,
    processes: ProcessesOption = None,
    executor: ExecutorOption = None,
    address: AddressOption = None,
    store: StoreOption = None,
    files: FilesOption = None,
    overrides: SetOption = None,
    out: OutOption = Path("out/toy"),
    print_config: PrintOption = False,
    dry_run: DryOption = False,
) -> None:
    """Prune over many settings and seeds.

    All combinations of data sets, criteria, samples per class and seeds; finished runs are found again.
    """
    if seed and seeds:
        raise RequestError("give --seed (which) or --seeds (how many), not both")
    chosen = _settings(
        recipe, overrides, grid__datasets=dataset, grid__criteria=criterion,
        grid__samples_per_class=samples_per_class, grid__seeds=tuple(range(seeds)) if seeds else seed,
        pruning__noise=noise, pruning__remove=remove, network__all_relu=all_relu, training__data=training_data,
        output__ranks=ranks, execution__processes=processes, execution__executor=executor,
        execution__ray__address=address,
    )  # fmt: skip
    if print_config:
        echo_settings(chosen)
        return
    check_installed("sklearn", "toy", "the toy study")
    announce("loading PyTorch")
    from secateur.cli.present import command_line
    from secateur.cli.studies import STORE, check_places
    from secateur.experiments import opened_store, run

    study = toy.ToyStudy(chosen)
    places = check_places(study, out, store, files)
    if dry_run:
        _say_plan(chosen, places)
        return
    ensure_folder(out)
    _announce(chosen)
    with opened_store(store or out / STORE, study, files) as opened:
        outcome = run(study, opened, command=command_line())
        typer.echo(f"{outcome.made} prunings made, {outcome.found} found")
        _echo(study.write(opened.frames(), out))
        outcome.raise_failures(opened)


@app.command()
def analyse(
    folder: Annotated[Path, typer.Argument(help="What grid has written.")] = Path("out/toy"),
    against: Annotated[Path | None, typer.Option("--against", help="CSV of published means to stand beside.")] = None,
    ranks: Annotated[bool, typer.Option("--ranks/--no-ranks", help="Compare the pruning orders, too.")] = True,
    kendall: Annotated[bool, typer.Option("--kendall/--no-kendall", help="Kendall's τ, too: takes a minute.")] = True,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for tables and pictures; default: FOLDER.")] = None,
) -> None:
    """Summarise a grid: accuracy and rankings.

    Accuracy against reference samples, ours beside published figures, and how alike the rankings are.
    """
    table = folder / "results.csv"
    if not table.is_file():
        raise RequestError(f"'{table}' does not exist; give the folder that `secateur toy grid` wrote")
    if against is not None and not against.is_file():
        raise RequestError(f"'{against}' does not exist{did_you_mean_file(against)}")
    announce("reading tables")
    import pandas as pd

    from secateur.cli.present import command_line
    from secateur.cli.toy_tables import show_against, show_ranks, show_summary

    target = ensure_folder(out) if out else folder
    published = toy.read_published(against) if against else None
    summary = toy.summarise(toy.read_rows(folder / "results.csv"))
    beside = None if published is None else toy.against(summary, published)
    rows: list[dict[str, Any]] = []
    if ranks:
        measures = [measure for measure in toy.MEASURES if kendall or measure != "kendall"]
        rows = toy.rank_rows(toy.read_ranks(folder / "ranks.parquet"), measures)
    show_summary(summary)
    written = {"accuracy": toy.write_frame(summary, target / "accuracy.csv")}
    if beside is not None:
        show_against(beside)
        written["published"] = toy.write_frame(beside, target / "against.csv")
    found = toy.check_claims(summary, published)
    typer.echo("\n".join(map(str, found)))
    if rows:
        show_ranks(rows)
        written["ranks"] = toy.write_frame(pd.DataFrame(rows), target / "ranks.csv")
    if shown := toy.pictured(rows):
        written["rank picture"] = rp.save_ranks(shown, target / "ranks.svg")
    page = toy.analysis_page(summary, rows, found, command=command_line(), shown=_SHOWN)
    written["curves"] = rp.save_samples(summary, target / "accuracy.svg")
    _echo(written | {"report": rp.write_report(page, target / "report.html")})


@app.command(name="show")
def show_boundaries(
    recipe: RecipeOption = None,
    dataset: DatasetOption = None,
    criterion: CriterionOption = None,
    samples_per_class: OneCountOption = None,
    seed: OneSeedOption = None,
    remove: RemoveOption = None,
    all_relu: ReluOption = None,
    training_data: TrainingOption = None,
    render: RenderOption = None,
    colormap: ColormapOption = None,
    step: Annotated[int, typer.Option("--step", help="Neurons between two frames.", min=20, max=3000)] = 100,
    overrides: SetOption = None,
    out: OutOption = Path("out/toy-show"),
    print_config: PrintOption = False,
    dry_run: DryOption = False,
) -> None:
    """Draw boundaries, and a page to remove neurons on.

    Boundaries of all data sets in one picture, and a page on which a slider removes neurons.
    """
    chosen = _settings(
        recipe, overrides, grid__datasets=dataset, grid__criteria=criterion,
        **_single(recipe, samples_per_class, seed), pruning__remove=remove, network__all_relu=all_relu,
        training__data=training_data, output__render=render, output__colormap=colormap,
    )  # fmt: skip
    count, draw = _one(chosen, "show")
    if _stop(chosen, out, print_config, dry_run):
        return
    from secateur.cli.present import command_line
    from secateur.pipeline.pages import origin

    resources = _prepare(chosen, out)
    panels, films = [], []
    for bench in _benches(chosen, resources):
        orders = _orders(chosen, bench.dataset, resources)
        remove = chosen.pruning.remove
        panels.append(toy.panels(bench, orders, count, draw, remove))
        films.append(toy.film(bench, orders, count, draw, chosen.output.colormap, step=step, start=remove))
    page = rp.Report(
        title="What a criterion does to a decision boundary",
        subtitle=f"{count} reference samples of each class, seed {draw}",
        sections=[rp.Films(films)],
        conditions=rp.Conditions(split="training", seeds=[draw], reference_per_class=count),
        **origin(chosen, command_line()),
    )
    written = {"report": rp.write_report(page, out / "report.html")}
    render = chosen.output.render
    if render != "none":
        written |= _draw(panels, chosen, "svg" if render == "show" else render, out / "boundaries")
    _echo(written)
    if render == "show":
        _open(written["report"])


def _settings(recipe: str | None, overrides: list[str] | None, **flags: Any) -> toy.ToySettings:
    given = {key: (value or None) if isinstance(value, list) else value for key, value in flags.items()}
    return settings_from(toy.ToySettings, recipe, overrides, default=None, **given).check()


def _single(recipe: str | None, count: int | None, seed: int | None) -> dict[str, Any]:
    """One number of samples and one seed; where no recipe says which, 5 and 0."""
    given = {
        "grid__samples_per_class": None if count is None else (count,),
        "grid__seeds": None if seed is None else (seed,),
    }
    return given if recipe else {key: value or _ONE[key] for key, value in given.items()}


def _one(chosen: toy.ToySettings, command: str) -> tuple[int, int]:
    grid = chosen.grid
    if len(grid.samples_per_class) > 1 or len(grid.seeds) > 1:
        raise RequestError(
            f"toy {command} draws once: give one --samples-per-class and one --seed (toy grid takes many)"
        )
    for name in grid.datasets:
        rp.colormap(chosen.output.colormap, toy.classes_of(name))
    return grid.samples_per_class[0], grid.seeds[0]


def _prepare(chosen: toy.ToySettings, out: Path) -> Resources:
    """See to it that results can be written, and to the networks."""
    from secateur.experiments import Execution, Resources, executor_for

    ensure_folder(out)
    _announce(chosen)
    study = toy.ToyStudy(chosen)
    missing = [resource for resource in study.shared() if not resource.ready()]
    processes = min(chosen.execution.processes or len(missing), len(missing)) or 1
    with executor_for(Execution(processes=processes)) as executor:
        for _ in executor.prepare(study, missing):
            pass
    return Resources()


def _benches(chosen: toy.ToySettings, resources: Resources) -> Iterator[toy.Bench]:
    """The networks, one after another."""
    for name in chosen.grid.datasets:
        yield resources.get(toy.BenchOf.of(name, chosen))


def _orders(chosen: toy.ToySettings, dataset: str, resources: Resources) -> dict[str, Any]:
    """Criterion to pruning order."""
    cells = toy.toy_cells(chosen.grid.model_copy(update={"datasets": (dataset,)}))
    return {cell.criterion: toy.order_of(cell, chosen, resources) for cell in cells}


def _announce(chosen: toy.ToySettings) -> None:
    if missing := toy.untrained(chosen):
        typer.echo(f"training the networks of {', '.join(missing)} first, once: minutes for each", err=True)


def _stop(chosen: toy.ToySettings, out: Path, print_config: bool, dry_run: bool) -> bool:
    """Whether the command ends here: the request was only to be shown or checked."""
    if print_config:
        echo_settings(chosen)
        return True
    check_installed("sklearn", "toy", "the toy study")
    check_writable(out)
    announce("loading PyTorch")
    if dry_run:
        _say_plan(chosen, f"results: {out}")
    return dry_run


def _say_plan(chosen: toy.ToySettings, places: str) -> None:
    runs, missing = len(toy.toy_cells(chosen.grid)), toy.untrained(chosen)
    training = f"networks to train first: {', '.join(missing)}" if missing else "all networks are trained"
    typer.echo(f"the request is right; nothing was done\n{runs} prunings; {training}\n{places}")


def _draw(panels: list[list[rp.Field]], chosen: toy.ToySettings, render: str, path: Path) -> dict[str, Path]:
    ending = "svg" if render == "show" else render
    picture = rp.save_fields(
        panels, path.with_suffix(f".{ending}"), chosen.output.colormap, chosen.grid.datasets, _beneath(chosen)
    )
    if render == "show":
        _open(picture)
    return {"picture": picture}


def _beneath(chosen: toy.ToySettings) -> str:
    """What holds for the panels of a picture."""
    count, seed = chosen.grid.samples_per_class[0], chosen.grid.seeds[0]
    return f"Accuracy on the training points · seed {seed} · {count} reference samples per class"


def _open(path: Path) -> None:
    if not webbrowser.open(path.resolve().as_uri()):
        typer.echo(f"no browser could be opened here; open '{path}' yourself", err=True)


def _echo(written: Mapping[str, Path]) -> None:
    typer.echo("\n".join(f"{name}: {path}" for name, path in written.items()))
