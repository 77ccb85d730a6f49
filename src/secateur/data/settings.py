"""What data to read and how, as a recipe says it. Light: neither PyTorch nor NumPy is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

AUGMENTATION_NAMES = ("none", "shift", "flip", "crop-flip", "resized-crop-flip", "photo")
"""What `secateur.data.augmentation` makes."""

TORCHVISION_NAMES = ("cifar10", "cifar100", "fashion-mnist", "gtsrb", "imagenette", "imagenet")
"""What ``torchvision/NAME`` reads; see `secateur.data.torchvision_sets`."""


class Resize(BaseModel):
    """Images of one size: the shorter side becomes ``size`` pixels, of that the central ``crop`` by ``crop`` are taken.

    As torchvision's ``Resize`` and ``CenterCrop`` do it with PIL images: bilinear and bicubic are antialiased, nearest
    is not. A whole number stands for ``size`` alone, which gives the central square.

    Example:
        >>> Resize(size=256, crop=224).side, Resize.model_validate(64).side
        (224, 64)
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int = Field(ge=4, le=4096, description="of the shorter side, in pixels")
    crop: int | None = Field(default=None, ge=4, description="side of the central square that is taken; null: size")
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"

    @model_validator(mode="before")
    @classmethod
    def _size_alone(cls, value: Any) -> Any:
        return {"size": value} if isinstance(value, int) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _crop_fits(self) -> Resize:
        if self.crop is not None and self.crop > self.size:
            raise ValueError(f"a crop of {self.crop} does not fit in a shorter side of {self.size}")
        return self

    @property
    def side(self) -> int:
        """Of the images that come out, in pixels."""
        return self.size if self.crop is None else self.crop

    def __str__(self) -> str:
        return f"shorter side {self.size}, centre crop {self.side}, {self.interpolation}"


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
    resize: Resize | None = Field(
        default=None, description="size, crop, interpolation; null: as the network's record says, else as stored"
    )
    follow_network: bool = Field(
        default=True, description="resize and normalise as the network's record says; false: measure normalisation here"
    )
    channels: Literal[1, 3] | None = None
    augmentation: str = Field(default="none", description=f"for training: {', '.join(AUGMENTATION_NAMES)}")
    on_bad_sample: Literal["fail", "skip"] = "fail"
    seed: int = Field(default=0, description="of splits made here, where the source has none")
    limit: int | None = Field(default=None, ge=1, description="use at most this many samples per split")
    classes: tuple[int | str, ...] | None = Field(
        default=None, description="use the images of these classes only, by name or index; labels stay as they are"
    )
