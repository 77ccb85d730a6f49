"""What is pruned in steps, by what, and how it is trained between them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from secateur.core.sections import Effect, Execution, Section
from secateur.data import DataSettings
from secateur.experiments import StudySettings
from secateur.models import ModelSettings
from secateur.pipeline import PruneSettings, Recipe
from secateur.tracking import TrackingSettings
from secateur.training import TrainSettings

VERSION = 2
"""Of the studies that prune in steps; raised when their results change."""

PUBLISHED_CRITERIA = (
    "lrp:composite=epsilon-plus,bias=false,start=one,reduce=abs,positions=abs,normalise=l1,at=makers",
    "weight:p=1,normalise=l1",
    "grad:reduce=abs-of-mean,normalise=l2,at=makers",
    "taylor:reduce=abs-of-mean,normalise=l2,at=makers",
)
"""As Yeom et al. (2021) and the coursework on HAM10000 score filters.

The z⁺-rule for convolutions, without biases, ε for linear layers, start 1, Σ|R|; Σ|w|; |Σ g|; |Σ x·g|; each divided by
its layer's norm.
"""


class ProtocolSettings(Section):
    """A way to score and to remove units.

    Attributes:
        name: in tables.
        criteria: names, with parameters behind a colon.
        prune: strategy and repair; its schedule and step do not matter, those of the study do.
        per_class: reference samples of each class; None: all training images.
    """

    name: str = Field(min_length=1)
    criteria: tuple[str, ...] = Field(min_length=1)
    prune: PruneSettings = Field(default_factory=PruneSettings)
    per_class: int | None = Field(default=10, ge=1, description="reference samples of each class; null: all there are")


def published(**changes: object) -> ProtocolSettings:
    """The published protocol: all filters ranked together by scores on all training images, nothing repaired."""
    whole = {"name": "published", "criteria": PUBLISHED_CRITERIA, "prune": PruneSettings.published(), "per_class": None}
    return ProtocolSettings(**{**whole, **changes})  # type: ignore[arg-type]


def ours(**changes: object) -> ProtocolSettings:
    """Secateur's own: the strategy and repair of `secateur prune`, on few reference samples."""
    return ProtocolSettings(**{"name": "ours", "criteria": ("lrp", "weight", "grad", "taylor"), **changes})  # type: ignore[arg-type]


class VariantSettings(Section):
    """What is compared."""

    protocols: tuple[ProtocolSettings, ...] = Field(default_factory=lambda: (published(), ours()), min_length=1)
    seeds: tuple[int, ...] = Field(
        default=(0, 1, 2), min_length=1, description="of reference samples, of chance, and of fine-tuning"
    )


class StepSettings(Section):
    """How much goes at once, and in all.

    Example:
        >>> StepSettings(step=0.15, total=0.6).shares()
        (0.85, 0.7, 0.55, 0.4)
        >>> StepSettings(step=0.2, of="rest", total=None, count=3).shares()
        (0.8, 0.64, 0.512)
    """

    kind: Literal["units", "params", "macs"] = Field(default="units", description="what is counted")
    step: float = Field(default=0.15, gt=0, lt=1, description="share that goes in each step")
    of: Literal["whole", "rest"] = Field(
        default="whole", description="of what a step is the share: the unpruned network, or what the step before left"
    )
    total: float | None = Field(
        default=0.6, gt=0, lt=1, description="share that goes in all; the last step is cut to it"
    )
    count: int | None = Field(default=None, ge=1, description="steps, where no total is given")

    @model_validator(mode="after")
    def _one_end(self) -> StepSettings:
        if (self.total is None) == (self.count is None):
            raise ValueError("steps end at a total share or after a count; give one of total and count")
        if self.count is not None and self.of == "whole" and self.step * self.count >= 1:
            raise ValueError(f"{self.count} steps of {self.step:g} of the whole leave nothing; give fewer")
        return self

    def shares(self) -> tuple[float, ...]:
        """What is left after each step."""
        found: list[float] = []
        least = 0.0 if self.total is None else 1 - self.total
        while (len(found) < self.count) if self.count is not None else (not found or found[-1] > least + 1e-9):
            before = found[-1] if found else 1.0
            left = before * (1 - self.step) if self.of == "rest" else 1 - self.step * (len(found) + 1)
            found.append(round(max(left, least), 12))
        return tuple(found)


class MeasureSettings(Section):
    """What networks are measured on."""

    split: Literal["val", "test"] = "test"
    limit: int | None = Field(default=None, ge=1, description="this many images, drawn by chance; null: all")


class TimingSettings(Section):
    """How networks are timed, those of the first seed alone."""

    repeats: int = Field(default=10, ge=0, description="rounds, 6 or more for an interval; 0: do not time")
    batch: int = Field(default=32, ge=1)


class PictureSettings(Section):
    """Heatmaps of the same images, before and after all steps, of the first seed."""

    images: int = Field(default=7, ge=0, description="spread over the classes; 0: none")


class StepwiseSettings(StudySettings):
    """Settings of the study."""

    data: Annotated[DataSettings, Effect.INPUTS] = Field(default_factory=DataSettings)
    model: Annotated[ModelSettings, Effect.INPUTS] = Field(default_factory=ModelSettings)
    train: Annotated[TrainSettings, Effect.INPUTS] = Field(
        default_factory=lambda: TrainSettings(epochs=0),
        description="training of the unpruned network; 0 epochs: it has trained weights",
    )
    variants: Annotated[VariantSettings, Effect.CELLS] = Field(default_factory=VariantSettings)
    steps: Annotated[StepSettings, Effect.RESULTS] = StepSettings()
    finetune: Annotated[TrainSettings, Effect.RESULTS] = Field(
        default_factory=lambda: TrainSettings(epochs=1, learning_rate=0.01), description="after each step"
    )
    final_epochs: Annotated[int, Effect.RESULTS] = Field(default=0, ge=0, description="of fine-tuning after all steps")
    measure: Annotated[MeasureSettings, Effect.RESULTS] = MeasureSettings()
    timing: Annotated[TimingSettings, Effect.RESULTS] = TimingSettings()
    pictures: Annotated[PictureSettings, Effect.RESULTS] = PictureSettings()
    execution: Annotated[Execution, Effect.PRESENTATION] = Execution()
    tracking: Annotated[TrackingSettings, Effect.PRESENTATION] = Field(default_factory=TrackingSettings)
    device: Annotated[str, Effect.PRESENTATION] = "auto"

    @property
    def recipe(self) -> Recipe:
        """Data, network and its training, as a recipe."""
        return Recipe(data=self.data, model=self.model, train=self.train, finetune=self.finetune, device=self.device)
