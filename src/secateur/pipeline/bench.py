"""One part of a comparison: a criterion's networks for all budgets, on one subset and seed, measured."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from secateur.core.borrowing import borrowed
from secateur.core.randomness import derive_seed
from secateur.criteria import get, parse
from secateur.data import ImageData, LabelledImages, closest_subset, loader
from secateur.evaluation import evaluate
from secateur.pipeline.compare_settings import CompareSettings
from secateur.pipeline.comparison import Part, Row, row_of
from secateur.pipeline.compression import prune_to_budgets
from secateur.pipeline.nominal import prune_to_ratios
from secateur.pipeline.settings import Compressed
from secateur.pipeline.tasks import Task, drawn, make_tasks
from secateur.pipeline.unstructured import teacher_of, weight_mask, weight_scores
from secateur.selection import Budget
from secateur.training import TrainSettings, WeightMask, fit

WHOLE_COST = {"units": 1.0, "params": 1.0, "macs": 1.0}


@dataclass(frozen=True, eq=False)
class _Network:
    """What is measured: a network for one budget, with what it cost and more columns of its row."""

    share: float
    model: nn.Module
    achieved: Mapping[str, float]
    seconds: Mapping[str, float]
    columns: dict[str, Any] = field(default_factory=dict)
    compressed: Compressed | None = None
    mask: WeightMask | None = None


@dataclass(eq=False)
class Bench:
    """A network, its data and what to do with them; each part is worked out on its own, the same in any process.

    Attributes:
        model: trained, for all classes.
        data: likewise.
        settings: what to compare.
        finetune: retraining; None: none.
        model_name: for the table.
        stream: let channels go that norms run over.
    """

    model: nn.Module
    data: ImageData
    settings: CompareSettings
    finetune: TrainSettings | None
    model_name: str
    stream: bool = False

    @cached_property
    def tasks(self) -> dict[str, Task]:
        """By name of the subset."""
        found = make_tasks(self.model, self.data, self.settings.subsets, self.settings.replace_head, self.stream)
        return {task.name: task for task in found}

    @cached_property
    def _evaluated(self) -> dict[str, LabelledImages]:
        """The images that networks are measured on, by subset."""
        split = self.settings.split
        return {name: measured_images(getattr(task.data, split), self.settings) for name, task in self.tasks.items()}

    def probe(self, subset: str, size: int) -> torch.Tensor:
        """A batch to time networks with."""
        images = self._evaluated[subset]
        return images.batch(range(min(size, len(images))))[0]

    def baseline(self, subset: str) -> Row:
        """The unpruned network."""
        part = Part(None, subset, "none", 0)
        return self._row(part, _Network(1.0, self.tasks[subset].model, WHOLE_COST, {}), finetuned=False)

    def rows(self, part: Part, keep: dict[str, Compressed] | None = None) -> list[Row]:
        """All rows of a part.

        Args:
            part: which.
            keep: when given, filled with the network at the smallest budget, under the criterion's text.
        """
        task = self.tasks[part.subset]
        begin, retraining = time.perf_counter(), 0.0
        found: list[Row] = []
        for network in self._structured(part, task) if part.structured else self._unstructured(part, task):
            found.append(self._row(part, network, finetuned=False))
            last = network.compressed
            if self._retrains(part, network.share):
                before = time.perf_counter()
                images = self._training_images(task, part.seed)
                start = time.perf_counter()
                tuned = self._tuned(part, task, network, images)
                seconds = {**network.seconds, "retraining": time.perf_counter() - start}
                found.append(self._row(part, replace(network, model=tuned, seconds=seconds), finetuned=True))
                retraining += time.perf_counter() - before
                last = None if last is None else replace(last, model=tuned)
            if keep is not None and last is not None:
                keep[part.criterion] = last
        total = time.perf_counter() - begin - retraining
        return [row | {"part_s": total} for row in found]

    def _structured(self, part: Part, task: Task) -> Iterator[_Network]:
        settings, variant = self.settings, part.variant
        assert variant is not None
        model, structure = task.model, task.structure
        reference = task.reference(settings.per_class, part.seed)
        name, parameters = parse(part.criterion)
        criterion = get(name, **parameters).seeded(part.seed)  # chance is another one for each seed
        if part.scored_on == "all":
            criterion = task.blind(criterion, settings.per_class, part.seed)
        if settings.kind == "ratio":
            shares = sorted(settings.budgets)
            found = prune_to_ratios(model, reference, shares, criterion, variant, structure=structure)
        else:
            shares = sorted(settings.budgets, reverse=True)
            budgets = [Budget.of(settings.kind, share) for share in shares]
            found = prune_to_budgets(
                model, reference, budgets, criterion, variant, structure=structure, train=task.data.train,
                val=task.data.val, finetune=self.finetune,
            )  # fmt: skip
        for share, result in zip(shares, found, strict=True):
            columns = {
                "layers": structure.kept_per_layer(result.plan.keep(structure)),
                "removed": {name: list(units) for name, units in result.plan.removed.items()},
            }
            yield _Network(share, result.model, result.plan.achieved, result.seconds, columns, result)

    def _unstructured(self, part: Part, task: Task) -> Iterator[_Network]:
        """Masked weights: as many stay as the budget says, and nothing gets smaller or faster."""
        begin = time.perf_counter()
        reference = task.reference(self.settings.per_class, part.seed)
        scores = weight_scores(task.model, reference, part.criterion, part.seed)
        scoring = time.perf_counter() - begin
        ratio = self.settings.kind == "ratio"
        for share in sorted(self.settings.budgets, reverse=not ratio):
            begin = time.perf_counter()
            mask = weight_mask(scores, 1 - share if ratio else share)
            masked = mask.applied_to(task.model)
            seconds = {"scoring": scoring, "surgery": time.perf_counter() - begin}
            yield _Network(share, masked, WHOLE_COST, seconds, {"weights": mask.share}, mask=mask)

    def _retrains(self, part: Part, share: float) -> bool:
        if self.finetune is None or not self.finetune.epochs:
            return False
        chosen = self.settings.finetune_budgets
        if part.variant is None:
            return self.settings.finetune_unstructured and (chosen is None or share in chosen)
        if part.published and not self.settings.finetune_published:
            return False
        return part.variant.schedule != "iterative" and (chosen is None or share in chosen)

    def _tuned(self, part: Part, task: Task, network: _Network, images: LabelledImages) -> nn.Module:
        assert self.finetune is not None
        settings = self.finetune.model_copy(update={"seed": part.seed})
        tuned = copy.deepcopy(network.model)
        # early stopping looks at it, too
        val = task.data.val if settings.keep == "best" or settings.patience is not None else None
        teacher = teacher_of(task.model, tuned, images, val, settings, mask=network.mask)
        fit(tuned, images, val, settings, teacher=teacher, weight_mask=network.mask)
        return tuned.to(next(network.model.parameters()).device)  # training ends on the CPU

    def _training_images(self, task: Task, seed: int) -> LabelledImages:
        """Chosen once for each subset and seed: all criteria retrain on the same images."""
        if (task.name, seed) not in self._chosen:
            count, images = self.settings.finetune_images, task.data.train
            each = self.settings.finetune_images_per_class
            if each is not None and self.settings.finetune_choice == "chance":
                images = _of_each_class(images, each, "finetune", derive_seed(seed, "images"))
            elif each is not None:
                count = each * len(np.unique(images.labels))
            if count is not None and count < len(images):
                if self.settings.finetune_choice == "chance":
                    images = images.subset(drawn(len(images), count, "finetune", derive_seed(seed, "images")))
                else:
                    logits = _logits(task.model, images)
                    images = images.subset(closest_subset(logits, images.labels, count, seed))
            self._chosen[task.name, seed] = images
        return self._chosen[task.name, seed]

    @cached_property
    def _chosen(self) -> dict[tuple[str, int], LabelledImages]:
        return {}

    def _row(self, part: Part, network: _Network, finetuned: bool) -> Row:
        task = self.tasks[part.subset]
        begin = time.perf_counter()
        found = evaluate(network.model, loader(self._evaluated[task.name]), class_names=task.data.class_names)
        columns = {
            "model": self.model_name,
            "dataset": self.data.name,
            "classes": "" if task.classes is None else ";".join(task.class_names),
            "budget_kind": self.settings.kind,
            "budget": network.share,
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
        return row_of(part, columns | network.columns)


def measured_images(images: LabelledImages, settings: CompareSettings) -> LabelledImages:
    """The images of a split that networks are measured on."""
    if settings.limit_per_class is not None:
        return _of_each_class(images, settings.limit_per_class, "compare", settings.split)
    return images.subset(drawn(len(images), settings.limit, "compare", settings.split))


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
