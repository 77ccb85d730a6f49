"""Which prototypes go, and why. Axes: P prototypes, k nearest patches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from secateur.attribution import attribute
from secateur.core.errors import RequestError
from secateur.data import LabelledImages
from secateur.models.prototype_network import PrototypeNetwork
from secateur.prototypes.nearest import NearestPatches, similarities_of
from secateur.prototypes.numbers import prototype_numbers
from secateur.prototypes.removal import rows_of
from secateur.prototypes.settings import PrototypePruneSettings


@dataclass(frozen=True)
class PrototypeDecision:
    """What becomes of one prototype.

    Attributes:
        number: as learned.
        label: its class; -1: it was switched off.
        kept: whether it stays.
        reason: in words.
        purity: share of its nearest training patches from images of its class.
        score: that it was ranked by; None where purity alone decides.
        nearest_labels: classes of its nearest patches, nearest first.
    """

    number: int
    label: int
    kept: bool
    reason: str
    purity: float
    score: float | None = None
    nearest_labels: tuple[int, ...] = ()


def decide(
    network: PrototypeNetwork, train: LabelledImages, nearest: NearestPatches, settings: PrototypePruneSettings
) -> tuple[PrototypeDecision, ...]:
    """One decision for each prototype, as the settings ask; equal scores go by number.

    Args:
        network: as it is.
        train: training images, for relevance and usage.
        nearest: nearest patches among all training images, ``settings.k`` of them.
        settings: see `PrototypePruneSettings`.

    Raises:
        RequestError: for unknown numbers to disable, or a class that would have no prototype left.
    """
    classes = network.prototypes.classes.cpu().numpy()
    same = ((nearest.labels == classes[:, None]) & (nearest.images >= 0)).sum(1)
    forced = np.zeros(len(classes), bool)
    forced[rows_of(network, settings.disable)] = True
    scores: np.ndarray | None = None
    if settings.criterion == "purity":
        go, ranking = same < settings.threshold, same.astype(np.float64)
    elif settings.criterion == "none":
        go, ranking = np.zeros(len(classes), bool), same.astype(np.float64)
    else:
        scores = relevance_scores(network, train) if settings.criterion == "relevance" else usage_scores(network, train)
        assert settings.budget is not None
        stay = max(1, round(settings.budget * len(classes)))
        go, ranking = np.ones(len(classes), bool), scores
        go[np.argsort(-scores, kind="stable")[:stay]] = False
    spared = _spared(classes, go | forced, forced, ranking, settings.per_class)
    purity = nearest.purity(classes)
    found = []
    for row, number in enumerate(prototype_numbers(network)):
        kept = not forced[row] and (not go[row] or row in spared)
        found.append(
            PrototypeDecision(
                number=int(number),
                label=int(classes[row]),
                kept=bool(kept),
                reason=_reason(settings, int(same[row]), bool(forced[row]), bool(go[row]), row in spared),
                purity=float(purity[row]),
                score=None if scores is None else float(scores[row]),
                nearest_labels=tuple(int(label) for label in nearest.labels[row] if label >= 0),
            )
        )
    _check_classes(found)
    return tuple(found)


def relevance_scores(network: PrototypeNetwork, images: LabelledImages, batch_size: int = 64) -> np.ndarray:
    """Mean |relevance| of each prototype's similarity for the logit of the true class, [P]: ε-rule, start 1."""
    similarities = similarities_of(network, images, batch_size)
    labels = torch.from_numpy(images.labels)
    given = similarities.to(network.last.weight)
    found = attribute(network.last, given, labels, "epsilon", start="one", batch_size=1024)
    scores: np.ndarray = found.input.abs().double().mean(0).cpu().numpy()
    return scores


def usage_scores(network: PrototypeNetwork, images: LabelledImages) -> np.ndarray:
    """Mean share of each prototype in the positive contributions to the logit of the true class, [P].

    A contribution is similarity times weight.
    """
    similarities, weight = similarities_of(network, images), network.last.weight.detach().cpu()
    contributions = (similarities * weight[torch.from_numpy(images.labels)]).clamp_min(0).double()
    shares = contributions / contributions.sum(1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    found: np.ndarray = shares.mean(0).numpy()
    return found


def _spared(classes: np.ndarray, go: np.ndarray, forced: np.ndarray, ranking: np.ndarray, least: int) -> set[int]:
    """Prototypes that would go, and stay because their class would have fewer than ``least``: the best of them."""
    found: set[int] = set()
    for label in np.unique(classes[classes >= 0]):
        own = np.flatnonzero(classes == label)
        missing = least - int((~go[own]).sum())
        open_to = own[~forced[own] & go[own]]
        if missing > 0:
            found |= {int(row) for row in open_to[np.argsort(-ranking[open_to], kind="stable")][:missing]}
    return found


def _reason(settings: PrototypePruneSettings, same: int, forced: bool, go: bool, spared: bool) -> str:
    if forced:
        return "removed by hand"
    of = f"{same} of {settings.k} nearest patches are of its class"
    if settings.criterion == "none":
        return "kept: nothing but numbers by hand was asked for"
    if settings.criterion == "purity":
        if not go:
            return of
        return f"{of}, fewer than {settings.threshold}" + (", but its class needs it" if spared else "")
    what = {"relevance": "relevance", "usage": "share in decisions"}[settings.criterion]
    if not go:
        return f"its {what} is among the highest {settings.budget:.0%}"
    return f"its {what} is not among the highest {settings.budget:.0%}" + (", but its class needs it" if spared else "")


def _check_classes(decisions: list[PrototypeDecision]) -> None:
    for label in sorted({decision.label for decision in decisions if decision.label >= 0}):
        own = [decision for decision in decisions if decision.label == label]
        if not any(decision.kept for decision in own):
            raise RequestError(
                f"class {label} would have no prototype left of {len(own)}; lower the threshold, raise the budget, set "
                "prune.per_class to 1 or more, or disable fewer"
            )
