"""secateur compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from secateur.cli.options import (
    ArchitectureOption,
    DataOption,
    DeviceOption,
    DryOption,
    HeadOption,
    ModelOption,
    OutOption,
    PrintOption,
    RecipeOption,
    SetOption,
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
    processes: Annotated[int | None, typer.Option("--processes", help="Side by side; 0: all cores.")] = None,
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
        compare__criteria=criteria or None,
        compare__budgets=budgets or None, compare__seeds=seeds or None,
        compare__subsets=[_subset(text) for text in subsets] if subsets else None, compare__replace_head=head,
        compare__processes=processes, compare__trackers=trackers or None, finetune__epochs=finetune, device=device,
    )  # fmt: skip
    if head is not None and not chosen.compare.subsets:
        raise RequestError("--head is for the classes of --subset (compare.subsets); give some, or leave it out")
    if not begin(chosen, "compare", out, print_config):
        return
    from secateur.cli.compared import show_compared
    from secateur.cli.present import say_notes, show_plan
    from secateur.pipeline import compare
    from secateur.pipeline.jobs import CompareJob

    job = CompareJob.of(chosen)
    if dry_run:
        show_plan(job, out)
        return
    prepared = job.prepared
    say_notes(prepared)
    rows = compare(
        prepared.model,
        prepared.data,
        chosen.compare,
        chosen.prune,
        model_name=chosen.model.name,
        finetune=chosen.finetune.model_copy(update={"device": str(prepared.device)}),
        folder=out / "parts",
    )
    show_compared(prepared, rows, out)


def _subset(text: str) -> dict[str, Any]:
    classes = class_list(text) or []
    return {"name": "-".join(classes) or text, "classes": classes}
