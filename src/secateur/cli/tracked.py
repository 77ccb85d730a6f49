"""The trackers that a command's recipe names."""

from __future__ import annotations

from pathlib import Path

import typer

from secateur.pipeline.recipe import Recipe
from secateur.pipeline.run import Prepared
from secateur.tracking import Tracking


def tracked(recipe: Recipe, prepared: Prepared, out: Path) -> Tracking:
    """What a command logs to; trackers that fail are named on standard error.

    Args:
        recipe: the request.
        prepared: its data and network, for the name of the run.
        out: folder for results.
    """
    settings = recipe.tracking
    return Tracking(
        settings,
        f"{recipe.model.name} on {prepared.data.name}",
        recipe.model_dump(mode="json"),
        out,
        lambda text: typer.echo(f"warning: {text}", err=True),
    )
