"""secateur optimise."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.options import (
    AddressOption,
    ArchitectureOption,
    DataOption,
    DeviceOption,
    DryOption,
    ExecutorOption,
    FilesOption,
    ModelOption,
    OutOption,
    PrintOption,
    ProcessesOption,
    RecipeOption,
    SetOption,
    StoreOption,
    TrackOption,
    TrustOption,
    UntrainedOption,
    WeightsOption,
    echo_settings,
    settings_from,
)  # fmt: skip
from secateur.core.files import check_writable
from secateur.core.progress import announce


def command(
    recipe: RecipeOption = None,
    data: DataOption = None,
    model: ModelOption = None,
    weights: WeightsOption = None,
    architecture: ArchitectureOption = None,
    units: Annotated[str | None, typer.Option("--units", help="Which may go: all, filters, neurons, heads.")] = None,
    trials: Annotated[int | None, typer.Option("--trials", help="Settings that are tried.")] = None,
    sampler: Annotated[str | None, typer.Option("--sampler", help="gp, tpe, random, grid.")] = None,
    goal: Annotated[
        str | None,
        typer.Option("--goal", help="a_pr, area_units, area_params, area_macs, kept_rate: what is maximised."),
    ] = None,
    faithfulness: Annotated[
        bool | None, typer.Option("--faithfulness", help="Also search for faithful heatmaps.")
    ] = None,
    criteria: Annotated[
        list[str] | None, typer.Option("--criterion", help="To measure beside the winner; repeat for several.")
    ] = None,
    seeds: Annotated[
        list[int] | None, typer.Option("--seed", help="Of the final measurement; repeat for several.")
    ] = None,
    processes: ProcessesOption = None,
    executor: ExecutorOption = None,
    address: AddressOption = None,
    store: StoreOption = None,
    files: FilesOption = None,
    device: DeviceOption = None,
    track: TrackOption = None,
    trust_code: TrustOption = None,
    allow_untrained: UntrainedOption = None,
    overrides: SetOption = None,
    out: OutOption = Path("out/optimise"),
    print_config: PrintOption = False,
    dry_run: DryOption = False,
) -> None:
    """Search for the attribution that prunes a network best.

    The winner is measured beside other criteria on other images; finished trials survive an interruption.
    """
    from secateur.studies.search.settings import SearchStudySettings

    settings = settings_from(
        SearchStudySettings, recipe, overrides, data__source=data, model__name=model, model__weights=weights,
        model__architecture=architecture, model__trust_code=trust_code, model__allow_untrained=allow_untrained,
        objective__units=units, objective__goal=goal, objective__faithfulness=faithfulness, trials__count=trials,
        sampler__kind=sampler, measure__criteria=criteria or None, measure__seeds=seeds or None,
        execution__processes=processes, execution__executor=executor, execution__ray__address=address,
        tracking__trackers=track or None, device=device,
    )  # fmt: skip
    if print_config:
        echo_settings(settings)
        return
    check_writable(out)
    announce("loading PyTorch")
    from secateur.cli.studies import planned, work_on
    from secateur.studies.search import SearchStudy

    study = SearchStudy(settings)
    if dry_run:
        typer.echo(planned(study, out, store, files))
        return
    work_on(study, out, store=store, files=files)
