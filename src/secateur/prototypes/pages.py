"""Prototypes as pages: where they come from, what was pruned, what they say of images. Axes: H, W, C colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur import reports as rp
from secateur.data import LabelledImages
from secateur.models.prototype_network import PrototypeNetwork
from secateur.pipeline.pages import conditions, new_report
from secateur.prototypes.explanation import ImageExplanation, PrototypeEvidence, prototypes_used
from secateur.prototypes.explanation import PrototypeExplanations as Explained
from secateur.prototypes.nearest import NONE, NearestPatches, nearest_patches
from secateur.prototypes.numbers import prototype_numbers
from secateur.prototypes.pictures import (
    CROPPED_BY,
    NearPictures,
    boxed,
    class_called,
    cropping_kind,
    heatmaps,
    image_called,
    sides,
    source_crop,
)
from secateur.prototypes.pruning import PrunedPrototypes
from secateur.prototypes.records import BoxKind, Projection, PrototypeSource
from secateur.prototypes.relevance import COMPOSITE
from secateur.prototypes.selection import PrototypeDecision

if TYPE_CHECKING:
    from secateur.prototypes.jobs import ExplainPrototypesJob, ProjectJob, PrunePrototypesJob, TrainPrototypesJob

LARGE = 24
"""Prototypes that a gallery shows with their image and their nearest patches."""
SHOWN = 24
"""Images that a page explains."""
FIGURE = "figure.svg"
"""Name of the figure beside a page of explained images."""


def gallery(
    network: PrototypeNetwork,
    projection: Projection,
    train_images: LabelledImages,
    nearest: NearestPatches | None = None,
    decisions: Sequence[PrototypeDecision] | None = None,
    *,
    large: int = LARGE,
) -> rp.PrototypeGallery:
    """Every prototype with its crop, and some with their image, boxes and nearest patches: kept beside removed.

    Args:
        network: on which ``nearest`` was computed; before pruning, where ``decisions`` are given.
        projection: where the prototypes come from.
        train_images: that it was made on.
        nearest: patches of the training images, rows as the network's prototypes; None: none are shown.
        decisions: which stay; None: nothing was pruned.
        large: so many are shown with images; classes that lose most come first.

    Raises:
        RequestError: for images that cannot be shown.
    """
    plain = train_images.replace(augmentation=None)
    rows = {int(number): row for row, number in enumerate(prototype_numbers(network))}
    decided = {decision.number: decision for decision in decisions or ()}
    kind = cropping_kind(projection)
    sources = sorted(projection.sources, key=lambda source: (source.label, source.prototype))
    cards = []
    for source in sources:
        labels = _labels(nearest, rows.get(source.prototype), decided.get(source.prototype))
        cards.append(_card(source, plain, labels, decided.get(source.prototype), kind))
    chosen = _chosen(cards, large)
    if nearest is not None:
        work = NearPictures(network, plain, nearest, kind)
        for place, patches in work.of({p: rows[cards[p].number] for p in chosen if cards[p].number in rows}).items():
            cards[place] = replace(cards[place], nearest=patches)
    for place in chosen:
        cards[place] = replace(cards[place], image=boxed(plain, sources[place].patch.image, sources[place].boxes))
    return rp.PrototypeGallery(cards, kind or "")


def decisions(
    pruned: PrunedPrototypes,
    names: Sequence[str],
    projection: Projection | None = None,
    used: tuple[float, float] | None = None,
) -> rp.PrototypePruning:
    """What pruning did.

    Args:
        pruned: what came of it.
        names: of the classes.
        projection: before pruning, for duplicates.
        used: mean number of prototypes that a decision uses, before and after; None: not measured.
    """
    twins = {source.prototype: source.duplicate_of for source in projection.sources} if projection else {}
    counts = [len(pruned.decisions), *[len(pruned.kept)] * (len(pruned.measured) - 1)]
    after = list(pruned.measured)[-1]
    shares = {} if used is None else {next(iter(pruned.measured)): used[0], after: used[1]}
    stages = [
        rp.PrunedStage(name, count, found.accuracy, found.balanced_accuracy, found.params, found.macs, shares.get(name))
        for count, (name, found) in zip(counts, pruned.measured.items(), strict=True)
    ]
    rows = [
        rp.PrototypeDecisionRow(
            number=decision.number,
            class_name=class_called(names, decision.label),
            kept=decision.kept,
            reason=decision.reason,
            purity=decision.purity,
            score=decision.score,
            duplicate_of=twins.get(decision.number),
            nearest_classes=[class_called(names, label) for label in decision.nearest_labels],
        )
        for decision in sorted(pruned.decisions, key=lambda one: (one.label, one.number))
    ]
    samples = pruned.measured[after].samples
    return rp.PrototypePruning(stages, rows, pruned.nearest.images.shape[1], samples)


def local(
    explanations: Sequence[ImageExplanation],
    images: LabelledImages,
    projection: Projection | None,
    train_images: LabelledImages,
    *,
    network: PrototypeNetwork | None = None,
    titles: Sequence[str] = (),
    labelled: bool = True,
    most: int = SHOWN,
) -> rp.PrototypeExplanations:
    """Images with the prototypes that speak most for a class.

    Args:
        explanations: one for each image.
        images: as many, in the same order.
        projection: where the prototypes come from; None: what the explanations say of it.
        train_images: that it was made on.
        network: for heatmaps; None: there are none.
        titles: of the images; none: they are numbered.
        labelled: whether their true classes are known.
        most: the first images are shown, so many.

    Raises:
        RequestError: for images that cannot be shown.
    """
    plain, train = images.replace(augmentation=None), train_images.replace(augmentation=None)
    known = {source.prototype: source for source in projection.sources} if projection else {}
    shown = list(explanations[:most])
    maps = [("", [""] * len(item.evidence)) for item in shown]
    if network is not None:
        maps = heatmaps(network, plain, shown)
    found = []
    for place, (item, (heat, heats)) in enumerate(zip(shown, maps, strict=True)):
        matches = [
            _match(evidence, evidence.source or known.get(evidence.prototype), train, picture_of)
            for evidence, picture_of in zip(item.evidence, heats, strict=True)
        ]
        logit = item.logits[item.target]
        found.append(
            rp.ExplainedImage(
                title=titles[place] if titles else f"image {place}",
                image=boxed(plain, place, {}),
                predicted=class_called(plain.class_names, item.predicted),
                target=class_called(plain.class_names, item.target),
                logit=logit,
                matches=matches,
                rest=logit - sum(match.contribution for match in matches),
                label=class_called(plain.class_names, int(plain.labels[place])) if labelled else "",
                heat=heat,
                used=item.used,
            )
        )
    return rp.PrototypeExplanations(found, len(explanations))


def prototypes_page(
    job: TrainPrototypesJob | ProjectJob, projection: Projection, path: str | Path, command: str = ""
) -> Path:
    """Write the page of a projection: each prototype, the patch that it is, and what is near it.

    Args:
        job: that was run.
        projection: that came of it.
        path: ends in ``.html``.
        command: to get it again.
    """
    opened, train = job.opened, job.opened.plain("train")
    nearest = nearest_patches(opened.network, train, opened.recipe.prune.k)
    sections = [gallery(opened.network, projection, train, nearest)]
    title = f"Prototypes of {job.prepared.data.name}"
    subtitle = f"{len(projection.sources):,} prototypes, each a patch of a training image."
    return _write(job, title, subtitle, command, sections, train, path, split="train")


def pruning_page(job: PrunePrototypesJob, pruned: PrunedPrototypes, path: str | Path, command: str = "") -> Path:
    """Write the page of a pruning: what it did, and the prototypes, kept beside removed.

    Args:
        job: that was run.
        pruned: what came of it.
        path: ends in ``.html``.
        command: to get it again.
    """
    opened, network = job.opened, job.opened.network
    test, names = opened.plain("test"), job.prepared.data.class_names
    used = (prototypes_used(network, test), prototypes_used(pruned.network, test))
    sections: list[object] = [decisions(pruned, names, opened.projection, used)]
    if opened.projection is not None:
        train, projection = opened.plain("train"), opened.sources()
        sections.append(gallery(network, projection, train, pruned.nearest, pruned.decisions))
    gone = len(pruned.decisions) - len(pruned.kept)
    subtitle = f"{gone:,} of {len(pruned.decisions):,} prototypes go, by {opened.recipe.prune.criterion}."
    title = f"Prototypes of {job.prepared.data.name}, pruned"
    return _write(job, title, subtitle, command, sections, test, path)


def explanation_page(
    job: ExplainPrototypesJob,
    explanations: Sequence[ImageExplanation],
    both: Explained,
    path: str | Path,
    command: str = "",
) -> Path:
    """Write the page of explained images, and of what all prototypes stand for; and its figure (`FIGURE`) beside it.

    Args:
        job: that was run.
        explanations: of its images.
        both: of the prototypes.
        path: ends in ``.html``.
        command: to get it again.
    """
    opened, projection, train = job.opened, job.opened.sources(), job.opened.plain("train")
    titles = job.files or [f"test image {index}" for index in job.indices]
    shown = local(
        explanations,
        job.images,
        projection,
        train,
        network=opened.network,
        titles=titles,
        labelled=not job.files,
    )
    rp.save_prototype_figure(shown, Path(path).with_name(FIGURE))
    sections = [shown, gallery(opened.network, projection, train, both.train)]
    subtitle = f"A decision uses {both.used:.1f} prototypes on average (90 % of the positive contributions)."
    title = f"Prototypes of {job.prepared.data.name}"
    return _write(job, title, subtitle, command, sections, opened.plain("test"), path, composite=COMPOSITE)


def _write(
    job: ExplainPrototypesJob | ProjectJob | PrunePrototypesJob | TrainPrototypesJob,
    title: str,
    subtitle: str,
    command: str,
    sections: Sequence[object],
    images: LabelledImages,
    path: str | Path,
    split: str = "test",
    **held: Any,
) -> Path:
    report = new_report(
        title,
        subtitle,
        job.prepared,
        command,
        sections=sections,
        conditions=conditions(job.prepared, images, split, **held),
    )
    return rp.write_report(replace(report, settings=job.opened.recipe.model_dump(mode="json")), path)


def _labels(
    nearest: NearestPatches | None, row: int | None, decision: PrototypeDecision | None
) -> tuple[int, ...] | None:
    """Classes of the nearest patches of a prototype; None: not known."""
    if nearest is not None and row is not None:
        return tuple(int(label) for label in nearest.labels[row] if label != NONE)
    return None if decision is None else decision.nearest_labels


def _card(
    source: PrototypeSource,
    images: LabelledImages,
    labels: tuple[int, ...] | None,
    decision: PrototypeDecision | None,
    kind: BoxKind | None,
) -> rp.PrototypeCard:
    names = images.class_names
    return rp.PrototypeCard(
        number=source.prototype,
        class_name=class_called(names, source.label),
        crop=source_crop(images, source, kind),
        source=image_called(source.patch.split, source.patch.image, source.patch.name),
        kept=None if decision is None else decision.kept,
        reason="" if decision is None else decision.reason,
        purity=labels.count(source.label) / len(labels) if labels else None,
        score=None if decision is None else decision.score,
        duplicate_of=source.duplicate_of,
        nearest_classes=[class_called(names, label) for label in labels or ()],
    )


def _chosen(cards: Sequence[rp.PrototypeCard], large: int) -> list[int]:
    """Places of the prototypes that are shown large: of each class a kept one and a removed one, or two kept ones.

    Classes that lose most come first, then a second round begins. The purest of the kept are taken, and the least pure
    of the removed.
    """
    stay: dict[str, list[int]] = {}
    go: dict[str, list[int]] = {}
    for place, card in enumerate(cards):
        (go if card.kept is False else stay).setdefault(card.class_name, []).append(place)
    for own in stay.values():
        own.sort(key=lambda place: -(cards[place].purity or 0))
    for own in go.values():
        own.sort(key=lambda place: cards[place].purity or 0)
    order = sorted(dict.fromkeys(card.class_name for card in cards), key=lambda name: -len(go.get(name, [])))
    found: list[int] = []
    for step in range(len(cards)):
        for name in order:
            kept, removed = stay.get(name, []), go.get(name, [])
            pair = [*kept[step : step + 1], *removed[step : step + 1]] if removed else kept[2 * step : 2 * step + 2]
            if step and len(pair) < 2:
                continue
            if len(found) + len(pair) > large:
                return sorted(found)
            found += pair
    return sorted(found)


def _match(
    evidence: PrototypeEvidence, source: PrototypeSource | None, train: LabelledImages, heat: str
) -> rp.PrototypeMatch:
    kind = None if source is None else next((kind for kind in CROPPED_BY if kind in source.boxes), None)
    return rp.PrototypeMatch(
        number=evidence.prototype,
        class_name=class_called(train.class_names, evidence.label) if evidence.label >= 0 else "",
        similarity=evidence.similarity,
        weight=evidence.weight,
        contribution=evidence.contribution,
        boxes={name: sides(box) for name, box in evidence.boxes.items()},
        heat=heat,
        crop="" if source is None else source_crop(train, source, kind),
        source=None if source is None else boxed(train, source.patch.image, source.boxes),
        source_name="" if source is None else image_called(source.patch.split, source.patch.image, source.patch.name),
    )
