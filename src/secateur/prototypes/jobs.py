"""What the commands on prototype networks do: everything that can be checked is checked, then it is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from torch import nn

from secateur.core.errors import RequestError
from secateur.core.files import read_json
from secateur.core.names import did_you_mean_file
from secateur.data import LabelledImages
from secateur.data.folders import SUFFIXES
from secateur.evaluation import Evaluation
from secateur.models import ModelSettings
from secateur.models.prototype_network import PrototypeNetwork
from secateur.pipeline.estimate import TRAINING, Estimate, forward_seconds
from secateur.pipeline.jobs import measured, opened, subject
from secateur.pipeline.recipe import Recipe
from secateur.pipeline.run import Prepared
from secateur.prototypes.backbone import load_backbone
from secateur.prototypes.boxes import Locator
from secateur.prototypes.explanation import ImageExplanation, PrototypeExplanations, explain_images, explain_prototypes
from secateur.prototypes.kept import projection_in
from secateur.prototypes.projection import check_sources, project
from secateur.prototypes.pruning import PrunedPrototypes, prune_prototypes
from secateur.prototypes.records import Projection
from secateur.prototypes.settings import PrototypeRecipe
from secateur.prototypes.training import PrototypeTraining, train_prototypes
from secateur.training import TrainSettings

_BATCH = 64


@dataclass(frozen=True, eq=False)
class Opened:
    """A prototype network and its data.

    Attributes:
        recipe: the request.
        prepared: data and network, matched to each other.
        projection: where its prototypes come from, if it is known.
    """

    recipe: PrototypeRecipe
    prepared: Prepared
    projection: Projection | None = None

    @classmethod
    def of(cls, recipe: PrototypeRecipe, bundle: Path | None = None) -> Self:
        """Open data and network.

        Args:
            recipe: the request.
            bundle: of the network; None: a new one is built as the recipe says.

        Raises:
            RequestError: for a bundle of another kind of network, or data that do not go with it.
        """
        model = recipe.network.model(recipe.data) if bundle is None else ModelSettings(name=str(bundle))
        whole = Recipe(data=recipe.data, model=model, train=TrainSettings(seed=recipe.train.seed), device=recipe.device)
        prepared = opened(whole, trained=False)
        network = prototype_network_of(prepared.model, bundle)
        if bundle is None:
            if recipe.network.weights is not None:
                load_backbone(network, recipe.network.weights)
            return cls(recipe, replace(prepared, trained=True))  # it is going to be trained: no word of random weights
        return cls(recipe, prepared, projection_in(read_json(bundle / "metrics.json"), bundle))

    @property
    def network(self) -> PrototypeNetwork:
        """The network."""
        assert isinstance(self.prepared.model, PrototypeNetwork)
        return self.prepared.model

    def plain(self, split: str) -> LabelledImages:
        """Images of a split, without augmentation."""
        images: LabelledImages = getattr(self.prepared.data, split)
        return images.replace(augmentation=None)

    def forward_seconds(self) -> float:
        """Of a forward pass, per image."""
        return forward_seconds(self.network, self.plain("test"), self.prepared.device)

    def tested(self) -> Evaluation:
        """Accuracy and cost on the test images."""
        return measured(self.prepared, self.plain("test"))

    def sources(self) -> Projection:
        """Where the prototypes come from.

        Raises:
            RequestError: when that is not known, or the images are not those that they were projected onto.
        """
        if self.projection is None:
            raise RequestError(
                "the network was never projected, so its prototypes show no image; run `secateur prototypes push` first"
            )
        check_sources(self.projection, self.plain("train"))
        return self.projection


@dataclass(frozen=True, eq=False)
class _PrototypeJob:
    """A checked request; see `secateur.pipeline.jobs.Job`."""

    opened: Opened

    @classmethod
    def of(cls, recipe: PrototypeRecipe, bundle: Path | None = None) -> Self:
        """Check a request; see `Opened.of` for what it takes."""
        return cls(Opened.of(recipe, bundle))

    @property
    def prepared(self) -> Prepared:
        """Data and network."""
        return self.opened.prepared


@dataclass(frozen=True, eq=False)
class TrainPrototypesJob(_PrototypeJob):
    """A prototype network to be trained and projected."""

    def description(self) -> list[str]:
        """See `secateur.pipeline.jobs.Job.description`."""
        network, settings = self.opened.network, self.opened.recipe.train
        place = network.features.place
        return [
            subject(self.prepared),
            f"network: {self.opened.recipe.network.backbone} up to '{place.module}' ({place.channels} channels of "
            f"{place.size[0]}x{place.size[1]} positions), {network.num_prototypes:,} prototypes of "
            f"{'x'.join(map(str, network.prototypes.weight.shape[1:]))}",
            *map(str, settings.stages()),
        ]

    def estimate(self) -> Estimate:
        """See `secateur.pipeline.jobs.Job.estimate`."""
        image, data, settings = self.opened.forward_seconds(), self.prepared.data, self.opened.recipe.train
        pushes = len(settings.pushes)
        training = settings.epochs * image * (TRAINING * len(data.train) + len(data.val))
        return Estimate(training + (2 * pushes * len(data.train) + len(data.test)) * image)

    def run(
        self, folder: Path | None = None, on_epoch: Callable[[Any], None] | None = None
    ) -> tuple[PrototypeTraining, Evaluation]:
        """Train in place, and measure on the test images.

        Args:
            folder: interrupted training goes on from what is kept there.
            on_epoch: called with each finished epoch.
        """
        data, settings = self.prepared.data, self.opened.recipe.train
        settings = settings.model_copy(update={"device": str(self.prepared.device)})
        trained = train_prototypes(
            self.opened.network,
            data.train,
            data.val,
            settings,
            plain=self.opened.plain("train"),
            state_folder=folder,
            on_epoch=on_epoch,
        )
        return trained, self.opened.tested()


@dataclass(frozen=True, eq=False)
class ProjectJob(_PrototypeJob):
    """A network whose prototypes are to become training patches."""

    def description(self) -> list[str]:
        """See `secateur.pipeline.jobs.Job.description`."""
        return [
            subject(self.prepared),
            f"project {self.opened.network.num_prototypes:,} prototypes onto patches of "
            f"{len(self.prepared.data.train):,} training images",
        ]

    def estimate(self) -> Estimate:
        """See `secateur.pipeline.jobs.Job.estimate`."""
        images = len(self.prepared.data.train) + 2 * len(self.prepared.data.test)
        return Estimate(images * self.opened.forward_seconds())

    def run(self) -> tuple[Projection, Evaluation, Evaluation]:
        """Project in place; measured before and after."""
        before = self.opened.tested()
        self.opened.network.to(self.prepared.device)
        avoid = self.opened.recipe.train.avoid_duplicates
        found = project(self.opened.network, self.opened.plain("train"), avoid_duplicates=avoid)
        return found, before, self.opened.tested()


@dataclass(frozen=True, eq=False)
class PrunePrototypesJob(_PrototypeJob):
    """A network whose prototypes are to be pruned."""

    def description(self) -> list[str]:
        """See `secateur.pipeline.jobs.Job.description`."""
        asked, count = self.opened.recipe.prune, self.opened.network.num_prototypes
        return [
            subject(self.prepared),
            f"prune {count:,} prototypes by {asked.criterion}, then train the last layer for {asked.last_iterations} "
            "epochs on their similarities",
        ]

    def estimate(self) -> Estimate:
        """See `secateur.pipeline.jobs.Job.estimate`."""
        images = 2 * len(self.prepared.data.train) + 3 * len(self.prepared.data.test)
        return Estimate(images * self.opened.forward_seconds())

    def run(self) -> PrunedPrototypes:
        """Prune; the network itself stays as it is."""
        recipe = self.opened.recipe
        return prune_prototypes(
            self.opened.network,
            self.opened.plain("train"),
            self.opened.plain("test"),
            recipe.prune,
            recipe.train.model_copy(update={"device": str(self.prepared.device)}),
        )


@dataclass(frozen=True, eq=False)
class ExplainPrototypesJob:
    """Images, and the prototypes themselves, to be explained.

    Attributes:
        opened: network and data.
        images: to be explained.
        indices: among the test images, or the files of a folder.
        files: names of the files of a folder, whose classes are not known; empty for test images.
    """

    opened: Opened
    images: LabelledImages
    indices: tuple[int, ...]
    files: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        recipe: PrototypeRecipe,
        bundle: Path,
        images: tuple[int, ...] = (),
        count: int = 8,
        folder: Path | None = None,
    ) -> Self:
        """Check a request; see `secateur.pipeline.jobs.Job`.

        Args:
            recipe: the request.
            bundle: of the network.
            images: test images by index; none: the first ones of each class in turn.
            count: of images, where none is named.
            folder: of image files that are explained, all of them, in place of test images.
        """
        from secateur.pipeline.explanation import first_of_classes

        found = Opened.of(recipe, bundle)
        found.sources()
        test = found.plain("test")
        if folder is not None:
            paths = image_files(folder)
            labels = np.zeros(len(paths), np.int64)
            loose = test.replace(images=paths, labels=labels)
            return cls(found, loose, tuple(range(len(paths))), tuple(path.name for path in paths))
        indices = tuple(dict.fromkeys(images or first_of_classes(test, count)))
        bad = [index for index in indices if not 0 <= index < len(test)]
        if bad:
            raise RequestError(f"there is no test image {bad[0]}; the test split has images 0 to {len(test) - 1}")
        return cls(found, test.subset(list(indices)), indices)

    @property
    def prepared(self) -> Prepared:
        """Data and network."""
        return self.opened.prepared

    def description(self) -> list[str]:
        """See `secateur.pipeline.jobs.Job.description`."""
        return [
            subject(self.prepared),
            f"explain {len(self.indices)} {'files' if self.files else 'test images'} by their prototypes",
            f"show what {self.opened.network.num_prototypes:,} prototypes stand for: their nearest patches in training "
            "and test images",
        ]

    def estimate(self) -> Estimate:
        """See `secateur.pipeline.jobs.Job.estimate`."""
        data = self.prepared.data
        return Estimate((len(data.train) + len(data.test)) * self.opened.forward_seconds())

    def run(self) -> tuple[list[ImageExplanation], PrototypeExplanations]:
        """Explain."""
        recipe, network = self.opened.recipe, self.opened.network.to(self.prepared.device)
        projection, count = self.opened.sources(), len(self.images)
        local: list[ImageExplanation] = []
        locator = Locator(network, recipe.explain.boxes)
        for begin in range(0, count, _BATCH):
            inputs = self.images.batch(range(begin, min(begin + _BATCH, count)))[0]
            local += explain_images(network, inputs, top=recipe.explain.top, boxes=locator, projection=projection)
        both = explain_prototypes(network, self.opened.plain("train"), self.opened.plain("test"), k=recipe.prune.k)
        return local, both


def prototype_network_of(model: nn.Module, bundle: str | Path | None) -> PrototypeNetwork:
    """The network of a bundle, if it has prototypes.

    Raises:
        RequestError: when it has none.
    """
    if not isinstance(model, PrototypeNetwork):
        raise RequestError(
            f"'{bundle}' holds a {type(model).__name__}, which has no prototypes; give the bundle of a network that "
            "`secateur prototypes train` made"
        )
    if model.prototypes.identity.shape[1] != model.num_classes:
        raise RequestError(
            f"'{bundle}' has a head that was sliced to {model.num_classes} of {model.prototypes.identity.shape[1]} "
            "classes, to which its prototypes still belong; give the bundle from before"
        )
    return model


def image_files(folder: Path) -> list[Path]:
    """Image files of a folder, by name.

    Raises:
        RequestError: when there is no such folder, or none in it.
    """
    if not folder.is_dir():
        raise RequestError(f"there is no folder '{folder}'{did_you_mean_file(str(folder))}")
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    if not found:
        raise RequestError(f"'{folder}' holds no image file ({', '.join(sorted(SUFFIXES))})")
    return found
