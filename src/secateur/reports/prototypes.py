"""Gallery of prototypes: where they come from, what is near them, which are kept and which go."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from secateur.reports import captions, figures
from secateur.reports.conditions import Conditions
from secateur.reports.prototype_pictures import BOX_WORDS, BoxedImage, legend
from secateur.reports.registry import register_section
from secateur.reports.rows import STRICT
from secateur.reports.table import csv_link

SMALL = 600
"""Prototypes that are shown as crops; the CSV has all."""


@dataclass(frozen=True)
class NearPatch:
    """An image with a patch near a prototype.

    Attributes:
        class_name: of the image.
        same: whether that is the prototype's class.
        image: with the patch marked.
        name: of the image, in words.
    """

    __pydantic_config__ = STRICT

    class_name: str
    same: bool
    image: BoxedImage
    name: str = ""


@dataclass(frozen=True)
class PrototypeCard:
    """One prototype.

    Attributes:
        number: as learned.
        class_name: its class.
        crop: its patch, a data URI.
        source: the training image that it is from, in words.
        kept: whether it stays; None: nothing was pruned.
        reason: of that, in words.
        purity: share of its nearest training patches that are of its class.
        score: that it was ranked by.
        duplicate_of: number of an earlier prototype on the same patch.
        nearest_classes: of its nearest patches, nearest first.
        image: the training image with boxes, where the prototype is shown large.
        nearest: images with the nearest patches, likewise.
    """

    __pydantic_config__ = STRICT

    number: int
    class_name: str
    crop: str
    source: str
    kept: bool | None = None
    reason: str = ""
    purity: float | None = None
    score: float | None = None
    duplicate_of: int | None = None
    nearest_classes: list[str] = field(default_factory=list)
    image: BoxedImage | None = None
    nearest: list[NearPatch] = field(default_factory=list)

    @property
    def summary(self) -> str:
        """What is known of it, in one line."""
        parts = [f"purity {figures.percent(self.purity, 0)}"] if self.purity is not None else []
        parts += [self.reason] if self.reason else []
        parts += [f"on the same patch as prototype {self.duplicate_of}"] if self.duplicate_of is not None else []
        return captions.line(*parts)

    def row(self) -> dict[str, Any]:
        """Of the CSV."""
        kept = {} if self.kept is None else {"kept": self.kept, "reason": self.reason}
        return {
            "prototype": self.number,
            "class": self.class_name,
            **kept,
            "purity": self.purity,
            "score": self.score,
            "duplicate_of": self.duplicate_of,
            "source": self.source,
            "nearest_classes": ", ".join(self.nearest_classes),
        }


@dataclass(frozen=True)
class PrototypeGallery:
    """Section of prototypes.

    Attributes:
        prototypes: all of them, by class.
        cropped_by: kind of box that crops are cut by, as ``relevance``.
    """

    __pydantic_config__ = STRICT

    prototypes: list[PrototypeCard]
    cropped_by: str = ""


def by_class(cards: Sequence[PrototypeCard]) -> dict[str, list[PrototypeCard]]:
    """Prototypes of each class, in the order in which classes occur."""
    found: dict[str, list[PrototypeCard]] = {}
    for card in cards:
        found.setdefault(card.class_name, []).append(card)
    return found


def beside(cards: Sequence[PrototypeCard]) -> list[PrototypeCard]:
    """Kept and removed prototypes in turn, so that a page with two columns shows them beside each other.

    Example:
        >>> cards = [PrototypeCard(number, "a", "", "", kept=number > 1) for number in range(4)]
        >>> [card.number for card in beside(cards)]
        [2, 0, 3, 1]
    """
    kept, removed = ([card for card in cards if (card.kept is not False) == stays] for stays in (True, False))
    return [card for pair in zip_longest(kept, removed) for card in pair if card is not None]


def kept_of(cards: Sequence[PrototypeCard]) -> str:
    """How many stay, in words; without a decision how many there are."""
    if any(card.kept is None for card in cards):
        return f"{len(cards)} prototype{'s' * (len(cards) != 1)}"
    return f"{sum(bool(card.kept) for card in cards)} of {len(cards)} kept"


def _answers(cards: Sequence[PrototypeCard]) -> list[str]:
    classes, count = by_class(cards), len(cards)
    pruned = any(card.kept is False for card in cards)
    found = [f"{count:,} prototypes of {len(classes):,} classes, each a patch of a training image."]
    if pruned:
        gone = {name: sum(card.kept is False for card in own) for name, own in classes.items()}
        largest = max(gone.values())
        most = [name for name, lost in gone.items() if lost == largest]
        who = f"{len(most)} classes lose most: {largest} each."
        if len(most) == 1:
            who = f"Class {most[0]} loses most: {largest} of its {len(classes[most[0]])}."
        found = [f"{count - sum(gone.values()):,} of {count:,} prototypes stay. {who}"]
    known = [card for card in cards if card.purity is not None]
    if known:
        words = f"Of the nearest training patches, {_mean(known)} are of the prototype’s own class"
        parts = [[card for card in known if card.kept is stays] for stays in (True, False)]
        split = f": {_mean(parts[0])} where it stays, {_mean(parts[1])} where it goes" if all(parts) else ""
        found.append(f"{words}{split}.")
    twins = sum(card.duplicate_of is not None for card in cards)
    found.append(
        f"{twins:,} prototype{'s are' if twins > 1 else ' is'} on the same patch as an earlier one." if twins
        else "No two prototypes are on the same patch."
    )  # fmt: skip
    return found


def _mean(cards: Sequence[PrototypeCard]) -> str:
    return figures.percent(statistics.fmean(card.purity or 0.0 for card in cards), 0)


def _view(section: PrototypeGallery, conditions: Conditions) -> dict[str, Any]:
    cards = section.prototypes
    if not cards:
        return {"answers": []}
    large = [card for card in cards if card.image is not None]
    images = [card.image for card in large if card.image is not None]
    shown = cards[:SMALL]
    cut = BOX_WORDS.get(section.cropped_by, section.cropped_by)
    return {
        "answers": _answers(cards),
        "pruned": any(card.kept is False for card in cards),
        "small": [(name, kept_of(own), own) for name, own in by_class(shown).items()],
        "hidden": len(cards) - len(shown),
        "large": [(name, kept_of(by_class(cards)[name]), beside(own)) for name, own in by_class(large).items()],
        "legend": legend(image.boxes for image in images),
        "beneath": captions.line(
            f"training images of {conditions.data}" if conditions.data else "",
            f"a patch is cut out by its box: {cut}" if cut else "",
        ),
        "rest": csv_link([card.row() for card in cards], "prototypes.csv", f"All {len(cards):,} prototypes as CSV"),
    }


register_section(PrototypeGallery, name="prototypes/gallery", template="prototype_gallery.html", view=_view)
