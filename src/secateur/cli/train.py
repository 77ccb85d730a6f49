"""secateur train."""

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
    TrackOption,
    TrustOption,
    WeightsOption,
    begin,
    class_list,
    recipe_from,
)  # fmt: skip
from secateur.core.ranks import ranks


def command(
    recipe: RecipeOption = None,
    data: DataOption = None,
    model: ModelOption = None,
    weights: WeightsOption = None,
    architecture: ArchitectureOption = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Training epochs.")] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Learning rate.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of weights, order and augmentation.")] = None,
    classes: ClassesOption = None,
    head: HeadOption = None,
    device: DeviceOption = None,
    track: TrackOption = None,
    trust_code: TrustOption = None,
    overrides: SetOption = None,
    out: OutOption = Path("out/train"),
    print_config: PrintOption = False,
    dry_run: DryOption = False,
) -> None:
    """Train a network.

    An interrupted run goes on from its last whole epoch.
    """
    chosen = recipe_from(
        recipe, overrides, data__source=data, data__classes=class_list(classes), model__name=model,
        model__weights=weights, model__architecture=architecture, model__trust_code=trust_code,
        model__replace_head=head, train__epochs=epochs, train__learning_rate=lr, train__seed=seed, device=device,
        tracking__trackers=track or None,
    )  # fmt: skip
    if not begin(chosen, "train", out, print_config):
        return
    from secateur.cli.present import show_plan
    from secateur.cli.results import show_trained
    from secateur.cli.tracked import tracked
    from secateur.pipeline.jobs import TrainJob

    job = TrainJob.of(chosen)
    if dry_run:
        ranks().once(lambda: show_plan(job, out))
        return
    with tracked(chosen, job.prepared, out) as tracking:
        found = job.run(out / "training.state", tracking)
        if not ranks().main:
            return
        show_trained(job, *found, out)
        tracking.file(out / "metrics.json")
    for line in tracking.lines():
        typer.echo(line)
