"""secateur prune."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.options import (
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
    WeightsOption,
    class_list,
    recipe_from,
    stop_early,
)  # fmt: skip
from secateur.cli.present import (
    COMPARED,
    Units,
    compared,
    heatmaps,
    latency_lines,
    layers,
    measurement,
    new_report,
    say_notes,
    show,
)
from secateur.core.files import write_json
from secateur.criteria import parse
from secateur.pipeline import check_classes, prepare, prune_network
from secateur.report import write_report
from secateur.structure import trace
from secateur.surgery import save


def command(
    recipe: RecipeOption = None,
    data: DataOption = None,
    model: ModelOption = None,
    weights: WeightsOption = None,
    criterion: Annotated[str | None, typer.Option("--criterion", help="lrp, taylor, ..., lrp:composite=NAME")] = None,
    macs: Annotated[float | None, typer.Option("--macs", help="Share of MACs that stays.")] = None,
    params: Annotated[float | None, typer.Option("--params", help="Share of parameters that stays.")] = None,
    units: Annotated[float | None, typer.Option("--units", help="Share of units that stays.")] = None,
    latency: Annotated[float | None, typer.Option("--latency", help="Share of latency that stays, measured.")] = None,
    schedule: Annotated[str | None, typer.Option("--schedule", help="one-shot, rescored, iterative.")] = None,
    strategy: Annotated[str | None, typer.Option("--strategy", help="global, per-layer, per-cost, isomorphic.")] = None,
    finetune: Annotated[int | None, typer.Option("--finetune", help="Fine-tuning epochs.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of the reference samples.")] = None,
    classes: ClassesOption = None,
    head: HeadOption = None,
    device: DeviceOption = None,
    overrides: SetOption = None,
    out: OutOption = Path("out/prune"),
    print_config: PrintOption = False,
    dry_run: DryOption = False,
) -> None:
    """Prune a trained network to a budget; ends with a bundle and a report."""
    name, parameters = parse(criterion) if criterion else (None, None)
    budgets = {"macs": macs, "params": params, "units": units, "latency": latency}
    given = {kind: share for kind, share in budgets.items() if share is not None}
    if len(given) > 1:
        raise typer.BadParameter("give one of --macs, --params, --units, --latency")
    kind, share = next(iter(given.items()), (None, None))
    chosen = recipe_from(
        recipe, overrides, data__source=data, data__classes=class_list(classes), model__name=model,
        model__weights=weights, model__replace_head=head, criterion__name=name,
        criterion__parameters=parameters, budget__kind=kind, budget__share=share, prune__schedule=schedule,
        prune__strategy=strategy, finetune__epochs=finetune, reference__seed=seed, device=device,
    )  # fmt: skip
    if stop_early(chosen, print_config, dry_run):
        return
    prepared = prepare(chosen)
    check_classes(prepared)
    say_notes(prepared)
    structure = trace(prepared.model, prepared.data.test.batch([0])[0])
    result = prune_network(prepared, out)
    plan, slim = result.compressed.plan, result.compressed.model
    after = result.tuned or result.pruned
    left = Units.of(structure, plan)
    metrics = {
        "requested": dict(plan.requested),
        "achieved": dict(plan.achieved),
        "units": left.to_json(),
        "before": result.before.to_json(),
        "pruned": result.pruned.to_json(),
        "finetuned": None if result.tuned is None else result.tuned.to_json(),
    }
    bundle = save(
        slim,
        out / "bundle",
        plan=plan,
        recipe=chosen.model_dump(mode="json"),
        metrics=metrics,
        data=prepared.data_record(),
    )
    write_json(out / "metrics.json", metrics)
    page = write_report(
        new_report(
            f"{chosen.model.name} on {prepared.data.name}",
            str(plan),
            prepared,
            before=measurement(result.before, left.removable),
            after=measurement(after, left.kept),
            layers=layers(structure, plan),
            heatmaps=heatmaps(prepared.model, slim, prepared),
        ),
        out / "report.html",
    )
    whole = Units(left.removable, left.removable)
    rows = [compared("unpruned", result.before, result.before, whole)]
    rows.append(compared("pruned", result.pruned, result.before, left))
    if result.tuned is not None:
        rows.append(compared("fine-tuned", result.tuned, result.before, left))
    show(COMPARED, rows, f"{plan}")
    for line in latency_lines(result.before.latency, after.latency):
        typer.echo(line)
    note = result.compressed.history[-1].note
    if note:
        typer.echo(f"note: {note}")
    typer.echo(f"bundle: {bundle}\nreport: {page}")
