"""secateur explain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.options import (
    ArchitectureOption,
    ClassesOption,
    DataOption,
    DeviceOption,
    DryOption,
    HeadOption,
    ModelOption,
    OutOption,
    PrintOption,
    RecipeOption,
    SetOption,
    TrustOption,
    UntrainedOption,
    WeightsOption,
    begin,
    class_list,
    complete_composite,
    recipe_from,
)  # fmt: skip


def command(
    recipe: RecipeOption = None,
    data: DataOption = None,
    model: ModelOption = None,
    weights: WeightsOption = None,
    architecture: ArchitectureOption = None,
    compare_with: Annotated[Path | None, typer.Option("--against", help="Bundle of the pruned network.")] = None,
    images: Annotated[
        list[int] | None, typer.Option("--image", help="Index in the test set; repeat for several.")
    ] = None,
    count: Annotated[int, typer.Option("--count", min=1, help="How many images, when none is named.")] = 8,
    per_class: Annotated[
        int, typer.Option("--per-class", min=0, help="Test images per class to rank units on; 0: no ranking.")
    ] = 10,
    top: Annotated[int, typer.Option("--top", min=1, help="Units per class and layer in units.csv.")] = 5,
    agreement_images: Annotated[
        int,
        typer.Option("--agreement-images", min=0, help="Test images to compare with --against on; 0: none."),
    ] = 500,
    composite: Annotated[
        str,
        typer.Option("--composite", help="Rules of the relevance pass.", autocompletion=complete_composite),
    ] = "epsilon-plus-flat",
    start: Annotated[
        str, typer.Option("--start", help="Relevance at the class: logit, one (shares), contrast (to other classes).")
    ] = "logit",
    seed: Annotated[int | None, typer.Option("--seed", help="Of the images drawn.")] = None,
    classes: ClassesOption = None,
    head: HeadOption = None,
    device: DeviceOption = None,
    trust_code: TrustOption = None,
    allow_untrained: UntrainedOption = None,
    overrides: SetOption = None,
    out: OutOption = Path("out/explain"),
    print_config: PrintOption = False,
    dry_run: DryOption = False,
) -> None:
    """Show what a network looks at: heatmaps and units.

    Heatmaps of test images, the units that speak for each class, and whether a pruned network looks elsewhere.
    """
    from secateur.pipeline.requests import ExplainSettings

    chosen = recipe_from(
        recipe, overrides, data__source=data, data__classes=class_list(classes), model__name=model,
        model__weights=weights, model__architecture=architecture, model__trust_code=trust_code,
        model__allow_untrained=allow_untrained, model__replace_head=head, reference__seed=seed, device=device,
    )  # fmt: skip
    asked = ExplainSettings(
        images=tuple(images or ()),
        count=count,
        per_class=per_class,
        top=top,
        against=compare_with,
        agreement_images=agreement_images,
        composite=composite,
        start=start,  # type: ignore[arg-type]
    )
    if not begin(chosen, "explain", out, print_config):
        return
    from secateur.cli.explained import show_explained
    from secateur.cli.present import say_notes, show_plan
    from secateur.pipeline.explaining import ExplainJob

    job = ExplainJob.of(chosen, asked)
    if dry_run:
        show_plan(job, out)
        return
    say_notes(job.prepared)
    show_explained(job, job.run(), out)
