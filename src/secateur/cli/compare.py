"""secateur compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from secateur.cli.options import (
    AddressOption,
    ArchitectureOption,
    DataOption,
    DeviceOption,
    DryOption,
    ExecutorOption,
    FilesOption,
    HeadOption,
    ModelOption,
    OutOption,
    PrintOption,
    ProcessesOption,
    RecipeOption,
    SetOption,
    StoreOption,
    StreamOption,
    TrustOption,
    UntrainedOption,
    WeightsOption,
    begin,
    class_list,
    complete_criterion,
    recipe_from,
)  # fmt: skip
from secateur.core.errors import RequestError


def command(
    recipe: RecipeOption = None,
    data: DataOption = None,
    model: ModelOption = None,
    weights: WeightsOption = None,
    architecture: ArchitectureOption = None,
    criteria: Annotated[
        list[str] | None, typer.Option("--criterion", help="Repeat for several.", autocompletion=complete_criterion)
    ] = None,
    budgets: Annotated[
        list[float] | None, typer.Option("--budget", help="Share that stays; repeat for several.")
    ] = None,
    seeds: Annotated[
        list[int] | None, typer.Option("--seed", help="Of the reference samples; repeat for several.")
    ] = None,
    subsets: Annotated[
        list[str] | None,
        typer.Option("--subset", metavar="A,B,C", help="Classes to prune for, by name or index; repeat for several."),
    ] = None,
    head: HeadOption = None,
    finetune: Annotated[int | None, typer.Option("--finetune", help="Also measure after this many epochs.")] = None,
    processes: ProcessesOption = None,
    executor: ExecutorOption = None,
    address: AddressOption = None,
    store: StoreOption = None,
    files: FilesOption = None,
    trackers: Annotated[
        list[str] | None, typer.Option("--track", help="Also log to wandb, mlflow, tensorboard or trackio.")
    ] = None,
    device: DeviceOption = None,
    stream: StreamOption = None,
    trust_code: TrustOption = None,
    allow_untrained: UntrainedOption = None,
    overrides: SetOption = None,
    out: OutOption = Path("out/compare"),
    print_config: PrintOption = False,
    dry_run: DryOption = False,
) -> None:
    """Compare criteria over budgets and seeds.

    All under the same strategies; finished parts survive an interruption.
    """
    chosen = recipe_from(
        recipe, overrides, data__source=data, model__name=model, model__weights=weights,
        model__architecture=architecture, model__trust_code=trust_code, model__allow_untrained=allow_untrained,
        prune__stream=stream,
        compare__variants__criteria=criteria or None,
        compare__targets__budgets=budgets or None, compare__variants__seeds=seeds or None,
        compare__variants__subsets=[_subset(text) for text in subsets] if subsets else None,
        compare__targets__replace_head=head, compare__execution__processes=processes,
        compare__execution__executor=executor, compare__execution__ray__address=address,
        tracking__trackers=trackers or None, finetune__epochs=finetune, device=device,
    )  # fmt: skip
    if head is not None and not chosen.compare.variants.subsets:
        raise RequestError(
            "--head is for the classes of --subset (compare.variants.subsets); give some, or leave it out"
        )
    if not begin(chosen, "compare", out, print_config):
        return
    from secateur.cli.present import say_notes, show_lines, show_plan
    from secateur.cli.studies import check_places, work_on
    from secateur.studies.class_aware import ClassAwareStudy
    from secateur.studies.compare import CompareJob, CompareStudy, CompareStudySettings

    kind = ClassAwareStudy if chosen.compare.variants.subsets else CompareStudy
    study = kind(CompareStudySettings.of(chosen))
    places = check_places(study, out, store, files)
    job = CompareJob.of(study)
    if dry_run:
        show_plan(job, None)
        show_lines([places])
        return
    say_notes(job.prepared)
    work_on(study, out, store=store, files=files, resources=job.resources)


def _subset(text: str) -> dict[str, Any]:
    classes = class_list(text) or []
    return {"name": "-".join(classes) or text, "classes": classes}
