"""What a comparison is asked for. Light: it is checked before PyTorch is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from secateur.core.errors import RequestError

Head = Literal["keep", "slice", "mask"]

HEAD = (
    "of a network that is to serve some classes only: keep all its logits, slice it to theirs, or mask the other ones"
)

WHOLE = "all"
"""The subset that is none."""


class SubsetSettings(BaseModel):
    """Classes that a network is to be pruned for: listed, evenly spaced, or drawn by chance.

    Evenly spaced sets are nested: of N classes, those at i·N / L (rounded down) for i = 0 ... L-1 are the largest set,
    and a set of k classes is the first k of them. So are the sets of 3, 10, 30 and 50 classes of published studies.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    classes: tuple[int | str, ...] = Field(default=(), description="indices or names")
    draw: int | None = Field(default=None, ge=2, description="that many classes, drawn by chance, in place of a list")
    seed: int = Field(default=0, description="of the draw")
    spaced: int | None = Field(default=None, ge=2, description="that many classes, evenly spaced, in place of a list")
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
        """Indices of its classes among ``names``, ascending."""
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


class CompareSettings(BaseModel):
    """What to compare.

    ``criteria`` are names, with parameters behind a colon: ``lrp:composite=epsilon-plus,reduce=abs``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

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
        default=(), description="masks of single weights, beside it: nothing gets faster"
    )
    subsets: tuple[SubsetSettings, ...] = Field(default=(), description="classes to prune for; none: all")
    replace_head: Head = Field(default="slice", description=HEAD)
    budgets: tuple[float, ...] = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
    kind: Literal["macs", "params", "units", "ratio"] = Field(
        default="macs", description="of budgets: the share that stays; ratio: the nominal share of units that goes"
    )
    seeds: tuple[int, ...] = (0, 1, 2)
    per_class: int = Field(default=10, ge=1, description="reference samples of each class")
    published: bool = Field(default=True, description="also one-shot, global, uncompensated, as in published studies")
    default: bool = Field(default=True, description="by the prune section, too; false: as published alone")
    split: Literal["val", "test"] = "test"
    limit: int | None = Field(
        default=None, ge=1, description="measure on this many images of the split, drawn by chance"
    )
    limit_per_class: int | None = Field(
        default=None, ge=1, description="measure on at most this many images of each class, drawn by chance"
    )
    finetune_budgets: tuple[float, ...] | None = Field(default=None, description="retrain at these alone; null: at all")
    finetune_published: bool = Field(default=True, description="retrain what was pruned as published, too")
    finetune_unstructured: bool = Field(default=False, description="retrain masked weights, too, under their mask")
    finetune_images: int | None = Field(default=None, ge=1, description="retrain on this many images; null: on all")
    finetune_images_per_class: int | None = Field(
        default=None, ge=1, description="retrain on at most this many images of each class"
    )
    finetune_choice: Literal["chance", "closest"] = Field(
        default="chance", description="of these images; closest: in KL divergence of the unpruned network's logits"
    )
    latency_repeats: int = Field(default=10, ge=0, description="rounds, 6 or more for an interval; 0: do not time")
    latency_batch: int = Field(default=64, ge=1)
    latency_seeds: int | None = Field(default=None, ge=1, description="time the networks of the first seeds alone")
    latency_subsets: int | None = Field(default=None, ge=1, description="likewise of the first subsets")
    onnx_budgets: tuple[float, ...] = Field(
        default=(), description="time the first subset's networks at these budgets in ONNX Runtime, too"
    )
    processes: int = Field(default=1, ge=0, description="side by side, one thread each; 0: as many as there are cores")
    trackers: tuple[str, ...] = Field(default=(), description="also log to: wandb, mlflow, tensorboard, trackio")

    @model_validator(mode="after")
    def _one_limit(self) -> CompareSettings:
        for name in ("limit", "finetune_images"):
            if getattr(self, name) is not None and getattr(self, f"{name}_per_class") is not None:
                raise ValueError(f"give either {name} or {name}_per_class")
        return self
