"""secateur prototypes: networks that compare patches with prototypes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secateur.cli.options import (
    DataOption,
    DeviceOption,
    DryOption,
    OutOption,
    PrintOption,
    RecipeOption,
    SetOption,
    TrackOption,
    echo_settings,
    settings_from,
)
from secateur.core.errors import RequestError

if TYPE_CHECKING:
    from secateur.prototypes.settings import PrototypeRecipe

app = typer.Typer(
    no_args_is_help=True,
    help="Networks that decide by prototypes: this looks like that. Train, project, prune and explain them.",
)

BundleOption = Annotated[
    Path | None,
    typer.Option("--model", help="Bundle of a prototype network, as `secateur prototypes train` writes it."),
]


@app.command()
def train(
    recipe: RecipeOption = None,
    data: DataOption = None,
    model: Annotated[
        Path | None, typer.Option("--model", help="Bundle of a prototype network to go on with, as after pruning.")
    ] = None,
    backbone: Annotated[
        str | None, typer.Option("--backbone", help="A network by name: resnet20-cifar10, torchvision/NAME, timm/NAME.")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights", help="Checkpoint of a trained network, as `secateur train` writes it, for the backbone."
        ),
    ] = None,
    per_class: Annotated[int | None, typer.Option("--per-class", help="Prototypes of each class.")] = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", help="Training epochs, warm and joint ones together.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of weights, order and augmentation.")] = None,
    device: DeviceOption = None,
    track: TrackOption = None,
    overrides: SetOption = None,
    out: OutOption = Path("out/prototypes"),
    print_config: PrintOption = False,
    dry_run: DryOption = False,
) -> None:
    """Train a prototype network and project its prototypes onto training patches.

    A new one on a backbone, or that of a bundle. An interrupted run goes on from its last finished stage or epoch.
    """
    if model is not None and weights is not None:
        raise RequestError("--weights are for the backbone of a new network, and --model has its own; give one of them")
    chosen = _recipe(
        recipe, overrides, model, data__source=data, network__backbone=backbone, network__weights=weights,
        network__per_class=per_class, train__epochs=epochs, train__seed=seed, device=device,
        tracking__trackers=track or None,
    )  # fmt: skip
    if not _begin(chosen, model, out, print_config, "train"):
        return
    from secateur.cli.present import show_plan
    from secateur.cli.prototype_results import show_trained_prototypes
    from secateur.prototypes.jobs import TrainPrototypesJob

    job = TrainPrototypesJob.of(chosen, model)
    if dry_run:
        show_plan(job, out)
        return
    show_trained_prototypes(job, out)


@app.command()
def push(
    model: BundleOption = None,
    recipe: RecipeOption = None,
    data: DataOption = None,
    device: DeviceOption = None,
    overrides: SetOption = None,
    out: OutOption = Path("out/prototypes-pushed"),
    print_config: PrintOption = False,
    dry_run: DryOption = False,
) -> None:
    """Let each prototype become its nearest training patch: after fine-tuning, or on other data."""
    chosen = _recipe(recipe, overrides, model, data__source=data, device=device)
    if not _begin(chosen, model, out, print_config, "push"):
        return
    from secateur.cli.present import show_plan
    from secateur.cli.prototype_results import show_pushed
    from secateur.prototypes.jobs import ProjectJob

    assert model is not None
    job = ProjectJob.of(chosen, model)
    if dry_run:
        show_plan(job, out)
        return
    show_pushed(job, out)


@app.command()
def prune(
    model: BundleOption = None,
    recipe: RecipeOption = None,
    data: DataOption = None,
    criterion: Annotated[
        str | None,
        typer.Option("--criterion", help="purity (of the nearest patches), relevance, usage, or none (by hand alone)."),
    ] = None,
    k: Annotated[int | None, typer.Option("--k", help="Nearest training patches to look at.")] = None,
    threshold: Annotated[
        int | None, typer.Option("--threshold", help="Of these, so many must be of the prototype's class.")
    ] = None,
    budget: Annotated[
        float | None, typer.Option("--budget", help="Share of prototypes that stays, by relevance or usage.")
    ] = None,
    disable: Annotated[
        str | None, typer.Option("--disable", metavar="3,17", help="Numbers of prototypes that go in any case.")
    ] = None,
    device: DeviceOption = None,
    overrides: SetOption = None,
    out: OutOption = Path("out/prototypes-pruned"),
    print_config: PrintOption = False,
    dry_run: DryOption = False,
) -> None:
    """Remove prototypes that do not stand for their class, or that no decision needs."""
    chosen = _recipe(
        recipe, overrides, model, data__source=data, prune__criterion=criterion, prune__k=k,
        prune__threshold=threshold, prune__budget=budget, prune__disable=_numbers(disable), device=device,
    )  # fmt: skip
    if not _begin(chosen, model, out, print_config, "prune"):
        return
    from secateur.cli.present import show_plan
    from secateur.cli.prototype_results import show_pruned_prototypes
    from secateur.prototypes.jobs import PrunePrototypesJob

    assert model is not None
    job = PrunePrototypesJob.of(chosen, model)
    if dry_run:
        show_plan(job, out)
        return
    show_pruned_prototypes(job, out)


@app.command()
def explain(
    model: BundleOption = None,
    recipe: RecipeOption = None,
    data: DataOption = None,
    images: Annotated[
        list[int] | None, typer.Option("--image", help="Index in the test set; repeat for several.")
    ] = None,
    count: Annotated[int, typer.Option("--count", min=1, help="How many images, when none is named.")] = 8,
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Explain all image files of a folder in place of test images.")
    ] = None,
    top: Annotated[int | None, typer.Option("--top", help="Prototypes of each image.")] = None,
    device: DeviceOption = None,
    overrides: SetOption = None,
    out: OutOption = Path("out/prototypes-explained"),
    print_config: PrintOption = False,
    dry_run: DryOption = False,
) -> None:
    """Show which prototypes decide on an image, and what each prototype stands for."""
    chosen = _recipe(recipe, overrides, model, data__source=data, explain__top=top, device=device)
    if not _begin(chosen, model, out, print_config, "explain"):
        return
    from secateur.cli.present import show_plan
    from secateur.cli.prototype_results import show_explained_prototypes
    from secateur.prototypes.jobs import ExplainPrototypesJob

    assert model is not None
    job = ExplainPrototypesJob.of(chosen, model, tuple(images or ()), count, folder)
    if dry_run:
        show_plan(job, out)
        return
    show_explained_prototypes(job, out)


@app.command()
def export(
    model: BundleOption = None,
    format: Annotated[str, typer.Option("--format", help="onnx, openvino, torch-export or executorch.")] = "onnx",
    out: OutOption = Path("out/prototypes-exported"),
) -> None:
    """Write a network for another runtime that gives logits and similarities; checked against PyTorch."""
    from secateur.core.files import check_writable
    from secateur.core.progress import announce
    from secateur.exporting.formats import check_export
    from secateur.models.settings import check_model_name

    if model is None:
        raise RequestError("prototypes export needs --model: the bundle that `secateur prototypes train` wrote")
    check_model_name(str(model))
    check_export(format, None, None)
    check_writable(out)
    announce("loading PyTorch")
    from secateur.cli.prototype_results import show_exported_prototypes

    show_exported_prototypes(model, format, out)


def _recipe(
    recipe: str | None, overrides: list[str] | None, bundle: Path | None = None, **flags: Any
) -> PrototypeRecipe:
    """A recipe from a file or name, or the one that a bundle was trained with; then flags, then ``--set``."""
    from secateur.prototypes.settings import PrototypeRecipe

    if recipe is None and bundle is not None and (bundle / "recipe.yaml").is_file():
        import yaml

        file = bundle / "recipe.yaml"
        try:
            kept = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise RequestError(f"'{file}' cannot be read ({str(error).splitlines()[0]}); give --recipe") from error
        if isinstance(kept, dict) and "network" not in kept:  # what `secateur prune` wrote: its data are the same
            flags = {"data": kept.get("data"), **flags}
        else:
            recipe = str(file)
    return settings_from(PrototypeRecipe, recipe, overrides, **flags)


def _numbers(text: str | None) -> list[int] | None:
    """``3,17`` as numbers."""
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise RequestError(f"--disable takes numbers of prototypes, as 3,17; got '{text}'") from error


def _begin(recipe: PrototypeRecipe, bundle: Path | None, out: Path, print_config: bool, command: str) -> bool:
    """Check what can be checked before PyTorch is loaded; False where the recipe was only to be shown."""
    if print_config:
        echo_settings(recipe)
        return False
    from secateur.core.files import check_writable
    from secateur.core.names import did_you_mean_file
    from secateur.core.progress import announce
    from secateur.data import check_source
    from secateur.models.settings import check_model_name, kind_of
    from secateur.tracking import check_trackers

    if bundle is not None:
        check_model_name(str(bundle))  # before the data, which it may name
    if "source" not in recipe.data.model_fields_set:
        raise RequestError(
            f"prototypes {command} needs --data, or a --recipe that names them; for example: secateur prototypes "
            f"{command} --recipe prototypes-fashion-mnist"
        )
    check_source(recipe.data, sized=bundle is not None)  # the bundle knows the size of its images
    check_trackers(recipe.tracking.trackers)
    if bundle is None and command == "train":
        check_model_name(recipe.network.backbone)
        if recipe.network.weights is not None and not recipe.network.weights.is_file():
            file = recipe.network.weights
            raise RequestError(f"network.weights: there is no file '{file}'{did_you_mean_file(file)}")
        if kind_of(recipe.network.backbone) in ("bundle", "program", "weights", "code"):
            raise RequestError(
                f"a backbone is built by its name, '{recipe.network.backbone}' is none; for a network of your own, "
                "secateur.models.prototype_network.PrototypeNetwork takes any module"
            )
    elif bundle is None:
        raise RequestError(f"prototypes {command} needs --model: the bundle that `secateur prototypes train` wrote")
    check_writable(out)
    announce("loading PyTorch")
    return True
