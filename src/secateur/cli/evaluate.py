"""secateur evaluate."""

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
    PrintOption,
    RecipeOption,
    SetOption,
    WeightsOption,
    class_list,
    recipe_from,
    stop_early,
)  # fmt: skip
from secateur.cli.present import ALONE, alone, percent, say_notes, show
from secateur.core.errors import RequestError
from secateur.core.files import write_json
from secateur.data import loader
from secateur.evaluation import evaluate, measure_latency
from secateur.pipeline import check_classes, prepare


def command(
    recipe: RecipeOption = None,
    data: DataOption = None,
    model: ModelOption = None,
    weights: WeightsOption = None,
    split: Annotated[str, typer.Option("--split", help="train, val or test.")] = "test",
    classes: ClassesOption = None,
    head: HeadOption = None,
    device: DeviceOption = None,
    overrides: SetOption = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for metrics.json.")] = None,
    print_config: PrintOption = False,
    dry_run: DryOption = False,
) -> None:
    """Measure a network or bundle: accuracy, calibration, size, MACs, latency."""
    if split not in ("train", "val", "test"):
        raise RequestError(f"unknown split '{split}'; known: train, val, test")
    chosen = recipe_from(
        recipe, overrides, data__source=data, data__classes=class_list(classes), model__name=model,
        model__weights=weights, model__replace_head=head, device=device
    )  # fmt: skip
    if stop_early(chosen, print_config, dry_run):
        return
    prepared = prepare(chosen)
    check_classes(prepared)
    say_notes(prepared)
    images = getattr(prepared.data, split).replace(augmentation=None)
    names = prepared.data.class_names
    found = evaluate(prepared.model, loader(images), class_names=names, device=prepared.device)
    probe = images.batch(range(min(64, len(images))))[0]
    found = replace(found, latency=measure_latency([prepared.model.to(prepared.device)], probe)[0])
    show(ALONE, [alone(chosen.model.name, found)], f"{prepared.data.name}, {split}, {found.samples} samples")
    show(("class", "accuracy"), [(name, percent(value)) for name, value in found.per_class.items()])
    typer.echo(f"loss {found.loss:.4f}, calibration error {100 * found.calibration_error:.2f} %")
    if found.latency is not None and found.latency.warning:
        typer.echo(f"warning: latency {found.latency.warning}")
    if prepared.data.skipped:
        typer.echo(f"skipped {len(prepared.data.skipped)} unreadable image(s), first: {prepared.data.skipped[0]}")
    if out is not None:
        typer.echo(f"metrics: {write_json(out / 'metrics.json', found.to_json())}")
