"""Options that commands share, and the recipe they make. Nothing heavy is imported to read them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from secateur.core.addresses import settings_without_secrets
from secateur.core.errors import RequestError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from secateur.pipeline.recipe import Recipe

    S = TypeVar("S", bound=BaseModel)


def _beginning(text: str, known: Iterable[str]) -> list[str]:
    return [name for name in known if name.startswith(text)]


def complete_recipe(incomplete: str) -> list[str]:
    """For the shell: names of recipes."""
    from secateur.pipeline.recipe import known_recipes

    return _beginning(incomplete, known_recipes())


def complete_model(incomplete: str) -> list[str]:
    """For the shell: names of networks."""
    from secateur.models.settings import known_models

    return _beginning(incomplete, known_models())


def complete_criterion(incomplete: str) -> list[str]:
    """For the shell: names of criteria."""
    from secateur.criteria import known

    return _beginning(incomplete, known())


def complete_composite(incomplete: str) -> list[str]:
    """For the shell: names of composites."""
    from secateur.attribution.composites import known

    return _beginning(incomplete, known())


def complete_strategy(incomplete: str) -> list[str]:
    """For the shell: names of strategies."""
    from secateur.selection.names import AUTO, STRATEGY_NAMES

    return _beginning(incomplete, (AUTO, *STRATEGY_NAMES))


RecipeOption = Annotated[
    str | None, typer.Option("--recipe", help="Shipped recipe name or YAML file.", autocompletion=complete_recipe)
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Any recipe value: --set train.epochs=3", metavar="A.B=C")
]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data", help="cifar10, mnist5k, ... (secateur data list), FILE.npz, an image folder, torchvision/NAME."
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="resnet20-cifar10, resnet20, torchvision/NAME, timm/NAME, a bundle folder, FILE.safetensors, FILE.pt2, "
        "or your own package.module:factory (with --trust-code).",
        autocompletion=complete_model,
    ),
]
WeightsOption = Annotated[Path | None, typer.Option("--weights", help="Checkpoint: .safetensors, or a .pt state_dict.")]
ArchitectureOption = Annotated[
    str | None,
    typer.Option("--architecture", help="Of FILE.safetensors that does not name it, or of your own network's bundle."),
]
TrustOption = Annotated[
    bool | None, typer.Option("--trust-code", help="Run the Python code that --model package.module:factory names.")
]
UntrainedOption = Annotated[
    bool | None, typer.Option("--allow-untrained", help="Take a network with random weights, too.")
]
StreamOption = Annotated[
    bool | None, typer.Option("--stream", help="Let channels go that norms run over: residual streams as a whole.")
]
ClassesOption = Annotated[
    str | None, typer.Option("--classes", metavar="A,B,C", help="Work only with these classes, by name or index.")
]
HeadOption = Annotated[
    str | None, typer.Option("--head", help="For some classes: keep all logits, slice the head, or mask the others.")
]
DeviceOption = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.")]
TrackOption = Annotated[
    list[str] | None,
    typer.Option("--track", help="Also log to wandb, mlflow, tensorboard or trackio; repeat for several."),
]
OutOption = Annotated[Path, typer.Option("--out", help="Folder for results.")]
ProcessesOption = Annotated[int | None, typer.Option("--processes", help="Side by side; 0: all cores.")]
ExecutorOption = Annotated[
    str | None, typer.Option("--executor", help="processes of this machine, or ray: a cluster (extra ray).")
]
AddressOption = Annotated[
    str | None, typer.Option("--address", help="HOST:PORT of a Ray cluster, or auto; default: one started here.")
]
StoreOption = Annotated[
    str | None,
    typer.Option("--store", help="SQLite file, or postgresql://USER@HOST/NAME; default: cells.sqlite in --out."),
]
FilesOption = Annotated[
    str | None,
    typer.Option(
        "--files",
        help="Files of cells: a folder, or s3://, gs://, ... (fsspec); default: as before, or beside the store.",
    ),
]
PrintOption = Annotated[bool, typer.Option("--print-config", help="Print the full recipe and exit.")]
DryOption = Annotated[
    bool, typer.Option("--dry-run", help="Check everything that can be checked, say what would be done, do no work.")
]


def recipe_from(
    recipe: str | None,
    overrides: list[str] | None,
    *,
    default: str | None = None,
    **flags: Any,
) -> Recipe:
    """A recipe from a file or name, then flags, then ``--set`` (later wins); see `settings_from`."""
    from secateur.pipeline.recipe import Recipe

    return settings_from(Recipe, recipe, overrides, default=default, **flags)


def settings_from(
    kind: type[S],
    recipe: str | None,
    overrides: list[str] | None,
    *,
    default: str | None = None,
    **flags: Any,
) -> S:
    """Settings of one kind from a file or name, then flags, then ``--set`` (later wins).

    Args:
        kind: `Recipe`, or what a study has in its place.
        recipe: given by the user.
        overrides: ``a.b=c`` strings; values are YAML.
        default: shipped recipe to use when none is given.
        flags: dotted keys with ``__`` for the dot; None is left out.
    """
    from secateur.pipeline.recipe import load_settings

    values = {key.replace("__", "."): _plain(value) for key, value in flags.items() if value is not None}
    return load_settings(kind, recipe or default, values | set_values(overrides))


def set_values(overrides: list[str] | None) -> dict[str, Any]:
    """Values by dotted key, of ``a.b=c`` strings; values are YAML."""
    import yaml

    values = {}
    for item in overrides or []:
        key, equals, text = item.partition("=")
        if not equals or not key:
            raise RequestError(f"--set needs key=value, got '{item}'")
        try:
            values[key.strip()] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise RequestError(f"--set {key}: '{text}' is not a YAML value") from error
    return values


def class_list(text: str | None) -> list[str] | None:
    """``cat,dog`` as a list of names or indices."""
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def echo_settings(settings: BaseModel) -> None:
    """Print settings as the YAML that gives them again, but for passwords in addresses."""
    import yaml

    typer.echo(yaml.safe_dump(settings_without_secrets(settings.model_dump(mode="json")), sort_keys=False))


def begin(recipe: Recipe, command: str, out: Path | None, print_config: bool) -> bool:
    """Check what can be checked before PyTorch is loaded; False where the recipe was only to be shown.

    Args:
        recipe: the request.
        command: that is to work on it.
        out: folder for results.
        print_config: show the recipe, and no more.
    """
    if print_config:
        echo_settings(recipe)
        return False
    from secateur.core.progress import announce
    from secateur.pipeline.requests import check_request

    check_request(recipe, command, out)
    announce("loading PyTorch")
    return True
