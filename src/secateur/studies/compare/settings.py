"""Settings of a comparison: those of its own, and the recipe's sections that it works by."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from secateur.core.sections import Effect
from secateur.data import DataSettings
from secateur.experiments import StudySettings
from secateur.models import ModelSettings
from secateur.pipeline import CompareSettings, PruneSettings, Recipe
from secateur.tracking import TrackingSettings
from secateur.training import TrainSettings


class CompareStudySettings(StudySettings):
    """The sections of a recipe that a comparison looks at."""

    data: Annotated[DataSettings, Effect.INPUTS] = Field(default_factory=DataSettings)
    model: Annotated[ModelSettings, Effect.INPUTS] = Field(default_factory=ModelSettings)
    prune: Annotated[PruneSettings, Effect.CELLS] = Field(default_factory=PruneSettings)
    finetune: Annotated[TrainSettings, Effect.RESULTS] = Field(
        default_factory=lambda: TrainSettings(epochs=0, learning_rate=0.01)
    )
    compare: CompareSettings = Field(default_factory=CompareSettings)
    tracking: Annotated[TrackingSettings, Effect.PRESENTATION] = Field(default_factory=TrackingSettings)
    device: Annotated[str, Effect.PRESENTATION] = "auto"

    @classmethod
    def of(cls, recipe: Recipe) -> CompareStudySettings:
        """Of a recipe for any command."""
        return cls(**{name: getattr(recipe, name) for name in cls.model_fields if name != "schema_version"})

    @property
    def recipe(self) -> Recipe:
        """As a recipe; what a comparison does not look at has its defaults."""
        return Recipe(**{name: getattr(self, name) for name in type(self).model_fields if name != "schema_version"})
