"""One cell of a comparison: a criterion's networks for all budgets, on one subset and seed, measured."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import nn

from secateur.core.borrowing import borrowed
from secateur.core.randomness import derive_seed
from secateur.criteria import get, parse
from secateur.data import ImageData, LabelledImages, closest_subset, loader
from secateur.evaluation import evaluate
from secateur.experiments import Result
from secateur.pipeline.compare_settings import CompareSettings
from secateur.pipeline.compression import prune_to_budgets
from secateur.pipeline.nominal import prune_to_ratios
from secateur.pipeline.settings import Compressed
from secateur.pipeline.subsets import drawn
from secateur.pipeline.unstructured import teacher_of, weight_mask, weight_scores
from secateur.selection import Budget
from secateur.studies.compare.cells import UNPRUNED, CompareCell
from secateur.studies.compare.tables import MEASURED, Row, coordinates_of
from secateur.studies.compare.tasks import Task, make_tasks
from secateur.training import TrainSettings, WeightMask, fit

WHOLE_COST = {"units": 1.0, "params": 1.0, "macs": 1.0}


@dataclass(frozen=True, eq=False)
class _Network:
    """What is measured: a network for one budget, with what it cost and more columns of its row."""

    share: float
    model: nn.Module
    achieved: Mapping[str, float]
    seconds: Mapping[str, float]
    compressed: Compressed | None = None
    weights: float | None = None
    layers: Sequence[tuple[str, int, int]] = ()
    mask: WeightMask | None = None


@dataclass(eq=False)
class Bench:
    """A network, its data and what to do with them; each cell is worked out on its own, the same in any process.

    Attributes:
        model: trained, for all classes.
        data: likewise.
        settings: what to compare.
        finetune: retraining; None: none.
        stream: let channels go that norms run over.
    """

    model: nn.Module
    data: ImageData
    settings: CompareSettings
    finetune: TrainSettings | None
    stream: bool = False

    @cached_property
    def tasks(self) -> dict[str, Task]:
        """By name of the subset."""
        found = make_tasks(
            self.model, self.data, self.settings.variants.subsets, self.settings.targets.replace_head, self.stream
        )
        return {task.name: task for task in found}

    @cached_property
    def _evaluated(self) -> dict[str, LabelledImages]:
        """The images that networks are measured on, by subset."""
        split = self.settings.sampling.split
        return {name: measured_images(getattr(task.data, split), self.settings) for name, task in self.tasks.items()}

    def probe(self, subset: str, size: int) -> torch.Tensor:
        """A batch to time networks with."""
        images = self._evaluated[subset]
        return images.batch(range(min(size, len(images))))[0]

    def result(self, cell: CompareCell, keep: dict[str, Compressed] | None = None) -> Result:
        """All that a cell gives: networks measured, accuracy by class, kept channels by layer, units that went.

        Args:
            cell: which.
            keep: when given, filled with the network at the smallest budget, under the criterion's text.
        """
        task = self.tasks[cell.subset_name]
        begin, retraining = time.perf_counter(), 0.0
        found = _Found(self.settings.targets.kind)
        for network in self._networks(cell, task):
            found.add(cell, network, self._row(cell, network, finetuned=False))
            last = network.compressed
            if self._retrains(cell, network.share):
                before = time.perf_counter()
                images = self._training_images(task, cell.seed)
                start = time.perf_counter()
                tuned = self._tuned(cell, task, network, images)
                seconds = {**network.seconds, "retraining": time.perf_counter() - start}
                again = replace(network, model=tuned, seconds=seconds)
                found.add(cell, again, self._row(cell, again, finetuned=True))
                retraining += time.perf_counter() - before
                last = None if last is None else replace(last, model=tuned)
            if keep is not None and last is not None:
                keep[cell.criterion] = last
        return found.result(time.perf_counter() - begin - retraining)

    def _networks(self, cell: CompareCell, task: Task) -> Iterator[_Network]:
        if cell.criterion == UNPRUNED:
            return iter([_Network(1.0, task.model, WHOLE_COST, {})])
        return self._structured(cell, task) if cell.structured else self._unstructured(cell, task)

    def _structured(self, cell: CompareCell, task: Task) -> Iterator[_Network]:
        settings, variant = self.settings, cell.variant
        assert variant is not None
        model, structure = task.model, task.structure
        reference = task.reference(settings.sampling.per_class, cell.seed)
        name, parameters = parse(cell.criterion)
        criterion = get(name, **parameters).seeded(cell.seed)  # chance is another one for each seed
        if cell.scored_on == "all":
            criterion = task.blind(criterion, settings.sampling.per_class, cell.seed)
        if settings.targets.kind == "ratio":
            shares = sorted(settings.targets.budgets)
            found = prune_to_ratios(
                model, reference, shares, criterion, variant, structure=structure, train=task.data.train
            )
        else:
            shares = sorted(settings.targets.budgets, reverse=True)
            budgets = [Budget.of(settings.targets.kind, share) for share in shares]
            found = prune_to_budgets(
                model, reference, budgets, criterion, variant, structure=structure, train=task.data.train,
                val=task.data.val, finetune=self.finetune,
            )  # fmt: skip
        for share, result in zip(shares, found, strict=True):
            layers = structure.kept_per_layer(result.plan.keep(structure))
            yield _Network(share, result.model, result.plan.achieved, result.seconds, result, layers=list(layers))

    def _unstructured(self, cell: CompareCell, task: Task) -> Iterator[_Network]:
        """Masked weights: as many stay as the budget says, and nothing gets smaller or faster."""
        begin = time.perf_counter()
        reference = task.reference(self.settings.sampling.per_class, cell.seed)
        scores = weight_scores(task.model, reference, cell.criterion, cell.seed)
        scoring = time.perf_counter() - begin
        ratio = self.settings.targets.kind == "ratio"
        for share in sorted(self.settings.targets.budgets, reverse=not ratio):
            begin = time.perf_counter()
            mask = weight_mask(scores, 1 - share if ratio else share)
            masked = mask.applied_to(task.model)
            seconds = {"scoring": scoring, "surgery": time.perf_counter() - begin}
            yield _Network(share, masked, WHOLE_COST, seconds, weights=mask.share, mask=mask)

    def _retrains(self, cell: CompareCell, share: float) -> bool:
        if self.finetune is None or not self.finetune.epochs:
            return False
        chosen = self.settings.retraining.budgets
        if cell.criterion == UNPRUNED:
            return False
        if cell.variant is None:
            return self.settings.retraining.unstructured and (chosen is None or share in chosen)
        if cell.published and not self.settings.retraining.published:
            return False
        return cell.variant.schedule != "iterative" and (chosen is None or share in chosen)

    def _tuned(self, cell: CompareCell, task: Task, network: _Network, images: LabelledImages) -> nn.Module:
        assert self.finetune is not None
        settings = self.finetune.model_copy(update={"seed": cell.seed})
        tuned = copy.deepcopy(network.model)
        # early stopping looks at it, too
        val = task.data.val if settings.keep == "best" or settings.patience is not None else None
        teacher = teacher_of(task.model, tuned, images, val, settings, mask=network.mask)
        fit(tuned, images, val, settings, teacher=teacher, weight_mask=network.mask)
        return tuned.to(next(network.model.parameters()).device)  # training ends on the CPU

    def _training_images(self, task: Task, seed: int) -> LabelledImages:
        """Chosen once for each subset and seed: all criteria retrain on the same images."""
        if (task.name, seed) not in self._chosen:
            count, images = self.settings.retraining.images, task.data.train
            each = self.settings.retraining.images_per_class
            if each is not None and self.settings.retraining.choice == "chance":
                images = _of_each_class(images, each, "finetune", derive_seed(seed, "images"))
            elif each is not None:
                count = each * len(np.unique(images.labels))
            if count is not None and count < len(images):
                if self.settings.retraining.choice == "chance":
                    images = images.subset(drawn(len(images), count, "finetune", derive_seed(seed, "images")))
                else:
                    logits = _logits(task.model, images)
                    images = images.subset(closest_subset(logits, images.labels, count, seed))
            self._chosen[task.name, seed] = images
        return self._chosen[task.name, seed]

    @cached_property
    def _chosen(self) -> dict[tuple[str, int], LabelledImages]:
        return {}

    def _row(self, cell: CompareCell, network: _Network, finetuned: bool) -> Row:
        task = self.tasks[cell.subset_name]
        begin = time.perf_counter()
        found = evaluate(network.model, loader(self._evaluated[task.name]), class_names=task.data.class_names)
        return coordinates_of(cell) | {
            "dataset": self.data.name,
            "classes": "" if task.classes is None else ";".join(task.class_names),
            "structured": cell.structured,
            "budget_kind": self.settings.targets.kind,
            "budget": network.share,
            "weights": network.weights,
            **{kind: float(network.achieved[kind]) for kind in WHOLE_COST},
            "accuracy": found.accuracy,
            "balanced_accuracy": found.balanced_accuracy,
            "loss": found.loss,
            "samples": found.samples,
            "size_bytes": found.size_bytes,
            "finetuned": finetuned,
            **{f"{what}_s": seconds for what, seconds in network.seconds.items()},
            "evaluation_s": time.perf_counter() - begin,
            "per_class": found.per_class,
        }


class _Found:
    """Rows of all tables, as networks are measured.

    Args:
        kind: of the budgets.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._rows: dict[str, list[Row]] = {"measured": [], "classes": [], "layers": [], "plans": []}

    def add(self, cell: CompareCell, network: _Network, row: Row) -> None:
        """A network and what was measured."""
        per_class = row.pop("per_class")
        self._rows["measured"].append(row)
        keys = coordinates_of(cell) | {"budget_kind": self._kind, "budget": network.share}
        stage = keys | {"finetuned": row["finetuned"]}
        self._rows["classes"] += [stage | {"class": name, "accuracy": value} for name, value in per_class.items()]
        if network.compressed is not None and not row["finetuned"]:
            self._rows["layers"] += [
                stage | {"layer": name, "kept": kept, "removed": total - kept, "total": total}
                for name, kept, total in network.layers
            ]
            removed = {name: list(units) for name, units in network.compressed.plan.removed.items()}
            self._rows["plans"].append(keys | {"removed": json.dumps(removed)})

    def result(self, seconds: float) -> Result:
        """All rows; ``seconds``: of the cell, without retraining."""
        measured = [
            {name: row.get(name) for name in MEASURED.names} | {"part_s": seconds} for row in self._rows["measured"]
        ]
        return Result(self._rows | {"measured": measured})


def measured_images(images: LabelledImages, settings: CompareSettings) -> LabelledImages:
    """The images of a split that networks are measured on."""
    if settings.sampling.limit_per_class is not None:
        return _of_each_class(images, settings.sampling.limit_per_class, "compare", settings.sampling.split)
    return images.subset(drawn(len(images), settings.sampling.limit, "compare", settings.sampling.split))


def _of_each_class(images: LabelledImages, count: int, *purpose: object) -> LabelledImages:
    """At most ``count`` images of each class, drawn by chance; of a class the same ones in every subset of classes."""
    chosen = []
    for label in np.unique(images.labels):
        where = np.flatnonzero(images.labels == label)
        chosen.append(where[drawn(len(where), count, *purpose, images.class_names[label])])
    return images.subset(np.sort(np.concatenate(chosen)))


def _logits(model: nn.Module, images: LabelledImages) -> np.ndarray:
    place = next(model.parameters()).device
    with borrowed(model), torch.inference_mode():
        found = [model(inputs.to(place)).float().cpu() for inputs, _ in loader(images.replace(augmentation=None))]
    return torch.cat(found).numpy()
