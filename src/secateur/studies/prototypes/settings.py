"""What is pruned of a prototype network, by what, and how it is trained afterwards."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from secateur.core.sections import Effect, Execution, Section
from secateur.data import DataSettings
from secateur.experiments import StudySettings
from secateur.pipeline import PruneSettings
from secateur.prototypes.removal import GROUP
from secateur.prototypes.settings import (
    NetworkSettings,
    PrototypePruneSettings,
    PrototypeRecipe,
    PrototypeTrainSettings,
)
from secateur.tracking import TrackingSettings


class WaySettings(Section):
    """A way to prune a prototype network.

    Attributes:
        name: in tables.
        backbone: criterion that scores the backbone's units, with parameters behind a colon; None: they all stay.
        prototypes: whether prototypes go, too; they go first.
    """

    name: str = Field(min_length=1)
    backbone: str | None = None
    prototypes: bool = False

    @model_validator(mode="after")
    def _something(self) -> WaySettings:
        if self.backbone is None and not self.prototypes:
            raise ValueError(f"way '{self.name}' prunes nothing; give backbone, or prototypes: true")
        return self


WAYS = (
    WaySettings(name="relevance", backbone="lrp"),
    WaySettings(name="weight", backbone="weight"),
    WaySettings(name="prototypes", prototypes=True),
    WaySettings(name="relevance + prototypes", backbone="lrp", prototypes=True),
)


class VariantSettings(Section):
    """What is compared."""

    ways: tuple[WaySettings, ...] = Field(default=WAYS, min_length=1)
    macs: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        default=(0.5, 0.35),
        min_length=1,
        description="shares of the whole network's MACs that stay, in ways that prune the backbone",
    )
    seeds: tuple[int, ...] = Field(
        default=(0, 1, 2),
        min_length=1,
        description="a network is trained for each; also of reference samples and later training",
    )


class ReferenceSampleSettings(Section):
    """Images that criteria look at."""

    per_class: int = Field(default=10, ge=1)


class MeasuredOn(Section):
    """What networks are measured on."""

    split: Literal["val", "test"] = "test"


class PrototypeStudySettings(StudySettings):
    """Settings of the study."""

    data: Annotated[DataSettings, Effect.INPUTS] = Field(default_factory=DataSettings)
    network: Annotated[NetworkSettings, Effect.RESULTS] = NetworkSettings()
    train: Annotated[PrototypeTrainSettings, Effect.RESULTS] = Field(
        default_factory=PrototypeTrainSettings, description="of the unpruned network; its seed is that of the variant"
    )
    variants: Annotated[VariantSettings, Effect.CELLS] = VariantSettings()
    reference: Annotated[ReferenceSampleSettings, Effect.RESULTS] = ReferenceSampleSettings()
    backbone: Annotated[PruneSettings, Effect.RESULTS] = Field(
        default_factory=PruneSettings, description="how units of the backbone go; prototypes are protected from it"
    )
    prototypes: Annotated[PrototypePruneSettings, Effect.RESULTS] = Field(
        default_factory=PrototypePruneSettings,
        description="how prototypes go; its last_iterations train the last layer in every way",
    )
    tune: Annotated[PrototypeTrainSettings, Effect.RESULTS] = Field(
        default_factory=lambda: PrototypeTrainSettings(epochs=3, warm_epochs=0, push_every=3, push_start=3),
        description="training of the pruned network, which ends with a projection",
    )
    measure: Annotated[MeasuredOn, Effect.RESULTS] = MeasuredOn()
    execution: Annotated[Execution, Effect.PRESENTATION] = Execution()
    tracking: Annotated[TrackingSettings, Effect.PRESENTATION] = Field(default_factory=TrackingSettings)
    device: Annotated[str, Effect.PRESENTATION] = "auto"

    def recipe(self, seed: int) -> PrototypeRecipe:
        """The unpruned network of one seed, and its data."""
        train = self.train.model_copy(update={"seed": seed})
        return PrototypeRecipe(data=self.data, network=self.network, train=train, device=self.device)

    @property
    def protected(self) -> PruneSettings:
        """How units of the backbone go, and no prototype."""
        return self.backbone.model_copy(update={"protect": tuple(dict.fromkeys((*self.backbone.protect, GROUP)))})
