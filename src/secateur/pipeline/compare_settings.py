"""Settings of comparisons, which are checked before PyTorch is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from secateur.core.errors import RequestError
from secateur.core.sections import Effect, Execution, Section

Head = Literal["keep", "slice", "mask"]

HEAD = (
    "of a network that is to serve some classes only: keep all its logits, slice it to theirs, or mask the other ones"
)

WHOLE = "all"
"""The name for no subset."""


class SubsetSettings(BaseModel):
    """Classes for which a network is pruned: listed, evenly spaced, or drawn at random.

    Evenly spaced sets are nested: of N classes, those at i·N / L (rounded down) for i = 0 ... L-1 are the largest set,
    and a set of k classes is the first k of them. So are the sets of 3, 10, 30 and 50 classes of published studies.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    classes: tuple[int | str, ...] = Field(default=(), description="indices or names")
    draw: int | None = Field(default=None, ge=2, description="number of classes drawn at random, instead of a list")
    seed: int = Field(default=0, description="seed of the draw")
    spaced: int | None = Field(default=None, ge=2, description="number of evenly spaced classes, instead of a list")
    largest: int = Field(
        default=50, ge=2, description="classes of the largest evenly spaced set, of which smaller ones are the first"
    )

    @model_validator(mode="after")
    def _one_way(self) -> SubsetSettings:
        if (self.draw is not None) + (self.spaced is not None) + bool(self.classes) != 1:
            raise ValueError(f"subset '{self.name}' needs one of classes, spaced and draw")
        if self.spaced is not None and self.spaced > self.largest:
            raise ValueError(f"subset '{self.name}' has {self.spaced} classes of {self.largest}; raise largest")
        return self

    def indices(self, names: Sequence[str]) -> tuple[int, ...]:
        """Indices of the classes among ``names``, ascending."""
        from secateur.core.randomness import numpy_generator
        from secateur.data import class_indices

        if self.spaced is not None:
            largest = min(self.largest, len(names))
            if self.spaced > largest:
                raise RequestError(
                    f"subset '{self.name}' asks for {self.spaced} classes, there are {len(names)}; ask for fewer"
                )
            return tuple(i * len(names) // largest for i in range(self.spaced))
        if self.draw is None:
            return class_indices(self.classes, names)
        if self.draw > len(names):
            raise RequestError(f"subset '{self.name}' draws {self.draw} classes, there are {len(names)}; draw fewer")
        drawn = numpy_generator(self.seed, "subset", self.draw).permutation(len(names))[: self.draw]
        return tuple(sorted(int(i) for i in drawn))


class VariantSettings(Section):
    """What is compared: each setting adds rows to the table.

    ``criteria`` are names, with parameters after a colon: ``lrp:composite=epsilon-plus,reduce=abs``.
    """

    criteria: tuple[str, ...] = (
        "lrp",
        "lrp:composite=epsilon-plus",
        "taylor",
        "grad",
        "activation",
        "weight",
        "random",
    )
    blind: tuple[str, ...] = Field(default=(), description="criteria that are also scored on all classes")
    unstructured: tuple[Literal["magnitude", "gradient", "taylor", "random"], ...] = Field(
        default=(), description="masks of single weights, in addition: nothing gets faster"
    )
    subsets: tuple[SubsetSettings, ...] = Field(default=(), description="classes to prune for; none: all")
    seeds: tuple[int, ...] = (0, 1, 2)
    published: bool = Field(default=True, description="also one-shot, global, uncompensated, as in published studies")
    default: bool = Field(default=True, description="by the prune section, too; false: as published alone")


class TargetSettings(Section):
    """The sizes to which networks are pruned."""

    budgets: tuple[float, ...] = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
    kind: Literal["macs", "params", "units", "ratio"] = Field(
        default="macs", description="of budgets: the share that stays; ratio: the nominal share of removed units"
    )
    replace_head: Head = Field(default="slice", description=HEAD)


class SamplingSettings(Section):
    """Reference samples, and the images on which networks are measured."""

    per_class: int = Field(default=10, ge=1, description="reference samples of each class")
    split: Literal["val", "test"] = "test"
    limit: int | None = Field(
        default=None, ge=1, description="measure on this many images of the split, drawn at random"
    )
    limit_per_class: int | None = Field(
        default=None, ge=1, description="measure on at most this many images of each class, drawn at random"
    )

    @model_validator(mode="after")
    def _one_limit(self) -> SamplingSettings:
        if self.limit is not None and self.limit_per_class is not None:
            raise ValueError("give either limit or limit_per_class")
        return self


class RetrainingSettings(Section):
    """Which networks are retrained, and on which images; the section ``finetune`` says how."""

    budgets: tuple[float, ...] | None = Field(default=None, description="retrain at these budgets only; null: at all")
    published: bool = Field(default=True, description="also retrain networks that were pruned as published")
    unstructured: bool = Field(default=False, description="also retrain networks with masked weights, under their mask")
    images: int | None = Field(default=None, ge=1, description="retrain on this many images; null: on all")
    images_per_class: int | None = Field(
        default=None, ge=1, description="retrain on at most this many images of each class"
    )
    choice: Literal["chance", "closest"] = Field(
        default="chance", description="of these images; closest: in KL divergence of the unpruned network's logits"
    )

    @model_validator(mode="after")
    def _one_limit(self) -> RetrainingSettings:
        if self.images is not None and self.images_per_class is not None:
            raise ValueError("give either images or images_per_class")
        return self


class TimingSettings(Section):
    """How networks are timed."""

    repeats: int = Field(default=10, ge=0, description="rounds, 6 or more for an interval; 0: do not time")
    batch: int = Field(default=64, ge=1)
    onnx_budgets: tuple[float, ...] = Field(
        default=(), description="time the first subset's networks at these budgets in ONNX Runtime, too"
    )


class TimedSettings(Section):
    """Which networks are timed."""

    seeds: int | None = Field(default=None, ge=1, description="only networks of this many first seeds")
    subsets: int | None = Field(default=None, ge=1, description="only networks of this many first subsets")


class CompareSettings(BaseModel):
    """What to compare."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    variants: Annotated[VariantSettings, Effect.CELLS] = VariantSettings()
    targets: Annotated[TargetSettings, Effect.RESULTS] = TargetSettings()
    sampling: Annotated[SamplingSettings, Effect.RESULTS] = SamplingSettings()
    retraining: Annotated[RetrainingSettings, Effect.RESULTS] = RetrainingSettings()
    timing: Annotated[TimingSettings, Effect.RESULTS] = TimingSettings()
    timed: Annotated[TimedSettings, Effect.CELLS] = TimedSettings()
    execution: Annotated[Execution, Effect.PRESENTATION] = Execution()
