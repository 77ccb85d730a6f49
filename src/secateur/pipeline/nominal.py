"""Pruning to nominal ratios, as published tables count them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn
from torch.utils.data import Dataset

from secateur.core.errors import RequestError
from secateur.core.progress import ProgressOption, reported, track
from secateur.criteria import Criterion, get, score
from secateur.data import ReferenceSet
from secateur.pipeline.compression import traced_for
from secateur.pipeline.repair import Repair
from secateur.pipeline.schedules import Clock
from secateur.pipeline.settings import Compressed, PruneSettings, Step
from secateur.selection import select_nominal
from secateur.selection.names import AUTO
from secateur.structure import Structure
from secateur.surgery import prune


@reported("pruning")
def prune_to_ratios(
    model: nn.Module,
    reference: ReferenceSet,
    ratios: Sequence[float],
    criterion: str | Criterion = "lrp",
    settings: PruneSettings | None = None,
    *,
    structure: Structure | None = None,
    train: Dataset[Any] | None = None,
    progress: ProgressOption = True,
) -> Iterator[Compressed]:
    """Networks for several nominal ratios from one scoring pass, in the order asked for.

    Args:
        model: any network; it is not changed.
        reference: labelled samples for the criterion.
        ratios: shares of units to remove, in (0, 1); see `secateur.selection.select_nominal`. Each
            plan's ``achieved`` says what they save.
        criterion: name or object.
        settings: settings of a one-shot schedule; by default as published, per layer.
        structure: structure of the model, if it was traced already.
        train: images for a refit on training images.
        progress: how progress is reported, see `secateur.core.progress.ProgressOption`.

    Raises:
        RequestError: for other schedules or orders, or as `secateur.selection.select_nominal`.
    """
    settings = PruneSettings.published(strategy="per-layer") if settings is None else settings
    if settings.schedule != "one-shot" or settings.order != "least" or settings.round_to != 1:
        raise RequestError(
            "nominal ratios need schedule one-shot, order least and round_to 1; set these, or give a budget in MACs"
        )
    strategy = "per-layer" if settings.strategy == AUTO else settings.strategy  # ratios count units, not costs
    chosen = get(criterion)
    structure = structure or traced_for(model, reference, settings)
    clock, repair = Clock(), Repair.of(settings, reference, train)
    with clock("scoring"):
        scores = score(model, structure, reference, chosen, centred=settings.centred, batch_size=settings.batch_size)
    for ratio in track(ratios, f"pruning by {chosen.name}"):
        with clock("surgery", anew=True):
            plan = select_nominal(
                scores,
                ratio,
                strategy,
                min_keep=settings.min_keep,
                max_remove=settings.max_remove,
                protect=settings.protected(structure),
                nothing=True,  # small ratios of a list may remove nothing; the others are still computed
            )
            slim = prune(model, plan)
            fits = repair(slim, model, plan)
        yield Compressed(slim, plan, (Step(ratio, dict(plan.achieved)),), clock.seconds(), fits=fits)
