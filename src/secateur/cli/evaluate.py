"""secateur evaluate."""

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
    PrintOption,
    RecipeOption,
    SetOption,
    TrustOption,
    WeightsOption,
    begin,
    class_list,
    recipe_from,
)  # fmt: skip
from secateur.core.errors import RequestError
from secateur.core.names import did_you_mean
from secateur.core.ranks import ranks

_SPLITS = ("train", "val", "test")


def command(
    recipe: RecipeOption = None,
    data: DataOption = None,
    model: ModelOption = None,
    weights: WeightsOption = None,
    architecture: ArchitectureOption = None,
    split: Annotated[str, typer.Option("--split", help="train, val or test.")] = "test",
    classes: ClassesOption = None,
    head: HeadOption = None,
    device: DeviceOption = None,
    trust_code: TrustOption = None,
    overrides: SetOption = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for metrics.json.")] = None,
    print_config: PrintOption = False,
    dry_run: DryOption = False,
) -> None:
    """Measure accuracy, size, latency and memory of a network.

    Or of a bundle; and its calibration and MACs.
    """
    if split not in _SPLITS:
        raise RequestError(f"unknown split '{split}'{did_you_mean(split, _SPLITS)}; known: {', '.join(_SPLITS)}")
    chosen = recipe_from(
        recipe, overrides, data__source=data, data__classes=class_list(classes), model__name=model,
        model__weights=weights, model__architecture=architecture, model__trust_code=trust_code,
        model__replace_head=head, device=device,
    )  # fmt: skip
    if not begin(chosen, "evaluate", out, print_config):
        return
    from secateur.cli.present import say_notes, show_plan
    from secateur.cli.results import show_evaluated
    from secateur.pipeline.jobs import EvaluateJob

    job = EvaluateJob.of(chosen, split)
    if dry_run:
        ranks().once(lambda: show_plan(job, out))
        return
    say_notes(job.prepared)
    found = job.run()
    if ranks().main:
        show_evaluated(job, found, out)
