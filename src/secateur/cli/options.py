"""Options that commands share, and the recipe they make."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
import yaml
from pydantic import BaseModel

from secateur.core.errors import RequestError
from secateur.pipeline import Recipe, load_settings

S = TypeVar("S", bound=BaseModel)

RecipeOption = Annotated[str | None, typer.Option("--recipe", help="Shipped recipe name or YAML file.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Any recipe value: --set train.epochs=3", metavar="A.B=C")
]
DataOption = Annotated[str | None, typer.Option("--data", help="mnist5k, FILE.npz, an image folder, torchvision/NAME.")]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", help="resnet20-cifar10, resnet20, torchvision/NAME, timm/NAME, or a bundle folder."),
]
WeightsOption = Annotated[Path | None, typer.Option("--weights", help="Checkpoint: .safetensors, or a .pt state_dict.")]
ClassesOption = Annotated[
    str | None, typer.Option("--classes", metavar="A,B,C", help="Work with these classes alone, by name or index.")
]
HeadOption = Annotated[
    str | None, typer.Option("--head", help="For some classes: keep all logits, slice the head, or mask the others.")
]
DeviceOption = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.")]
OutOption = Annotated[Path, typer.Option("--out", help="Folder for results.")]
PrintOption = Annotated[bool, typer.Option("--print-config", help="Print the full recipe and exit.")]
DryOption = Annotated[bool, typer.Option("--dry-run", help="Check the request, do no work.")]


def recipe_from(
    recipe: str | None,
    overrides: list[str] | None,
    *,
    default: str | None = None,
    **flags: Any,
) -> Recipe:
    """A recipe from a file or name, then flags, then ``--set`` (later wins); see `settings_from`."""
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
    values = {key.replace("__", "."): _plain(value) for key, value in flags.items() if value is not None}
    for item in overrides or []:
        key, equals, text = item.partition("=")
        if not equals or not key:
            raise RequestError(f"--set needs key=value, got '{item}'")
        try:
            values[key.strip()] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise RequestError(f"--set {key}: '{text}' is not a YAML value") from error
    return load_settings(kind, recipe or default, values)


def class_list(text: str | None) -> list[str] | None:
    """``cat,dog`` as a list of names or indices."""
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def stop_early(recipe: Recipe, print_config: bool, dry_run: bool) -> bool:
    """Whether the command ends here: the recipe was only to be shown or checked."""
    if print_config:
        echo_settings(recipe)
        return True
    if dry_run:
        from secateur.pipeline import check_classes, prepare

        prepared = prepare(recipe)
        check_classes(prepared)
        sizes = ", ".join(f"{s} {len(getattr(prepared.data, s))}" for s in ("train", "val", "test"))
        typer.echo(
            f"ok: data '{prepared.data.name}' ({sizes}), "
            f"{len(prepared.data.class_names)} classes, device {prepared.device}"
        )
        return True
    return False


def echo_settings(settings: BaseModel) -> None:
    """Print settings as the YAML that gives them again."""
    typer.echo(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False))
