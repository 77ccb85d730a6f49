"""How to train. Light: settings are checked before PyTorch is loaded."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class DistillationSettings(BaseModel):
    """How much a student learns from its teacher.

    The loss is (1 - w) CE(student, labels) + w T² KL(softmax(teacher / T) || softmax(student / T)), means over the
    samples; T² keeps the size of the gradient when the temperature T changes (Hinton, Vinyals & Dean 2015).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    temperature: float = Field(default=3.0, gt=0, allow_inf_nan=False)
    weight: float = Field(default=0.7, ge=0, le=1, description="share w of the teacher in the loss")


class TrainSettings(BaseModel):
    """How to train; the defaults train small CNNs from scratch.

    Learning rate, momentum and weight decay are per step; ``step_epochs`` are the epochs at which the
    ``step`` schedule multiplies the rate by ``step_factor``. Norm parameters and biases are not decayed.
    ``fp16`` needs a GPU; Apple's GPUs train in single precision whatever is asked.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(default=10, ge=0)
    batch_size: int = Field(default=128, ge=1)
    optimiser: Literal["sgd", "adamw"] = "sgd"
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
    patience: int | None = Field(default=None, ge=1, description="stop after this many epochs without a better one")
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    workers: int = Field(default=0, ge=0)
    seed: int = 0
    device: str = "auto"
    distillation: DistillationSettings | None = Field(default=None, description="learn from a teacher as well")
