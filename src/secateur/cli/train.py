"""secateur train."""

from __future__ import annotations

from dataclasses import replace
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
from secateur.cli.present import ALONE, alone, show
from secateur.core.files import write_json
from secateur.data import loader
from secateur.evaluation import evaluate, measure_latency
from secateur.models import save_weights
from secateur.pipeline import check_classes, prepare, train_network
from secateur.selection.plan import Edits
from secateur.surgery import edits_of, save


def command(
    recipe: RecipeOption = None,
    data: DataOption = None,
    model: ModelOption = None,
    weights: WeightsOption = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Training epochs.")] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Learning rate.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of weights, order and augmentation.")] = None,
    classes: ClassesOption = None,
    head: HeadOption = None,
    device: DeviceOption = None,
    overrides: SetOption = None,
    out: OutOption = Path("out/train"),
    print_config: PrintOption = False,
    dry_run: DryOption = False,
) -> None:
    """Train a network; an interrupted run goes on from its last whole epoch."""
    chosen = recipe_from(
        recipe, overrides, data__source=data, data__classes=class_list(classes), model__name=model,
        model__weights=weights, model__replace_head=head, train__epochs=epochs,
        train__learning_rate=lr, train__seed=seed, device=device,
    )  # fmt: skip
    if stop_early(chosen, print_config, dry_run):
        return
    prepared = prepare(chosen)
    check_classes(prepared)
    history = train_network(prepared, out / "training.state")
    name = chosen.model.name.replace("/", "-")
    found = evaluate(prepared.model, loader(prepared.data.test), class_names=prepared.data.class_names)
    probe = prepared.data.test.batch(range(min(64, len(prepared.data.test))))[0]
    found = replace(found, latency=measure_latency([prepared.model], probe)[0])
    metrics = {"test": found.to_json(), "history": history.to_json()}
    if edits_of(prepared.model) == Edits():
        metadata = {"arguments": _arguments(prepared.model), **prepared.data_record()}
        where = f"weights: {save_weights(prepared.model, out / f'{name}.safetensors', metadata)}"
    else:  # a network that was cut cannot be built by its name alone
        settings, record = chosen.model_dump(mode="json"), prepared.data_record()
        where = f"bundle: {save(prepared.model, out / 'bundle', recipe=settings, metrics=metrics, data=record)}"
    write_json(out / "metrics.json", metrics)
    show(ALONE, [alone(chosen.model.name, found)], "test set")
    if found.latency is not None and found.latency.warning:
        typer.echo(f"warning: latency {found.latency.warning}")
    typer.echo(where)


def _arguments(model: object) -> dict[str, object]:
    origin = getattr(model, "_secateur_origin", None) or {"arguments": {}}
    return dict(origin["arguments"])
