"""This looks like that: images, and the prototypes that decide on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from secateur.reports import captions, figures
from secateur.reports.conditions import Conditions
from secateur.reports.prototype_pictures import BoxedImage, Sides, legend
from secateur.reports.registry import register_section
from secateur.reports.rows import STRICT


@dataclass(frozen=True)
class PrototypeMatch:
    """A prototype in the decision on an image.

    Attributes:
        number: as learned.
        class_name: its class; "": switched off.
        similarity: of the most similar patch of the image.
        weight: to the explained class.
        contribution: to the logit: similarity times weight.
        boxes: of the patch in the explained image.
        heat: relevance of the image's pixels for the similarity, a data URI; "": not computed.
        crop: the prototype's patch, likewise; "": not known.
        source: the training image that it is from, with boxes.
        source_name: of that image, in words.
    """

    __pydantic_config__ = STRICT

    number: int
    class_name: str
    similarity: float
    weight: float
    contribution: float
    boxes: dict[str, Sides] = field(default_factory=dict)
    heat: str = ""
    crop: str = ""
    source: BoxedImage | None = None
    source_name: str = ""


@dataclass(frozen=True)
class ExplainedImage:
    """An image, and the prototypes that speak most for the explained class.

    Attributes:
        title: of the image, in words.
        image: as the network sees it.
        predicted: class with the highest logit.
        target: class that is explained.
        logit: of that class.
        matches: by falling contribution.
        rest: sum of the contributions of all other prototypes.
        label: true class; "": not known.
        heat: relevance of pixels for the logit, a data URI; "": not computed.
        used: prototypes that make up 90 % of the positive contributions.
    """

    __pydantic_config__ = STRICT

    title: str
    image: BoxedImage
    predicted: str
    target: str
    logit: float
    matches: list[PrototypeMatch]
    rest: float = 0.0
    label: str = ""
    heat: str = ""
    used: int | None = None

    def marked(self, match: PrototypeMatch) -> BoxedImage:
        """The image with the boxes of a prototype."""
        return BoxedImage(self.image.picture, self.image.height, self.image.width, match.boxes)

    @property
    def verdict(self) -> str:
        """What the network says, in words."""
        truth = f" (true class: {self.label})" if self.label and self.label != self.predicted else ""
        explained = f"; explained: {self.target}" if self.target != self.predicted else ""
        return f"the network says {self.predicted}{truth}{explained}"

    @property
    def steps(self) -> list[dict[str, Any]]:
        """Each prototype as a template shows it, with its share of the largest contribution."""
        largest = max((abs(match.contribution) for match in self.matches), default=0.0) or 1.0
        return [
            {
                "match": match,
                "marked": self.marked(match),
                "formula": f"{figures.plain(match.similarity, 2)} × {figures.plain(match.weight, 2)}",
                "contribution": signed(match.contribution),
                "share": f"{100 * abs(match.contribution) / largest:.1f}",
                "against": match.contribution < 0,
            }
            for match in self.matches
        ]

    @property
    def sum(self) -> str:
        """How the logit comes about, in words."""
        shown = signed(sum(match.contribution for match in self.matches))
        total = f"logit of {self.target}: {figures.plain(self.logit, 2)}"
        return f"these {len(self.matches)}: {shown} · all others: {signed(self.rest)} · {total}"


@dataclass(frozen=True)
class PrototypeExplanations:
    """Section of explained images.

    Attributes:
        images: with their prototypes.
        total: images that were explained, where not all are shown.
    """

    __pydantic_config__ = STRICT

    images: list[ExplainedImage]
    total: int | None = None


def signed(value: float) -> str:
    """A number with its sign.

    Example:
        >>> signed(1.234), signed(-0.5)
        ('+1.23', '−0.50')
    """
    shown = round(value, 2) + 0.0  # no minus before zero
    return ("+" if shown >= 0 else "") + figures.plain(shown, 2)


def _answers(section: PrototypeExplanations) -> list[str]:
    images = section.images
    known = [image for image in images if image.label]
    right = sum(image.label == image.predicted for image in known)
    found = [f"{right} of {len(known)} images shown get their true class."] if known else []
    strongest = [image.matches[0] for image in images if image.matches]
    own = sum(image.matches[0].class_name == image.target for image in images if image.matches)
    if strongest:
        found.append(f"The strongest prototype is of the explained class for {own} of {len(strongest)} images.")
    used = [image.used for image in images if image.used is not None]
    if used:
        span = f"{min(used)}" if min(used) == max(used) else f"{min(used)} to {max(used)}"
        found.append(f"{span} prototypes make up 90 % of the positive contributions to a decision.")
    return found


def _view(section: PrototypeExplanations, conditions: Conditions) -> dict[str, Any]:
    boxes: list[Mapping[str, Sides]] = [match.boxes for image in section.images for match in image.matches]
    boxes += [match.source.boxes for image in section.images for match in image.matches if match.source]
    shown, total = len(section.images), section.total or len(section.images)
    return {
        "answers": _answers(section),
        "legend": legend(boxes),
        "heated": any(match.heat for image in section.images for match in image.matches),
        "left_out": f"The first {shown} of {total:,} images." if total > shown else "",
        "beneath": captions.line(captions.of_maps(conditions)),
    }


register_section(PrototypeExplanations, name="prototypes/local", template="prototype_explanations.html", view=_view)
