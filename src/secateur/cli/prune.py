"""secateur prune."""

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
    StreamOption,
    TrackOption,
    TrustOption,
    UntrainedOption,
    WeightsOption,
    begin,
    class_list,
    complete_criterion,
    complete_strategy,
    recipe_from,
)  # fmt: skip
from secateur.core.ranks import ranks


def command(
    recipe: RecipeOption = None,
    data: DataOption = None,
    model: ModelOption = None,
    weights: WeightsOption = None,
    architecture: ArchitectureOption = None,
    criterion: Annotated[
        str | None,
        typer.Option("--criterion", help="lrp, taylor, ..., lrp:composite=NAME", autocompletion=complete_criterion),
    ] = None,
    macs: Annotated[float | None, typer.Option("--macs", help="Share of MACs that stays.")] = None,
    params: Annotated[float | None, typer.Option("--params", help="Share of parameters that stays.")] = None,
    units: Annotated[float | None, typer.Option("--units", help="Share of units that stays.")] = None,
    latency: Annotated[float | None, typer.Option("--latency", help="Share of latency that stays, measured.")] = None,
    schedule: Annotated[str | None, typer.Option("--schedule", help="one-shot, rescored, iterative.")] = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            "--strategy", help="auto, global, per-layer, per-cost, isomorphic.", autocompletion=complete_strategy
        ),
    ] = None,
    stream: StreamOption = None,
    repair: Annotated[
        str | None, typer.Option("--repair", help="Of what stays, without labels or training: none, mean, refit.")
    ] = None,
    repair_samples: Annotated[
        int | None, typer.Option("--repair-samples", help="Training images for it; default: the reference samples.")
    ] = None,
    finetune: Annotated[int | None, typer.Option("--finetune", help="Fine-tuning epochs.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of the reference samples.")] = None,
    classes: ClassesOption = None,
    head: HeadOption = None,
    device: DeviceOption = None,
    track: TrackOption = None,
    trust_code: TrustOption = None,
    allow_untrained: UntrainedOption = None,
    overrides: SetOption = None,
    out: OutOption = Path("out/prune"),
    print_config: PrintOption = False,
    dry_run: DryOption = False,
) -> None:
    """Prune a trained network to a budget.

    Ends with a bundle and a report.
    """
    from secateur.criteria import parse

    name, parameters = parse(criterion) if criterion else (None, None)
    budgets = {"macs": macs, "params": params, "units": units, "latency": latency}
    given = {kind: share for kind, share in budgets.items() if share is not None}
    if len(given) > 1:
        raise typer.BadParameter("give one of --macs, --params, --units, --latency")
    kind, share = next(iter(given.items()), (None, None))
    chosen = recipe_from(
        recipe, overrides, data__source=data, data__classes=class_list(classes), model__name=model,
        model__weights=weights, model__architecture=architecture, model__trust_code=trust_code,
        model__allow_untrained=allow_untrained, model__replace_head=head, criterion__name=name,
        criterion__parameters=parameters, budget__kind=kind, budget__share=share, prune__schedule=schedule,
        prune__strategy=strategy, prune__stream=stream, prune__repair=repair,
        prune__repair_samples=repair_samples, finetune__epochs=finetune, reference__seed=seed, device=device,
        tracking__trackers=track or None,
    )  # fmt: skip
    if not begin(chosen, "prune", out, print_config):
        return
    from secateur.cli.present import say_notes, show_plan
    from secateur.cli.results import show_pruned
    from secateur.cli.tracked import tracked
    from secateur.pipeline.jobs import PruneJob

    job = PruneJob.of(chosen)
    if dry_run:
        ranks().once(lambda: show_plan(job, out))
        return
    say_notes(job.prepared)
    with tracked(chosen, job.prepared, out) as tracking:
        run = job.run(out, tracking)
        if not ranks().main:
            return
        show_pruned(job, run, out)
        for written in ("report.html", "metrics.json"):
            tracking.file(out / written)
    for line in tracking.lines():
        typer.echo(line)
