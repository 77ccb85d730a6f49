"""What data to read and how, as a recipe says it. Light: neither PyTorch nor NumPy is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

AUGMENTATION_NAMES = ("none", "shift", "flip", "crop-flip", "photo")
"""What `secateur.data.augmentation` makes."""

TORCHVISION_NAMES = ("cifar10", "cifar100", "fashion-mnist", "gtsrb", "imagenette", "imagenet")
"""What ``torchvision/NAME`` reads; see `secateur.data.torchvision_sets`."""


class DataSettings(BaseModel):
    """What to read and how.

    ``source`` is the name of a data set that ``secateur data fetch`` has brought (``mnist5k`` also comes with the
    ``demo`` extra), the path of a MedMNIST-layout ``.npz``, an image folder (``train|val|test/class/*`` or
    ``class/*``), or ``torchvision/NAME`` with ``root``. Splits that the source lacks are parted off its training
    images, class by class.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = "mnist5k"
    root: Path | None = Field(default=None, description="folder of torchvision data sets")
    download: bool = Field(default=False, description="let torchvision download into root")
    size: int | None = Field(default=None, ge=4, le=4096, description="crop and resize to this side, in pixels")
    channels: Literal[1, 3] | None = None
    augmentation: str = Field(default="none", description=f"for training: {', '.join(AUGMENTATION_NAMES)}")
    on_bad_sample: Literal["fail", "skip"] = "fail"
    seed: int = Field(default=0, description="of splits made here, where the source has none")
    limit: int | None = Field(default=None, ge=1, description="use at most this many samples per split")
    classes: tuple[int | str, ...] | None = Field(
        default=None, description="use the images of these classes only, by name or index; labels stay as they are"
    )
