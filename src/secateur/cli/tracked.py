"""The trackers that a command's recipe names."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import typer

from secateur.pipeline.recipe import Recipe
from secateur.pipeline.run import Prepared
from secateur.tracking import Tracking


def tracked(recipe: Recipe, prepared: Prepared, out: Path, also: Iterable[str] = ()) -> Tracking:
    """What a command logs to; trackers that fail are named on standard error.

    Args:
        recipe: the request.
        prepared: its data and network, for the name of the run.
        out: folder for results.
        also: trackers beside those of the recipe's own section.
    """
    settings = recipe.tracking
    trackers = tuple(dict.fromkeys((*settings.trackers, *also)))
    return Tracking(
        settings.model_copy(update={"trackers": trackers}),
        f"{recipe.model.name} on {prepared.data.name}",
        recipe.model_dump(mode="json"),
        out,
        lambda text: typer.echo(f"warning: {text}", err=True),
    )
