"""How to train. Light: settings are checked before PyTorch is loaded."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class DistillationSettings(BaseModel):
    """How much a student learns from its teacher.

    The loss is (1 - w) CE(student, labels) + w T² KL(softmax(teacher / T) || softmax(student / T)), means over the
    samples; T² keeps the size of the gradient when the temperature T changes (Hinton, Vinyals & Dean 2015).

    A ``masked`` teacher is the published protocol of class-aware pruning (see the method page of the docs); learning
    from the ``unpruned`` network is Secateur's own default.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    teacher: Literal["unpruned", "masked"] = Field(
        default="unpruned",
        description="masked: by weight magnitude to the same number of parameters, then retrained under its mask",
    )
    temperature: float = Field(default=3.0, gt=0, allow_inf_nan=False)
    weight: float = Field(default=0.7, ge=0, le=1, description="share w of the teacher in the loss")


WHERE = frozenset({"device", "workers", "sharding"})
"""Settings of a training that say where it runs, and change nothing of what comes out."""


class TrainSettings(BaseModel):
    """How to train; the defaults train small CNNs from scratch.

    Learning rate, momentum and weight decay are per step; ``step_epochs`` are the epochs at which the
    ``step`` schedule multiplies the rate by ``step_factor``. Norm parameters and biases are not decayed; ``adam`` adds
    the decay to the gradient, ``adamw`` applies it to the weights (Loshchilov & Hutter 2019).
    ``fp16`` needs a GPU; Apple's GPUs train in single precision whatever is asked.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(default=10, ge=0)
    batch_size: int = Field(default=128, ge=1)
    optimiser: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: float = Field(default=0.1, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = True
    weight_decay: float = Field(default=5e-4, ge=0)
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    warmup_epochs: float = Field(default=0.0, ge=0)
    step_epochs: tuple[int, ...] = ()
    step_factor: float = Field(default=0.1, gt=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    gradient_clip: float | None = Field(default=None, gt=0, description="largest gradient norm")
    keep: Literal["best", "last"] = Field(default="best", description="which epoch's weights to return")
    monitor: Literal["val_accuracy", "val_loss"] = Field(
        default="val_accuracy", description="validation metric that says which epoch is best, and when to stop"
    )
    patience: int | None = Field(default=None, ge=1, description="stop after this many epochs without a better one")
    min_delta: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="for patience, better is what is better by more than this: a share (0.001: 0.1 points), or nats",
    )
    repeat: Literal["none", "balanced", "weighted"] | dict[str, int] = Field(
        default="none",
        description="training samples of rare classes several times an epoch: balanced, {class: times}, or weighted: "
        "drawn with all classes equally likely",
    )
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    workers: int = Field(default=0, ge=0)
    seed: int = 0
    device: str = "auto"
    sharding: Literal["none", "full"] = Field(
        default="none",
        description="full: of several ranks, each keeps its part of parameters, gradients and optimiser state (FSDP2), "
        "for networks that do not fit one GPU; one rank trains as without",
    )
    distillation: DistillationSettings | None = Field(default=None, description="learn from a teacher as well")

    @field_validator("mixed_precision", mode="before")
    @classmethod
    def _no_in_yaml(cls, value: object) -> object:
        return "no" if value is False else value  # what YAML reads in an unquoted no

    @model_validator(mode="after")
    def _min_delta_of_patience(self) -> TrainSettings:
        if self.min_delta and self.patience is None:
            raise ValueError("min_delta is for early stopping; set patience, too")
        return self
