"""A recipe carried out in memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur.core.borrowing import borrowed
from secateur.core.devices import choose_device
from secateur.core.errors import RequestError
from secateur.core.randomness import derive_seed
from secateur.criteria import get
from secateur.data import ImageData, Normalisation, ReferenceSet, class_indices, loader, open_data
from secateur.evaluation import Evaluation, compare_latency, evaluate
from secateur.models import build, read_metadata, registered
from secateur.models.building import SHIPPED, fetched, fetched_normalisation, shipped_metadata
from secateur.pipeline.compression import compress
from secateur.pipeline.recipe import Recipe
from secateur.pipeline.settings import Compressed
from secateur.pipeline.tasks import with_head
from secateur.selection import Budget
from secateur.structure.tracing import failure
from secateur.surgery import read_bundle
from secateur.training import TrainingHistory, fit


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
    """Open the data and build the network: by name, with weights, or from a bundle folder.

    The network's outputs and input channels follow the data unless the recipe says otherwise; normalisation follows
    the network's record where it has one. Of a network that was cut to some of the data's classes, by its record, data
    are restricted to these; with ``data.classes``, it is first given the head that the recipe asks for.
    """
    if recipe.model.replace_head != "keep" and recipe.data.classes is None:
        raise RequestError(
            f"model.replace_head={recipe.model.replace_head} needs data.classes (--classes): which to keep"
        )
    device = choose_device(recipe.device)
    name, arguments = recipe.model.name, dict(recipe.model.arguments)
    settings = recipe.data
    own = name in registered
    if not own and name not in SHIPPED and settings.channels is None and not Path(name).is_dir():
        settings = settings.model_copy(update={"channels": 3})
    data = open_data(settings)
    if Path(name).is_dir():
        bundle = read_bundle(name)
        model, metadata = bundle.model, bundle.architecture.get("data", {})
    else:
        metadata = shipped_metadata(name) or (read_metadata(recipe.model.weights) if recipe.model.weights else {})
        if own or "/" in name:
            arguments.setdefault("num_classes", len(metadata.get("class_names") or data.class_names))
        if own:
            arguments.setdefault("in_channels", len(data.normalisation.mean))
        # initial weights follow from the recipe's seed
        torch.manual_seed(derive_seed(recipe.train.seed, "weights"))
        model = build(name, recipe.model.weights, **arguments)
    known = metadata.get("normalisation") or fetched_normalisation(name, arguments, model)
    if known:
        data = data.with_normalisation(Normalisation(tuple(known["mean"]), tuple(known["std"])))
    trained = Path(name).is_dir() or name in SHIPPED or recipe.model.weights is not None or fetched(arguments)
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
        return Prepared(recipe, data, model, device, trained, (note,))
    if settings.classes is not None and recipe.model.replace_head != "keep":
        classes = class_indices(settings.classes, names)
        model = with_head(model, classes, recipe.model.replace_head, data.test.batch([0])[0])
        data = data.only(classes, renumber=recipe.model.replace_head == "slice")
    return Prepared(recipe, data, model, device, trained)


def _outputs(model: nn.Module, data: ImageData) -> tuple[int, ...]:
    """Shape of the network's output for one image; () when it is no tensor."""
    image = data.test.batch([0])[0].to(next(model.parameters()).device)
    try:
        with borrowed(model), torch.no_grad():
            found = model(image)
    except Exception as error:  # the user's own code may raise anything; the remedy is the same
        raise RequestError(failure(error, [image])) from error
    return tuple(found.shape) if isinstance(found, torch.Tensor) else ()


def train_network(prepared: Prepared, state_file: Path | None = None) -> TrainingHistory:
    """Train the prepared network in place by the recipe's ``train`` section."""
    settings = prepared.recipe.train.model_copy(update={"device": str(prepared.device)})
    return fit(prepared.model, prepared.data.train, prepared.data.val, settings, state_file)


@dataclass(frozen=True, eq=False)
class PruneRun:
    """One network pruned to one budget: what was measured before and after."""

    compressed: Compressed
    before: Evaluation
    pruned: Evaluation
    tuned: Evaluation | None


def prune_network(prepared: Prepared, folder: Path | None = None) -> PruneRun:
    """Prune by the recipe's ``criterion``, ``budget`` and ``prune`` sections; fine-tune when it has epochs.

    With a ``folder``, interrupted fine-tuning goes on from a state kept there under the plan's hash.
    """
    recipe, data, model = prepared.recipe, prepared.data, prepared.model
    finetune = recipe.finetune.model_copy(update={"device": str(prepared.device)})
    reference = ReferenceSet.sample(
        getattr(data, recipe.reference.split),
        recipe.reference.per_class,
        recipe.reference.seed,
        recipe.reference.classes,
    )
    before = evaluate(model, loader(data.test), class_names=data.class_names, device=prepared.device)
    compressed = compress(
        model.to(prepared.device),
        reference,
        Budget.of(recipe.budget.kind, recipe.budget.share),
        get(recipe.criterion.name, **recipe.criterion.parameters),
        recipe.prune,
        train=data.train,
        val=data.val,
        finetune=finetune,
    )
    compressed.model.to(prepared.device)
    pruned = evaluate(compressed.model, loader(data.test), class_names=data.class_names, device=prepared.device)
    tuned = None
    if finetune.epochs and recipe.prune.schedule != "iterative":
        state_file = None if folder is None else folder / f"finetune-{compressed.plan.digest}.state"
        teacher = None if finetune.distillation is None else model
        fit(compressed.model, data.train, data.val, finetune, state_file, teacher=teacher)
        tuned = evaluate(compressed.model, loader(data.test), class_names=data.class_names, device=prepared.device)
        compressed.model.to(prepared.device)
        if state_file is not None:
            state_file.unlink(missing_ok=True)
    if compressed.latency is None:
        probe = data.test.batch(range(min(64, len(data.test))))[0]
        old, new = compare_latency(model, compressed.model, probe)
    else:  # of a latency budget: what it was met by is what is reported
        old, new = compressed.latency
    model.to("cpu")
    compressed.model.to("cpu")
    return PruneRun(
        compressed,
        replace(before, latency=old),
        replace(pruned, latency=new),
        None if tuned is None else replace(tuned, latency=new),
    )


def check_classes(prepared: Prepared) -> None:
    """Raise `RequestError` when the network has another number of outputs than the data has classes."""
    shape = _outputs(prepared.model, prepared.data)
    if len(shape) != 2 or shape[1] < len(prepared.data.class_names):
        raise RequestError(
            f"the network gives outputs of shape {shape or 'unknown'}, "
            f"the data has {len(prepared.data.class_names)} classes"
        )
