"""Explanations: a request is checked, then carried out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from torch import nn

from secateur.core.errors import RequestError
from secateur.data import LabelledImages, Normalisation
from secateur.pipeline.agreement import Agreement
from secateur.pipeline.estimate import TRAINING, Estimate, forward_seconds
from secateur.pipeline.explanation import (
    Explanation,
    agreement,
    check_outputs,
    draw,
    draw_per_class,
    explain,
    first_of_classes,
    strongest_units,
)
from secateur.pipeline.jobs import opened
from secateur.pipeline.recipe import Recipe
from secateur.pipeline.requests import ExplainSettings
from secateur.pipeline.run import Prepared, recorded_resize
from secateur.surgery import Bundle, read_bundle


@dataclass(frozen=True, eq=False)
class Explained:
    """Results of a request.

    Attributes:
        images: heatmaps.
        units: rows of the strongest units by class and layer.
        agreement: agreement of the heatmaps of two networks.
    """

    images: list[Explanation]
    units: list[dict[str, Any]] = field(default_factory=list)
    agreement: Agreement | None = None


@dataclass(frozen=True, eq=False)
class ExplainJob:
    """Images to be explained by one network, or by two.

    Attributes:
        prepared: data and network.
        asked: what is explained, and how.
        networks: the network, and the pruned one where there are two.
        splits: test images in the form that each network needs.
        indices: indices of the images that get a heatmap.
        ranking: indices of the images on which units are ranked.
        compared: indices of the images on which two networks are compared.
    """

    prepared: Prepared
    asked: ExplainSettings
    networks: list[nn.Module]
    splits: list[LabelledImages]
    indices: list[int]
    ranking: list[int]
    compared: list[int]

    @classmethod
    def of(cls, recipe: Recipe, asked: ExplainSettings) -> Self:
        """Check a request for explanations; one image is explained to check that the rules fit the network."""
        bundle = None if asked.against is None else read_bundle(asked.against)
        prepared = opened(recipe)
        if bundle is not None:
            prepared = _sized(prepared, bundle, asked.against)
        test, seed = prepared.data.test, recipe.reference.seed
        networks, splits = [prepared.model], [test]
        if bundle is not None:
            networks.append(bundle.model.to(prepared.device))
            splits.append(_as_recorded(test, bundle, asked.against))
        indices = list(dict.fromkeys(asked.images or first_of_classes(test, asked.count)))
        bad = [index for index in indices if not 0 <= index < len(test)]
        if bad:
            raise RequestError(f"there is no test image {bad[0]}; the test split has images 0 to {len(test) - 1}")
        if bundle is not None:
            check_outputs(networks, splits, asked.composite, [recipe.model.name, str(asked.against)])
        explain(networks, splits, indices[:1], asked.composite, start=asked.start)
        ranking = draw_per_class(test, asked.per_class, seed) if asked.per_class else []
        compared = draw(test, asked.agreement_images, seed) if bundle is not None and asked.agreement_images else []
        return cls(prepared, asked, networks, splits, indices, ranking, compared)

    def description(self) -> list[str]:
        """See `secateur.pipeline.jobs.Job.description`."""
        name, data = self.prepared.recipe.model.name, self.prepared.data
        who = name if len(self.networks) == 1 else f"{name} and {self.asked.against}"
        lines = [
            f"data: {len(data.test):,} test images of '{data.name}', {len(data.class_names)} classes; "
            f"device: {self.prepared.device}",
            f"heatmaps of {len(self.indices)} test images by {who}, composite {self.asked.composite}",
        ]
        if self.ranking:
            lines.append(f"the strongest units of each class on {len(self.ranking):,} test images")
        if self.compared:
            lines.append(f"agreement of both networks' heatmaps on {len(self.compared):,} test images")
        return lines

    def estimate(self) -> Estimate:
        """See `secateur.pipeline.jobs.Job.estimate`."""
        image = forward_seconds(self.networks[0], self.splits[0], self.prepared.device)
        passes = len(self.networks) * (len(self.indices) + len(self.compared)) + len(self.ranking)
        return Estimate(passes * TRAINING * image)

    def run(self) -> Explained:
        """Explain."""
        asked = self.asked
        passes: dict[str, Any] = {
            "composite": asked.composite,
            "start": asked.start,
            "batch_size": self.prepared.recipe.prune.batch_size,
        }
        images = explain(self.networks, self.splits, self.indices, **passes)
        units: list[dict[str, Any]] = []
        if self.ranking:
            units = strongest_units(self.networks[0], self.splits[0], self.ranking, asked.top, **passes)
        compared = None
        if self.compared:
            compared = agreement(self.networks[0], self.networks[1], self.splits, self.compared, **passes)
        return Explained(images, units, compared)


def _sized(prepared: Prepared, bundle: Bundle, path: Path | None) -> Prepared:
    """Data with test images of the size that a bundle's network needs, so that both networks see the same pixels."""
    settings, size = prepared.recipe.data, prepared.data.resize
    known = recorded_resize(bundle.architecture.get("data", {}))
    if known is None or known == size or settings.resize is not None or not settings.follow_network:
        return prepared
    if size is not None:
        raise RequestError(
            f"'{prepared.recipe.model.name}' takes images of {size}, bundle '{path}' of {known}: heatmaps are compared "
            "pixel by pixel; say with data.resize which size both are given"
        )
    data = replace(prepared.data, test=prepared.data.test.replace(resize=known))
    return replace(prepared, data=data, notes=(*prepared.notes, f"images as bundle '{path}' records: {known}"))


def _as_recorded(images: LabelledImages, bundle: Bundle, path: Path | None) -> LabelledImages:
    """The images as the bundle's network needs them: it may have been trained with another normalisation."""
    known = bundle.architecture.get("data", {}).get("normalisation")
    if not known:
        return images
    recorded = Normalisation(tuple(known["mean"]), tuple(known["std"]))
    if recorded == images.normalisation:
        return images
    if len(recorded.mean) != len(images.normalisation.mean):
        raise RequestError(
            f"bundle '{path}' takes {len(recorded.mean)} channel(s), the images have "
            f"{len(images.normalisation.mean)}; give the data it was pruned on"
        )
    return images.replace(normalisation=recorded)
