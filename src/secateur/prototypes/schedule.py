"""What is done in training, stage by stage; printable, and light."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias


@dataclass(frozen=True)
class TrainParts:
    """Epochs ``begin`` + 1 to ``end`` with constant learning rates; 0: this part is not trained."""

    kind: Literal["warm", "joint"]
    begin: int
    end: int
    backbone: float
    add_on: float
    prototypes: float

    def __str__(self) -> str:
        one = self.end == self.begin + 1
        epochs = f"epoch {self.end}" if one else f"epochs {self.begin + 1} to {self.end}"
        parts = (("backbone", self.backbone), ("add-on", self.add_on), ("prototypes", self.prototypes))
        return f"{self.kind}: {epochs} ({', '.join(f'{name} {rate:.3g}' for name, rate in parts if rate)})"


@dataclass(frozen=True)
class Project:
    """Prototypes become their nearest training patches."""

    epoch: int

    def __str__(self) -> str:
        return f"project the prototypes after epoch {self.epoch}"


@dataclass(frozen=True)
class RefitLast:
    """The last layer is trained on the similarities of the training images."""

    iterations: int

    def __str__(self) -> str:
        return f"train the last layer for {self.iterations} epochs on similarities"


Stage: TypeAlias = TrainParts | Project | RefitLast
