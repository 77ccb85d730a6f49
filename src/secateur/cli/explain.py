"""secateur explain."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from secateur.cli.options import (
    DataOption,
    DeviceOption,
    DryOption,
    ModelOption,
    OutOption,
    PrintOption,
    RecipeOption,
    SetOption,
    WeightsOption,
    recipe_from,
    stop_early,
)
from secateur.cli.present import heatmap, new_report, show, warn_untrained
from secateur.core.files import atomic_path
from secateur.pipeline import check_classes, explain, prepare, strongest_units
from secateur.report import write_report
from secateur.surgery import load


def command(
    recipe: RecipeOption = None,
    data: DataOption = None,
    model: ModelOption = None,
    weights: WeightsOption = None,
    compare_with: Annotated[Path | None, typer.Option("--against", help="Bundle of the pruned network.")] = None,
    images: Annotated[
        list[int] | None, typer.Option("--image", help="Index in the test set; repeat for several.")
    ] = None,
    count: Annotated[int, typer.Option("--count", min=1, help="How many images, when none is named.")] = 8,
    composite: Annotated[str, typer.Option("--composite", help="Rules of the relevance pass.")] = "epsilon-plus-flat",
    device: DeviceOption = None,
    overrides: SetOption = None,
    out: OutOption = Path("out/explain"),
    print_config: PrintOption = False,
    dry_run: DryOption = False,
) -> None:
    """Heatmaps of test images, and the units that speak for each class."""
    chosen = recipe_from(recipe, overrides, data__source=data, model__name=model, model__weights=weights, device=device)
    if stop_early(chosen, print_config, dry_run):
        return
    prepared = prepare(chosen)
    check_classes(prepared)
    warn_untrained(prepared)
    test = prepared.data.test
    indices = images or list(range(min(count, len(test))))
    networks = [prepared.model.to(prepared.device)]
    if compare_with is not None:
        networks.append(load(compare_with).to(prepared.device))
    found = explain(networks, test, indices, composite)
    for item in found:
        for name, picture in (("before", heatmap(item).before_png), ("after", heatmap(item).after_png)):
            if name == "before" or compare_with is not None:
                with atomic_path(out / f"image-{item.index}-{name}.png") as temporary:
                    temporary.write_bytes(base64.b64decode(picture))
    units = strongest_units(networks[0], test, indices)
    with atomic_path(out / "units.csv") as temporary:
        pd.DataFrame(units).to_csv(temporary, index=False)
    page = write_report(
        new_report(
            f"What {chosen.model.name} looks at",
            f"relevance of the true class, {composite}",
            prepared,
            heatmaps=[heatmap(item) for item in found],
        ),
        out / "report.html",
    )
    rows = [(i.index, i.label, *i.predicted, *(f"{c:.3f}" for c in i.cosine[1:])) for i in found]
    extra = ("pruned says", "cosine") if compare_with is not None else ()
    show(("image", "class", "network says", *extra), rows)
    typer.echo(f"pictures: {out}\nunits: {out / 'units.csv'}\nreport: {page}")
