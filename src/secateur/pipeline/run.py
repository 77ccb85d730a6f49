"""Data and network of a recipe, matched to each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from secateur.core.borrowing import borrowed
from secateur.core.devices import choose_device
from secateur.core.errors import RequestError
from secateur.core.randomness import derive_seed
from secateur.data import ImageData, Normalisation, class_indices, open_data
from secateur.models.opening import Opened, build_architecture, image_channels, open_network
from secateur.models.settings import kind_of
from secateur.pipeline.recipe import Recipe
from secateur.pipeline.tasks import with_head
from secateur.structure.tracing import failure
from secateur.surgery import read_bundle


@dataclass(frozen=True, eq=False)
class Prepared:
    """Data and network of a recipe, matched to each other."""

    recipe: Recipe
    data: ImageData
    model: nn.Module
    device: torch.device
    trained: bool = True
    notes: tuple[str, ...] = ()

    def data_record(self) -> dict[str, Any]:
        """What a bundle says about the images the network expects."""
        return {
            "normalisation": {"mean": list(self.data.normalisation.mean), "std": list(self.data.normalisation.std)},
            "class_names": list(self.data.class_names),
        }


def prepare(recipe: Recipe) -> Prepared:
    """Open the data and the network: by name, with weights, from a file, a bundle folder, or code of the user's own.

    The network's outputs and input channels follow the data unless the recipe says otherwise; normalisation follows
    the network's record where it has one. Of a network that was cut to some of the data's classes, by its record, data
    are restricted to these; with ``data.classes``, it is first given the head that the recipe asks for.
    """
    if recipe.model.replace_head != "keep" and recipe.data.classes is None:
        raise RequestError(
            f"model.replace_head={recipe.model.replace_head} needs data.classes (--classes): which to keep"
        )
    device = choose_device(recipe.device)
    settings = recipe.data
    if settings.channels is None:
        settings = settings.model_copy(update={"channels": image_channels(recipe.model)})
    data = open_data(settings)
    opened = _network(recipe, data)
    model, metadata = opened.model, opened.metadata
    known = metadata.get("normalisation")
    if known:
        data = data.with_normalisation(Normalisation(tuple(known["mean"]), tuple(known["std"])))
    shape = _outputs(model, data)
    outputs = shape[1] if len(shape) == 2 else 0
    names, own_names = data.class_names, tuple(metadata.get("class_names") or ())
    if outputs < len(names) and len(own_names) == outputs and set(own_names) < set(names):
        note = f"the network answers for {outputs} of {len(names)} classes; the data are restricted to them"
        data = data.only(own_names, renumber=True)
        if data.class_names != own_names:
            raise RequestError(
                f"the network's classes ({', '.join(own_names)}) are in another order than the data's "
                f"({', '.join(data.class_names)}); their labels cannot be matched"
            )
        return Prepared(recipe, data, model, device, opened.trained, (note,))
    if settings.classes is not None and recipe.model.replace_head != "keep":
        classes = class_indices(settings.classes, names)
        model = with_head(model, classes, recipe.model.replace_head, data.test.batch([0])[0])
        data = data.only(classes, renumber=recipe.model.replace_head == "slice")
    return Prepared(recipe, data, model, device, opened.trained)


def _network(recipe: Recipe, data: ImageData) -> Opened:
    """The network of a recipe, in the sizes of the data where nothing else says them."""
    asked = recipe.model
    if kind_of(asked.name) == "bundle":
        bundle = read_bundle(asked.name, model=build_architecture(asked))
        return Opened(bundle.model, "bundle", trained=True, metadata=bundle.architecture.get("data", {}))
    # initial weights follow from the recipe's seed
    torch.manual_seed(derive_seed(recipe.train.seed, "weights"))
    return open_network(asked, len(data.class_names), len(data.normalisation.mean))


def _outputs(model: nn.Module, data: ImageData) -> tuple[int, ...]:
    """Shape of the network's output for one image; () when it is no tensor."""
    image = data.test.batch([0])[0].to(next(model.parameters()).device)
    try:
        with borrowed(model), torch.no_grad():
            found = model(image)
    except Exception as error:  # the user's own code may raise anything; the remedy is the same
        raise RequestError(failure(error, [image])) from error
    return tuple(found.shape) if isinstance(found, torch.Tensor) else ()


def check_classes(prepared: Prepared) -> None:
    """Raise `RequestError` when the network has another number of outputs than the data has classes."""
    shape = _outputs(prepared.model, prepared.data)
    if len(shape) != 2 or shape[1] < len(prepared.data.class_names):
        raise RequestError(
            f"the network gives outputs of shape {shape or 'unknown'}, "
            f"the data has {len(prepared.data.class_names)} classes"
        )
