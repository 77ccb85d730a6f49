"""Data and network of a recipe, matched to each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from secateur.core.borrowing import borrowed
from secateur.core.devices import choose_device
from secateur.core.errors import RequestError
from secateur.core.randomness import derive_seed
from secateur.data import DataSettings, ImageData, Normalisation, Resize, class_indices, open_data
from secateur.data.matching import Matched, match_classes, outputs_by_name
from secateur.models.opening import Opened, build_architecture, image_channels, open_network
from secateur.models.records import LibraryWeights, library_weights, record_of
from secateur.models.settings import ModelSettings, kind_of
from secateur.pipeline.recipe import Recipe
from secateur.pipeline.subsets import with_head
from secateur.structure.tracing import failure
from secateur.surgery import read_bundle


@dataclass(frozen=True, eq=False)
class Prepared:
    """Data and network of a recipe, matched to each other.

    Attributes:
        recipe: the recipe.
        data: data whose labels are indices of the network's outputs.
        model: the network in eval mode.
        device: the device to work on.
        trained: whether all weights of the network are trained.
        notes: choices that were made automatically.
        new_head: whether only its head has random weights.
    """

    recipe: Recipe
    data: ImageData
    model: nn.Module
    device: torch.device
    trained: bool = True
    notes: tuple[str, ...] = ()
    new_head: bool = False

    def data_record(self) -> dict[str, Any]:
        """The record in a bundle of the images that the network expects."""
        record: dict[str, Any] = {
            "normalisation": {"mean": list(self.data.normalisation.mean), "std": list(self.data.normalisation.std)},
            "class_names": list(self.data.class_names),
        }
        return record if self.data.resize is None else {**record, "resize": self.data.resize.model_dump()}


def prepare(recipe: Recipe) -> Prepared:
    """Open the data and the network: by name, with weights, from a file, a bundle folder, or the user's own code.

    The network's outputs and input channels follow the data unless the recipe says otherwise. Size and normalisation of
    the images follow the network's record where it has one, and labels its classes by name (`match_classes`): data with
    some of ImageNet's classes get the labels of a network for all of them, and for a network for some of the data's
    classes, images of the others are left out. A library's weights for other classes get a new head. The recipe may ask
    for a head cut to ``data.classes``, or to the data's classes where the network has more.
    """
    device = choose_device(recipe.device)
    bundle = _bundle(recipe.model)
    record = record_of(recipe.model) if bundle is None else bundle.metadata
    settings, notes = _followed(recipe.data, record)
    if settings.channels is None:
        settings = settings.model_copy(update={"channels": image_channels(recipe.model)})
    data = open_data(settings)
    notes += [] if data.assignment is None else data.assignment.notes
    if data.skipped:
        notes.append(f"{len(data.skipped):,} images were skipped; the first: {data.skipped[0]}")
    opened = bundle or _network(recipe, data)
    model, metadata = opened.model, opened.metadata
    known = metadata.get("normalisation")
    if known and settings.follow_network:
        data = data.with_normalisation(Normalisation(tuple(known["mean"]), tuple(known["std"])))
    shape = _outputs(model, data)
    outputs = shape[1] if len(shape) == 2 else 0
    if opened.new_head:
        notes.append(
            f"the weights of '{recipe.model.name}' are for other classes: its head is new, with {outputs} outputs and "
            f"random weights (train.seed={recipe.train.seed})"
        )
    names = tuple(metadata.get("class_names") or ())
    classes = None if settings.classes is None else class_indices(settings.classes, data.class_names)
    matched = match_classes(data, names if len(names) == outputs else (), classes)
    notes += [matched.note] if matched.note else []
    model, data = _headed(recipe, model, matched, classes)
    return Prepared(recipe, data, model, device, opened.trained, tuple(notes), opened.new_head)


def _followed(settings: DataSettings, record: Mapping[str, Any]) -> tuple[DataSettings, list[str]]:
    """Settings of the data with the image size of the network's record, and a note about it."""
    if not settings.follow_network:
        return settings, []
    size = settings.resize
    notes = []
    if size is None and (known := recorded_resize(record)) is not None:
        settings = settings.model_copy(update={"resize": known})
        notes.append(f"images as the network's weights were trained: {settings.resize}")
    if record.get("weights"):  # weights that a library downloads
        norm = record["normalisation"]
        start = notes.pop() if notes else f"images as data.resize says: {size}" if size else "images as stored"
        notes.append(f"{start}; mean {_rounded(norm['mean'])}, std {_rounded(norm['std'])} ({record['weights']})")
        if record.get("otherwise") and size is None:
            notes.append(f"the network's weights were trained on images {record['otherwise']}; here, they are cropped")
    return settings, notes


def recorded_resize(record: Mapping[str, Any]) -> Resize | None:
    """The image size of a network's record; None where it has none.

    Raises:
        RequestError: for a record that cannot be read.
    """
    try:
        return Resize.model_validate(record["resize"]) if record.get("resize") else None
    except ValidationError as error:
        raise RequestError(
            "the network's record of the size of its images is not understood; give data.resize"
        ) from error


def _rounded(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _headed(
    recipe: Recipe, model: nn.Module, matched: Matched, classes: Sequence[int] | None
) -> tuple[nn.Module, ImageData]:
    """The network with the head that the recipe asks for, and its data."""
    head, data = recipe.model.replace_head, matched.data
    if head == "keep":
        return model, data
    given = range(len(matched.outputs)) if classes is None and matched.by_name else classes
    if given is None:
        raise RequestError(f"model.replace_head={head} needs data.classes (--classes): which to keep")
    kept = sorted(output for index in given if (output := matched.outputs[index]) is not None)
    model = with_head(model, kept, head, data.test.batch([0])[0])
    if classes is not None:
        return model, data.only(kept, renumber=head == "slice")
    if head == "slice":
        position = {output: index for index, output in enumerate(kept)}
        names = data.class_names
        data = data.renumbered([position.get(output) for output in range(len(names))], [names[index] for index in kept])
    return model, data


def _bundle(asked: ModelSettings) -> Opened | None:
    """The network of a bundle folder; None for other networks."""
    if kind_of(asked.name) != "bundle":
        return None
    bundle = read_bundle(asked.name, model=build_architecture(asked))
    return Opened(bundle.model, "bundle", trained=True, metadata=bundle.architecture.get("data", {}))


def _network(recipe: Recipe, data: ImageData) -> Opened:
    """The network of a recipe, with the sizes of the data where the recipe does not set them."""
    asked, count = recipe.model, len(data.class_names)
    known = library_weights(asked.name, asked.arguments)
    open_to_data = asked.weights is None and "num_classes" not in asked.arguments
    if known is not None and open_to_data and not _answers(known, data):
        asked = asked.model_copy(update={"arguments": {**asked.arguments, "num_classes": count}})
    # initial weights depend on the recipe's seed
    torch.manual_seed(derive_seed(recipe.train.seed, "weights"))
    return open_network(asked, count, len(data.normalisation.mean))


def _answers(weights: LibraryWeights, data: ImageData) -> bool:
    """Whether weights have an output for each class of the data: by name, or by number."""
    names = data.class_names
    return len(names) == weights.num_classes or None not in outputs_by_name(names, weights.class_names)


def _outputs(model: nn.Module, data: ImageData) -> tuple[int, ...]:
    """Shape of the network's output for one image; () where it is no tensor."""
    image = data.test.batch([0])[0].to(next(model.parameters()).device)
    try:
        with borrowed(model), torch.no_grad():
            output = model(image)
    except Exception as error:  # the user's own code may raise anything; the remedy is the same
        raise RequestError(failure(error, [image])) from error
    return tuple(output.shape) if isinstance(output, torch.Tensor) else ()


def check_classes(prepared: Prepared) -> None:
    """Raise `RequestError` when the network has another number of outputs than the data has classes."""
    shape = _outputs(prepared.model, prepared.data)
    if len(shape) != 2 or shape[1] < len(prepared.data.class_names):
        raise RequestError(
            f"the network returns outputs of shape {shape or 'unknown'}, "
            f"the data has {len(prepared.data.class_names)} classes"
        )
