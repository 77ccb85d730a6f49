"""How prototype networks are built, trained, pruned and explained. Light: checked before PyTorch is loaded."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from secateur.core.sections import Section
from secateur.data import DataSettings
from secateur.models import ModelSettings
from secateur.prototypes.records import BOX_KINDS, BoxKind
from secateur.prototypes.schedule import Project, RefitLast, Stage, TrainParts
from secateur.tracking import TrackingSettings


class NetworkSettings(Section):
    """What a prototype network is made of; see `secateur.models.prototype_network.PrototypeNetwork`."""

    backbone: str = Field(default="resnet20", description="a network by name, as --model takes it")
    backbone_arguments: dict[str, Any] = Field(
        default_factory=dict, description="of its constructor; {weights: DEFAULT} fetches trained ones"
    )
    weights: Path | None = Field(
        default=None,
        description="checkpoint of a trained network whose backbone this one takes over; its head is left out",
    )
    image_size: int | tuple[int, int] | None = Field(
        default=None, description="of the images; null: data.resize, or what the backbone is made for"
    )
    at: str | None = Field(default=None, description="module whose output is the feature map; null: the last one")
    per_class: int = Field(default=10, ge=1, description="prototypes of each class")
    channels: int | None = Field(default=128, ge=1, description="of the prototypes; null: those of the feature map")
    size: tuple[int, int] = Field(default=(1, 1), description="of the prototypes, in positions of the feature map")
    add_on: Literal["bottleneck", "plain", "none"] = "bottleneck"
    similarity: Literal["log", "linear", "cosine"] = "log"

    def model(self, data: DataSettings | None = None) -> ModelSettings:
        """The network, for `secateur.models`.

        Args:
            data: whose size images have, where this does not say.
        """
        arguments = self.model_dump(mode="json", exclude={"weights"})
        if arguments["image_size"] is None:
            resize = None if data is None else data.resize
            side = None if resize is None else (resize.crop or resize.size)
            if side is None:
                del arguments["image_size"]
            else:
                arguments["image_size"] = side
        return ModelSettings(name="prototype-network", arguments=arguments)


class LossSettings(Section):
    """Coefficients of the loss: those of Chen et al. (2019).

    cross_entropy · CE + cluster · mean_n min_own d² + separation · mean_n min_other d² + l1 · Σ|w_other|, with d² the
    squared distance of the nearest patch to a prototype of the image's class, or of another one, and w_other the last
    layer's weights between prototypes and other classes. Not ``class_specific``: cluster over all prototypes, no
    separation, and l1 over all weights.
    """

    cross_entropy: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    cluster: float = Field(default=0.8, allow_inf_nan=False)
    separation: float = Field(default=-0.08, allow_inf_nan=False, description="below 0 pushes other classes away")
    l1: float = Field(default=1e-4, ge=0, allow_inf_nan=False)
    class_specific: bool = True


class RateSettings(Section):
    """Learning rates of Adam; 0: this part keeps its values."""

    backbone: float = Field(default=1e-4, ge=0, allow_inf_nan=False, description="in the joint stage")
    add_on: float = Field(default=3e-3, ge=0, allow_inf_nan=False)
    prototypes: float = Field(default=3e-3, gt=0, allow_inf_nan=False)
    last: float = Field(default=1e-4, gt=0, allow_inf_nan=False)
    weight_decay: float = Field(default=1e-3, ge=0, allow_inf_nan=False, description="of backbone and add-on layers")
    step: int | None = Field(default=5, ge=1, description="joint epochs until rates fall; null: they do not")
    factor: float = Field(default=0.1, gt=0, le=1, description="that they fall by")


class PrototypeTrainSettings(Section):
    """How a prototype network is trained; the defaults follow Chen et al. (2019), with fewer epochs.

    Warm epochs train add-on layers and prototypes, joint ones the backbone as well. After some epochs, and always after
    the last, prototypes are projected onto training patches, and the last layer is trained on the similarities.
    """

    epochs: int = Field(default=20, ge=1, description="in all")
    warm_epochs: int = Field(default=5, ge=0, description="the first ones, without the backbone")
    push_every: int = Field(default=5, ge=1, description="project after each of so many epochs")
    push_start: int = Field(default=10, ge=1, description="not before this epoch")
    last_iterations: int = Field(default=20, ge=0, description="epochs of the last layer after each projection")
    batch_size: int = Field(default=80, ge=1)
    rates: RateSettings = RateSettings()
    loss: LossSettings = LossSettings()
    avoid_duplicates: bool = Field(default=False, description="no two prototypes of a class on one patch")
    repeat: Literal["none", "balanced", "weighted"] | dict[str, int] = "none"
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    workers: int = Field(default=0, ge=0)
    seed: int = 0
    device: str = "auto"

    @model_validator(mode="after")
    def _warm_within(self) -> PrototypeTrainSettings:
        if self.warm_epochs > self.epochs:
            raise ValueError(f"{self.warm_epochs} warm epochs are more than the {self.epochs} in all; give fewer")
        return self

    @property
    def pushes(self) -> tuple[int, ...]:
        """Epochs after which prototypes are projected, counted from 1.

        Example:
            >>> PrototypeTrainSettings(epochs=12, warm_epochs=1, push_every=5, push_start=5).pushes
            (5, 10, 12)
        """
        every = range(self.push_every, self.epochs + 1, self.push_every)
        return tuple(sorted({*(epoch for epoch in every if epoch >= self.push_start), self.epochs}))

    def stages(self) -> tuple[Stage, ...]:
        """What is done, in order; rates are constant within a stage.

        Example:
            >>> for stage in PrototypeTrainSettings(epochs=8, warm_epochs=2, push_start=5).stages():
            ...     print(stage)
            warm: epochs 1 to 2 (add-on 0.003, prototypes 0.003)
            joint: epochs 3 to 5 (backbone 0.0001, add-on 0.003, prototypes 0.003)
            project the prototypes after epoch 5
            train the last layer for 20 epochs on similarities
            joint: epochs 6 to 7 (backbone 0.0001, add-on 0.003, prototypes 0.003)
            joint: epoch 8 (backbone 1e-05, add-on 0.0003, prototypes 0.0003)
            project the prototypes after epoch 8
            train the last layer for 20 epochs on similarities
        """
        rates, found = self.rates, list[Stage]()
        falls = set(range(self.warm_epochs, self.epochs, rates.step)) if rates.step else set()
        cuts = sorted({0, self.warm_epochs, *self.pushes, *falls})
        for begin, end in pairwise(cuts):
            warm = begin < self.warm_epochs
            fallen = rates.factor ** ((begin - self.warm_epochs) // rates.step) if rates.step and not warm else 1.0
            backbone = 0.0 if warm else rates.backbone * fallen
            own = (backbone, rates.add_on * fallen, rates.prototypes * fallen)
            found.append(TrainParts("warm" if warm else "joint", begin, end, *own))
            if end in self.pushes:
                found.append(Project(end))
                found += [RefitLast(self.last_iterations)] if self.last_iterations else []
        return tuple(found)


class PrototypePruneSettings(Section):
    """Which prototypes go.

    ``purity`` (Chen et al. 2019): those with fewer than ``threshold`` of their k nearest training patches from images
    of their class. ``relevance``: those that get least relevance from the logits of the true classes; ``usage``: those
    with the smallest share in the decisions for their class; both down to ``budget``.
    """

    criterion: Literal["purity", "relevance", "usage", "none"] = "purity"
    k: int = Field(default=6, ge=1)
    threshold: int = Field(default=3, ge=0)
    budget: float | None = Field(default=None, gt=0, le=1, description="share of prototypes that stay")
    per_class: int = Field(default=1, ge=0, description="so many stay in each class, whatever they score")
    disable: tuple[int, ...] = Field(default=(), description="numbers of prototypes that go in any case")
    last_iterations: int = Field(default=100, ge=0, description="epochs of the last layer afterwards")

    @model_validator(mode="after")
    def _together(self) -> PrototypePruneSettings:
        if self.threshold > self.k:
            raise ValueError(f"threshold {self.threshold} is above k = {self.k}: no prototype could stay")
        if self.criterion in ("relevance", "usage") and self.budget is None:
            raise ValueError(f"{self.criterion} ranks prototypes; give budget, the share of them that stays")
        if self.criterion in ("purity", "none") and self.budget is not None:
            raise ValueError(f"{self.criterion} takes no budget; rank by relevance or usage")
        return self


class ExplainPrototypesSettings(Section):
    """How much is shown."""

    top: int = Field(default=5, ge=1, description="prototypes of each image")
    boxes: tuple[BoxKind, ...] = Field(default=BOX_KINDS, min_length=1)


class PrototypeRecipe(BaseModel):
    """Everything that a command on prototype networks needs; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    data: DataSettings = Field(default_factory=DataSettings)
    network: NetworkSettings = Field(default_factory=NetworkSettings)
    train: PrototypeTrainSettings = Field(default_factory=PrototypeTrainSettings)
    prune: PrototypePruneSettings = Field(default_factory=PrototypePruneSettings)
    explain: ExplainPrototypesSettings = Field(default_factory=ExplainPrototypesSettings)
    tracking: TrackingSettings = Field(default_factory=TrackingSettings)
    device: str = "auto"
