"""What is searched, by what, and what the winner is measured against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from secateur.core.sections import Effect, Execution, Section
from secateur.data import DataSettings
from secateur.experiments import StudySettings
from secateur.models import ModelSettings
from secateur.pipeline import Recipe
from secateur.tracking import TrackingSettings

Rule = Literal["epsilon", "alpha2-beta1", "gamma", "z-plus"]
Units = Literal["all", "filters", "neurons", "heads"]
Goal = Literal["a_pr", "area_units", "area_params", "area_macs", "kept_rate"]

_RULES: tuple[Rule, ...] = ("epsilon", "alpha2-beta1", "gamma", "z-plus")
_Rate = Annotated[float, Field(ge=0, lt=1)]

OPTIMISED = "optimised"
"""The candidate that the search finds."""

KINDS: Mapping[str, frozenset[str]] = {
    "filters": frozenset({"channels", "groups", "stream"}),
    "neurons": frozenset({"neurons"}),
    "heads": frozenset({"heads"}),
}
"""Kinds of groups (`secateur.structure.Group`) that units of one name belong to."""


class SpaceSettings(Section):
    """What an attribution may be; a list of one value fixes it.

    Rules are those of the composite ``graded``: for the first quarter, the middle half and the last quarter of the
    weighted layers before the classifier, and for the classifier.
    """

    low: tuple[Rule, ...] = Field(default=_RULES, min_length=1, description="rules of the first quarter of the layers")
    middle: tuple[Rule, ...] = Field(default=_RULES, min_length=1, description="of the middle half")
    high: tuple[Rule, ...] = Field(default=_RULES, min_length=1, description="of the last quarter")
    classifier: tuple[Rule, ...] = Field(default=_RULES, min_length=1)
    gamma: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = Field(
        default=(0.01, 1.0), min_length=1, max_length=2, description="of the γ-rule: one value, or the ends of a range"
    )
    first: tuple[Literal["none", "flat", "w-square", "z-box"], ...] = Field(
        default=("none", "flat", "z-box"), min_length=1, description="of the layer that reads the input"
    )
    softmax: tuple[Literal["attnlrp", "attnlrp-plus", "cp-lrp"], ...] = Field(
        default=("attnlrp", "attnlrp-plus", "cp-lrp"),
        min_length=1,
        description="of attention; fixed where a network has none",
    )
    start: tuple[Literal["one", "logit", "contrast"], ...] = Field(default=("one", "logit", "contrast"), min_length=1)
    reduce: tuple[Literal["square", "abs", "signed", "abs-of-mean"], ...] = Field(
        default=("square", "abs", "signed"), min_length=1, description="over samples"
    )
    normalise: tuple[Literal["none", "l1", "l2"], ...] = Field(
        default=("none", "l1", "l2"), min_length=1, description="per layer"
    )
    at: tuple[Literal["readers", "makers"], ...] = Field(
        default=("readers", "makers"), min_length=1, description="layers that a unit's relevance is summed over"
    )
    order: tuple[Literal["least", "most"], ...] = Field(
        default=("least",), min_length=1, description="which units go first"
    )
    per_class: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(10,), min_length=1, description="reference samples of each class"
    )

    @model_validator(mode="after")
    def _distinct(self) -> SpaceSettings:
        for name in type(self).model_fields:
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"space.{name} has a value twice; give each once")
        if list(self.gamma) != sorted(self.gamma):
            raise ValueError("space.gamma is one value, or the ends of a range in ascending order")
        return self


class ObjectiveSettings(Section):
    """What makes a setting good."""

    goal: Goal = Field(
        default="a_pr",
        description="a_pr: mean accuracy over the rates; area_*: over the share of units, params or macs that is gone; "
        "kept_rate: the highest rate that keeps 95 % of the accuracy",
    )
    rates: tuple[_Rate, ...] = Field(
        default=tuple(round(0.05 * step, 2) for step in range(20)), min_length=2, description="shares that go, from 0"
    )
    strategy: Literal["global", "per-layer", "isomorphic"] = Field(
        default="global", description="how units are ranked, see `secateur.selection.select_nominal`"
    )
    units: Units = Field(default="all", description="which may go; the others stay")
    repair: Literal["none", "mean", "refit"] = Field(default="none", description="of each pruned network")
    classes: int | None = Field(
        default=None, ge=2, description="prune for that many classes, drawn anew by each seed; null: for all"
    )
    faithfulness: bool = Field(
        default=False, description="also search for faithful heatmaps, by pixel flipping: two objectives"
    )
    images: int = Field(default=100, ge=1, description="that heatmaps are flipped on")
    patch: int = Field(default=4, ge=1, description="side of a flipped patch, in pixels")


class SamplerSettings(Section):
    """How settings are proposed."""

    kind: Literal["gp", "tpe", "random", "grid"] = Field(
        default="gp", description="Gaussian process, tree-structured Parzen estimator (both Optuna's), chance, all"
    )
    known: bool = Field(
        default=True, description="begin with known composites, so that the winner is as good as they are at least"
    )
    startup: int = Field(default=10, ge=1, description="trials before gp and tpe begin, known composites among them")
    together: int = Field(
        default=4, ge=1, description="trials that are proposed from the same earlier ones: so many run side by side"
    )
    stop: bool = Field(
        default=True, description="stop a trial whose coarse curve is below the median of the earlier ones"
    )
    seed: int = 0


class TrialSettings(Section):
    """How much is tried."""

    count: int = Field(default=100, ge=1)


class SearchImages(Section):
    """Images and reference samples that trials are judged by."""

    split: Literal["train", "val"] = "val"
    limit: int | None = Field(default=2000, ge=1, description="that many images, drawn by chance; null: all")
    seeds: tuple[int, ...] = Field(
        default=(0,), min_length=1, description="of the reference samples (and classes); a trial is the mean over them"
    )
    batch_size: int = Field(default=250, ge=1)


class MeasureSettings(Section):
    """What the winner is measured against, on images that the search has not seen."""

    criteria: tuple[str, ...] = (
        "lrp",
        "lrp:composite=epsilon-plus",
        "lrp:composite=alpha2-beta1",
        "lrp:composite=epsilon-gamma-box",
        "lrp:composite=integrated-gradients",
        "taylor",
        "grad",
        "activation",
        "weight",
        "random",
    )
    seeds: tuple[int, ...] = Field(default=(0, 1, 2, 3, 4), min_length=1)
    samples: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(), description="also by these numbers of reference samples of each class"
    )
    sampled: tuple[str, ...] = Field(
        default=(OPTIMISED, "lrp"), description="criteria that are measured by several numbers of samples"
    )
    images: int = Field(default=4, ge=0, description="whose heatmaps under the best settings are shown; 0: none")


class MeasuredImages(Section):
    """Images of the final measurement."""

    split: Literal["val", "test"] = "test"
    limit: int | None = Field(default=None, ge=1, description="that many images, drawn by chance; null: all")
    per_class: int = Field(default=10, ge=1, description="reference samples, where a criterion does not say it")


class SearchStudySettings(StudySettings):
    """Settings of the study."""

    data: Annotated[DataSettings, Effect.INPUTS] = Field(default_factory=DataSettings)
    model: Annotated[ModelSettings, Effect.INPUTS] = Field(default_factory=ModelSettings)
    space: Annotated[SpaceSettings, Effect.RESULTS] = SpaceSettings()
    objective: Annotated[ObjectiveSettings, Effect.RESULTS] = ObjectiveSettings()
    sampler: Annotated[SamplerSettings, Effect.RESULTS] = SamplerSettings()
    trials: Annotated[TrialSettings, Effect.CELLS] = TrialSettings()
    search: Annotated[SearchImages, Effect.RESULTS] = SearchImages()
    measure: Annotated[MeasureSettings, Effect.CELLS] = MeasureSettings()
    measured: Annotated[MeasuredImages, Effect.RESULTS] = MeasuredImages()
    execution: Annotated[Execution, Effect.PRESENTATION] = Execution()
    tracking: Annotated[TrackingSettings, Effect.PRESENTATION] = Field(default_factory=TrackingSettings)
    device: Annotated[str, Effect.PRESENTATION] = "auto"

    @property
    def recipe(self) -> Recipe:
        """Data and network, as a recipe."""
        return Recipe(data=self.data, model=self.model, device=self.device)
