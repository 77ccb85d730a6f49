"""Pruning to one or several budgets: one-shot, re-scored, or iterative with fine-tuning."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch import nn
from torch.utils.data import Dataset

from secateur.core.errors import RequestError
from secateur.core.modules import check_module
from secateur.core.progress import ProgressOption, reported
from secateur.core.ranks import ranks
from secateur.criteria import Criterion, get
from secateur.criteria.scores import check_reference
from secateur.data import ReferenceSet
from secateur.pipeline.latency import LatencyGoal, latency_model
from secateur.pipeline.repair import Repair
from secateur.pipeline.schedules import iterative, one_shot, rescored
from secateur.pipeline.settings import Compressed, PruneSettings
from secateur.selection import Budget
from secateur.selection.budget import check_budget
from secateur.structure import Structure, trace
from secateur.training import Epoch, TrainSettings


@reported("compressing")
def compress(
    model: nn.Module,
    reference: ReferenceSet,
    budget: Budget,
    criterion: str | Criterion = "lrp",
    settings: PruneSettings | None = None,
    *,
    train: Dataset[Any] | None = None,
    val: Dataset[Any] | None = None,
    finetune: TrainSettings | None = None,
    progress: ProgressOption = True,
) -> Compressed:
    """Prune a network to a budget by the default recipe.

    Args:
        model: any network; it is not changed.
        reference: labelled samples for the criterion; the first one is the example input.
        budget: the share that stays.
        criterion: name or object.
        settings: see `PruneSettings`.
        train: images for fine-tuning, and for a refit on training images.
        val: images for selecting the best epoch.
        finetune: training between the steps of an iterative schedule (needs ``train``).
        progress: how progress is reported, see `secateur.core.progress.ProgressOption`.

    Returns:
        ``.model``, ``.plan``, ``.history``.

    Raises:
        RequestError: see `secateur.select` and `secateur.trace`.
    """
    return next(
        iter(prune_to_budgets(model, reference, [budget], criterion, settings, train=train, val=val, finetune=finetune))
    )


def traced_for(model: nn.Module, reference: ReferenceSet, settings: PruneSettings) -> Structure:
    """The structure of a network, traced on the first reference sample with these settings."""
    example = reference.inputs[:1]
    device = next((p.device for p in model.parameters()), example.device)
    return trace(model, example.to(device), stream=settings.stream)


def check_timed_alone(kind: str, settings: PruneSettings) -> None:
    """Refuse settings that depend on measured times on several ranks, each of which would measure other times.

    Args:
        kind: kind of the budget.
        settings: settings of pruning.

    Raises:
        RequestError: for a latency budget, or sizes rounded by measured times, on several ranks.
    """
    if kind == "latency":
        ranks().check_alone("pruning to a measured latency")
    if settings.round_to == "auto":
        ranks().check_alone("prune.round_to=auto, which measures times,")


@reported("pruning")
def prune_to_budgets(
    model: nn.Module,
    reference: ReferenceSet,
    budgets: Sequence[Budget],
    criterion: str | Criterion = "lrp",
    settings: PruneSettings | None = None,
    *,
    structure: Structure | None = None,
    train: Dataset[Any] | None = None,
    val: Dataset[Any] | None = None,
    finetune: TrainSettings | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    progress: ProgressOption = True,
) -> Iterator[Compressed]:
    """Networks for several budgets from one run, largest budget first.

    One-shot schedules score once, and select the plan of each budget independently. The others proceed from budget to
    budget, and each plan contains the one before. All budgets are of one kind.

    With several ranks (`secateur.core.ranks.launched`), each scores and repairs on its share of the samples; all
    select the same plans and get the same networks.

    Networks for latency budgets are timed in turn with the original (eval mode, ``latency_batch`` reference samples,
    ``latency_threads``), and the request is corrected until it is met within 5 %, or rounds bring no closer result;
    ``plan.achieved["latency"]`` is the measured share, `Compressed.latency` holds its interval. Latencies of
    intermediate steps are predicted.

    Args:
        model: see `compress`.
        reference: see `compress`.
        budgets: shares that stay.
        criterion: see `compress`.
        settings: see `compress`.
        structure: structure of the model, if it was traced already.
        train: see `compress`.
        val: see `compress`.
        finetune: see `compress`.
        on_epoch: called with each finished epoch of an iterative schedule; indices continue from step to step.
        progress: see `compress`; nothing is shown while the caller works with a network that this function yields.
    """
    settings = PruneSettings() if settings is None else settings
    check_module(model)
    check_reference(reference)
    if not isinstance(settings, PruneSettings):
        raise RequestError(f"settings must be a secateur.PruneSettings, got {type(settings).__name__}")
    for budget in budgets:
        check_budget(budget)
    chosen = get(criterion)
    if not budgets or len({b.kind for b in budgets}) != 1:
        raise RequestError("give at least one budget, all of one kind")
    ordered = sorted(budgets, key=lambda b: -b.share)
    check_timed_alone(ordered[0].kind, settings)
    structure = structure or traced_for(model, reference, settings)
    goal = LatencyGoal(model, structure, reference, settings) if ordered[0].kind == "latency" else None
    if settings.round_to == "auto":
        times = latency_model(model, structure, settings) if goal is None else goal.predicted
        settings = settings.model_copy(update={"round_to": times.round_to()})
    runner = {"one-shot": one_shot, "rescored": rescored, "iterative": iterative}[settings.schedule]
    settings = settings.of(chosen, structure)
    if settings.schedule == "iterative" and (train is None or finetune is None or not finetune.epochs):
        raise RequestError("an iterative schedule needs training images and fine-tuning of at least one epoch per step")
    repair = Repair.of(settings, reference, train)
    asked = (model, structure, reference, ordered, chosen, settings, goal, repair)
    for found in runner(*asked, train, val, finetune, on_epoch):
        yield replace(found, structure=structure, latency=None if goal is None else goal.reached)
