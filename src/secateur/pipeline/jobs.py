"""The work of commands in two steps: everything that can be checked is checked, then it is done.

Creating a job opens data and network and checks the whole request; a dry run stops there and describes the work.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from secateur.core.errors import RequestError
from secateur.core.figures import count
from secateur.core.ranks import ranks
from secateur.criteria import Criterion, Scores, get
from secateur.criteria.samples import first_balanced
from secateur.data import LabelledImages, ReferenceSet, loader
from secateur.evaluation import Evaluation, compare_latency, evaluate, measure_latency, measure_memory
from secateur.pipeline.compression import check_timed_alone, prune_to_budgets
from secateur.pipeline.estimate import TRAINING, Estimate, duration, forward_seconds, removal_seconds, scoring_seconds
from secateur.pipeline.latency import latency_model
from secateur.pipeline.recipe import Recipe
from secateur.pipeline.requests import untrained_error
from secateur.pipeline.run import Prepared, check_classes, prepare
from secateur.pipeline.schedules import targets
from secateur.pipeline.settings import Compressed, PruneSettings
from secateur.pipeline.tracked import log_measured
from secateur.pipeline.unstructured import teacher_of
from secateur.selection import Budget, select
from secateur.selection.caps import Caps
from secateur.selection.names import AUTO
from secateur.structure import Structure, trace
from secateur.tracking import Tracking
from secateur.training import TrainingHistory, curves, fit

LATENCY_IMAGES = 64
"""Number of images in the batch on which latency is measured."""


class Job(Protocol):
    """A checked request."""

    @property
    def prepared(self) -> Prepared:
        """Data and network of the job."""

    def description(self) -> list[str]:
        """What the job would do, one line for each step."""

    def estimate(self) -> Estimate:
        """How long the job would take."""


def opened(recipe: Recipe, *, trained: bool = True) -> Prepared:
    """Data and network of a recipe, matched to each other.

    Args:
        recipe: the request.
        trained: refuse random weights, unless the recipe allows them.

    Raises:
        RequestError: for data and network that do not fit together, or random weights.
    """
    prepared = prepare(recipe)
    check_classes(prepared)
    if trained and not prepared.trained and not recipe.model.allow_untrained:
        raise untrained_error(recipe.model.name, prepared.new_head)
    prepared.model.to(prepared.device)
    return prepared


def subject(prepared: Prepared) -> str:
    """Data and device in one line."""
    data = prepared.data
    sizes = ", ".join(f"{len(getattr(data, split)):,} {split}" for split in ("train", "val", "test"))
    return f"data: '{data.name}' with {len(data.class_names)} classes ({sizes} images); device: {prepared.device}"


@dataclass(frozen=True, eq=False)
class TrainJob:
    """A network to be trained."""

    prepared: Prepared

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        """Check a request for training."""
        return cls(opened(recipe, trained=False))

    def description(self) -> list[str]:
        """See `Job.description`."""
        recipe, data = self.prepared.recipe, self.prepared.data
        return [
            subject(self.prepared),
            f"train {recipe.model.name} for {recipe.train.epochs} epochs of {len(data.train):,} images "
            f"in batches of {recipe.train.batch_size}, then measure it on {len(data.test):,} test images",
        ]

    def estimate(self) -> Estimate:
        """See `Job.estimate`."""
        prepared = self.prepared
        image = forward_seconds(prepared.model, prepared.data.test, prepared.device)
        return Estimate(
            training_seconds(prepared, prepared.recipe.train.epochs, image) + len(prepared.data.test) * image
        )

    def train(self, state_file: Path | None = None, tracking: Tracking | None = None) -> TrainingHistory:
        """Train in place."""
        prepared = self.prepared
        settings = prepared.recipe.train.model_copy(update={"device": str(prepared.device)})
        on_epoch = None if tracking is None else curves(tracking)
        return fit(prepared.model, prepared.data.train, prepared.data.val, settings, state_file, on_epoch=on_epoch)

    def run(
        self, state_file: Path | None = None, tracking: Tracking | None = None
    ) -> tuple[TrainingHistory, Evaluation]:
        """Train in place, and measure on the test images.

        Args:
            state_file: file from which interrupted training continues.
            tracking: logs each epoch and the measured figures.
        """
        history = self.train(state_file, tracking)
        evaluation = measured(self.prepared, self.prepared.data.test)
        if tracking is not None:
            log_measured(tracking, len(history.rows), {"trained": evaluation})
        return history, evaluation


def training_seconds(prepared: Prepared, epochs: int, image: float) -> float:
    """Seconds of training, where a forward pass takes ``image`` seconds per image."""
    return epochs * image * (TRAINING * len(prepared.data.train) + len(prepared.data.val))


def measured(prepared: Prepared, images: LabelledImages) -> Evaluation:
    """Accuracy and cost of the network, with its latency and peak memory on a batch, which rank 0 alone measures."""
    model = prepared.model.to(prepared.device)
    evaluation = evaluate(model, loader(images), class_names=prepared.data.class_names, device=prepared.device)
    probe = images.batch(range(min(LATENCY_IMAGES, len(images))))[0]
    model.to(prepared.device)
    latency, memory = ranks().once(lambda: (measure_latency([model], probe)[0], measure_memory(model, probe)))
    return replace(evaluation, latency=latency, memory=memory)


@dataclass(frozen=True, eq=False)
class EvaluateJob:
    """A network to be measured on one split."""

    prepared: Prepared
    split: str

    @classmethod
    def of(cls, recipe: Recipe, split: str) -> Self:
        """Check a request for measuring."""
        job = cls(opened(recipe, trained=False), split)
        if not len(job.images):
            raise RequestError(f"the {split} split of '{job.prepared.data.name}' has no images; choose another one")
        return job

    @property
    def images(self) -> LabelledImages:
        """Images of the split, without augmentation."""
        split: LabelledImages = getattr(self.prepared.data, self.split)
        return split.replace(augmentation=None)

    def description(self) -> list[str]:
        """See `Job.description`."""
        name = self.prepared.recipe.model.name
        return [
            subject(self.prepared),
            f"measure {name} on {len(self.images):,} {self.split} images, its latency and memory",
        ]

    def estimate(self) -> Estimate:
        """See `Job.estimate`."""
        return Estimate(forward_seconds(self.prepared.model, self.images, self.prepared.device) * len(self.images))

    def run(self) -> Evaluation:
        """Measure."""
        return measured(self.prepared, self.images)


@dataclass(frozen=True, eq=False)
class PruneRun:
    """One network pruned to one budget, with the figures measured before and after."""

    compressed: Compressed
    before: Evaluation
    pruned: Evaluation
    tuned: Evaluation | None

    @property
    def after(self) -> Evaluation:
        """The evaluation of the network that is kept."""
        return self.tuned or self.pruned


_REPORT = 7.0
"""Approximate seconds for timing both networks in turn, their memory, heatmaps, bundle and page."""


@dataclass(frozen=True, eq=False)
class PruneJob:
    """A network to be pruned to one budget.

    Attributes:
        prepared: data and network.
        structure: structure of the network.
        reference: samples for the criterion.
        criterion: the criterion that scores the units.
        budget: the share that stays.
    """

    prepared: Prepared
    structure: Structure
    reference: ReferenceSet
    criterion: Criterion
    budget: Budget

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        """Check a request for pruning; whether the budget can be reached is found by tracing the network.

        Raises:
            RequestError: for anything that would stop the work.
        """
        check_timed_alone(recipe.budget.kind, recipe.prune)
        prepared = opened(recipe)
        data, asked = prepared.data, recipe.reference
        images = getattr(data, asked.split)
        if asked.samples is None:
            reference = ReferenceSet.sample(images, asked.per_class, asked.seed, asked.classes)
        else:
            reference = ReferenceSet.read(asked.samples, images)
        criterion = get(recipe.criterion.name, **recipe.criterion.parameters)
        first_balanced(reference, criterion.asks_for, criterion.name)
        example = data.test.batch([0])[0].to(prepared.device)
        structure = trace(prepared.model, example, stream=recipe.prune.stream)
        budget = Budget.of(recipe.budget.kind, recipe.budget.share)
        check_budget(prepared, structure, budget, recipe.prune)
        return cls(prepared, structure, reference, criterion, budget)

    @property
    def scorings(self) -> int:
        """Number of scorings."""
        settings = self.prepared.recipe.prune
        return 1 if settings.schedule == "one-shot" else len(list(targets([self.budget], settings.step)))

    def description(self) -> list[str]:
        """See `Job.description`."""
        recipe, data, cost = self.prepared.recipe, self.prepared.data, self.structure.cost()
        settings, epochs = recipe.prune, recipe.finetune.epochs
        lines = [
            subject(self.prepared),
            f"network: {recipe.model.name}, {cost.params:,} parameters, {count(cost.macs)} MACs, "
            f"{self.structure.num_units:,} removable units in {len(self.structure.groups)} groups",
            f"prune to {self.budget.share:.0%} of its {self.budget.kind} by {recipe.criterion.name}: "
            f"{self.scorings} scoring(s) on {len(self.reference)} {recipe.reference.split} images, {settings.label}",
        ]
        if epochs:
            each = " after each step" if settings.schedule == "iterative" else ""
            lines.append(f"fine-tune for {epochs} epochs of {len(data.train):,} images{each}")
        measured_on = f"{len(data.test):,} test images"
        return [*lines, f"measure on {measured_on} before and after, write a bundle and a report"]

    def estimate(self) -> Estimate:
        """See `Job.estimate`."""
        prepared, recipe = self.prepared, self.prepared.recipe
        image = forward_seconds(prepared.model, prepared.data.test, prepared.device)
        scoring = scoring_seconds(
            prepared.model, self.structure, self.reference, self.criterion, recipe.prune.batch_size
        )
        if scoring is None:
            return Estimate(None)
        removal = removal_seconds(recipe.prune, self.scorings, scoring, image, len(self.reference))
        test = (3 if recipe.finetune.epochs else 2) * image * len(prepared.data.test)
        rounds = self.scorings if recipe.prune.schedule == "iterative" else 1
        tuning = rounds * training_seconds(prepared, recipe.finetune.epochs, image)
        distillation = recipe.finetune.distillation
        tuning *= 2 if distillation is not None and distillation.teacher == "masked" else 1
        parts = [f"removal {duration(removal)}", f"measuring {duration(test)}"]
        parts += [f"fine-tuning {duration(tuning)}"] if tuning else []
        parts += [f"timing and report {duration(_REPORT)}"]
        return Estimate(removal + test + tuning + _REPORT, tuple(parts))

    def run(self, folder: Path | None = None, tracking: Tracking | None = None) -> PruneRun:
        """Prune, fine-tune where the recipe has epochs for it, and measure.

        Args:
            folder: interrupted fine-tuning continues from a state kept there under the plan's hash.
            tracking: logs each epoch of fine-tuning and the measured figures.
        """
        prepared, recipe, model = self.prepared, self.prepared.recipe, self.prepared.model
        data, device = prepared.data, prepared.device
        finetune = recipe.finetune.model_copy(update={"device": str(device)})

        def tested(network: object) -> Evaluation:
            return evaluate(network, loader(data.test), class_names=data.class_names, device=device)  # type: ignore[arg-type]

        on_epoch = None if tracking is None else curves(tracking)
        before = tested(model)
        compressed = next(
            iter(
                prune_to_budgets(
                    model.to(device),
                    self.reference,
                    [self.budget],
                    self.criterion,
                    recipe.prune,
                    structure=self.structure,
                    train=data.train,
                    val=data.val,
                    finetune=finetune,
                    on_epoch=on_epoch,
                )
            )
        )
        slim = compressed.model.to(device)
        pruned, tuned = tested(slim), None
        if finetune.epochs and recipe.prune.schedule != "iterative":
            states = [
                None if folder is None else folder / f"{name}-{compressed.plan.digest}.state"
                for name in ("finetune", "teacher")
            ]
            model.to("cpu")  # its memory on a GPU is wanted for training; a teacher is a copy
            teacher = teacher_of(model, slim, data.train, data.val, finetune, state_file=states[1])
            fit(slim, data.train, data.val, finetune, states[0], teacher=teacher, on_epoch=on_epoch)
            model.to(device)
            tuned = tested(slim)
            slim.to(device)
            for state in states:
                if state is not None and ranks().main:
                    state.unlink(missing_ok=True)
        probe = data.test.batch(range(min(LATENCY_IMAGES, len(data.test))))[0]
        if compressed.latency is None:
            old, new = ranks().once(lambda: compare_latency(model, slim, probe))
        else:  # for a latency budget, the measurement by which it was met is reported
            old, new = compressed.latency
        full, less = ranks().once(lambda: (measure_memory(model, probe), measure_memory(slim, probe)))
        model.to("cpu")
        slim.to("cpu")
        run = PruneRun(
            compressed,
            replace(before, latency=old, memory=full),
            replace(pruned, latency=new, memory=less),
            None if tuned is None else replace(tuned, latency=new, memory=less),
        )
        if tracking is not None:
            stages = {"unpruned": run.before, "pruned": run.pruned, "fine-tuned": run.tuned}
            rounds = len(compressed.history) if recipe.prune.schedule == "iterative" else 1
            log_measured(tracking, rounds * finetune.epochs, {k: v for k, v in stages.items() if v is not None})
        return run


def check_budget(prepared: Prepared, structure: Structure, budget: Budget, settings: PruneSettings) -> None:
    """Try the budget with arbitrary scores, which decide which units are removed, but not how many must stay.

    Whether a latency can be reached is known only after measurements: for it, only names of layers are checked. The
    same holds for numbers of units, and for steps with caps.

    Raises:
        RequestError: for a budget that cannot be reached, or unknown layers to protect or to cap.
    """
    for name in settings.protect:
        structure.group(name)
    Caps.of(structure, settings.max_remove)
    sure = settings.schedule == "one-shot" and (budget.kind == "units" or isinstance(settings.max_remove, dict))
    if budget.kind == "latency":
        return
    latency = latency_model(prepared.model, structure, settings) if settings.round_to == "auto" else None
    select(
        Scores(structure, np.arange(structure.num_units, dtype=np.float64), "any"),
        budget,
        "per-layer" if settings.strategy == AUTO else settings.strategy,  # the smallest possible share is the same
        order=settings.order,
        min_keep=settings.min_keep,
        max_remove=settings.max_remove if sure else None,
        round_to=settings.round_to,
        protect=settings.protected(structure),
        latency=latency,
    )
