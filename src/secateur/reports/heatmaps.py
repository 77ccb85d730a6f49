"""Images and their relevance, before and after pruning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from secateur.reports import captions
from secateur.reports.conditions import Conditions
from secateur.reports.registry import register_section
from secateur.reports.rows import STRICT


@dataclass(frozen=True)
class Heatmap:
    """One image and its relevance before and after pruning, each a base64 PNG without prefix.

    ``after_png`` is empty where one network is looked at alone, ``image_png`` where the image is not at hand.
    `secateur.reports.image_png` and `secateur.reports.heatmap_png` make such strings.
    """

    __pydantic_config__ = STRICT

    title: str
    image_png: str
    before_png: str
    after_png: str = ""
    caption: str = ""

    @property
    def pictures(self) -> list[tuple[str, str, str]]:
        """Label, meaning and PNG of those that are there."""
        shown = [("image", "Image", self.image_png)] if self.image_png else []
        if not self.after_png:
            return [*shown, ("relevance", "Relevance", self.before_png)]
        both = (("before", self.before_png), ("after", self.after_png))
        return [*shown, *((stage, f"Relevance {stage} pruning", png) for stage, png in both)]


@dataclass(frozen=True)
class Heatmaps:
    """Section of images with their relevance."""

    __pydantic_config__ = STRICT

    heatmaps: list[Heatmap]


def _view(section: Heatmaps, conditions: Conditions) -> dict[str, Any]:
    return {"beneath": captions.of_maps(conditions)}


register_section(Heatmaps, name="heatmaps", template="heatmaps.html", view=_view)
