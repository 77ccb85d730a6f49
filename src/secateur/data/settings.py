"""Settings of data in recipes; neither PyTorch nor NumPy is loaded here."""

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
    is not. A whole number sets ``size`` only, for the central square.

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


class TableSettings(BaseModel):
    """Columns of a table of images, and the folder of the images.

    A column that is not named is recognised by its usual names (`secateur.data.manifest.USUAL`); ``""``, for ``group``
    and ``split``: leave it out, whatever the table has.

    Example:
        >>> TableSettings(label="finding", split="").label
        'finding'
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str | None = Field(default=None, min_length=1, description="column of the image files; null: by usual names")
    label: str | None = Field(default=None, min_length=1, description="column of the classes; null: by usual names")
    group: str | None = Field(
        default=None, description="column of lesion or patient; null: by usual names; empty: use none"
    )
    split: str | None = Field(
        default=None, description="column of train, val, test; null: by usual names; empty: use none"
    )
    root: Path | None = Field(default=None, description="folder of the images; null: that of the table")
    crop: bool = Field(
        default=False, description="cut images to the bounding box that the source gives (CUB-200-2011), then resize"
    )
    extension: str | None = Field(
        default=None, min_length=1, description="of paths without one, e.g. jpg; null: of the file that is there"
    )


class SplitSettings(BaseModel):
    """How images are split where the source has no splits.

    Example:
        >>> SplitSettings(test=0.25).val
        0.1
        >>> SplitSettings(test=0.6, val=0.4)
        Traceback (most recent call last):
            ...
        pydantic_core._pydantic_core.ValidationError: ...test 0.6 and val 0.4 leave nothing to train on...
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    test: float = Field(
        default=0.2,
        gt=0,
        lt=1,
        description="share of the images for the final figures; with singles: of those alone in a group",
    )
    val: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="share of the images for choices made in training; of those for training where the data or the "
        "file bring test images",
    )
    by: Literal["group", "image"] = Field(
        default="group", description="group: all images of a lesion or patient go together; image: each on its own"
    )
    file: Path | None = Field(
        default=None, description="a split written before; what it lacks, test or val, is parted off"
    )
    singles: bool = Field(
        default=False, description="as published for HAM10000: test images only from groups of one image"
    )

    @model_validator(mode="after")
    def _can_be_met(self) -> SplitSettings:
        if self.test + self.val > 1 - 1e-9:
            raise ValueError(f"test {self.test} and val {self.val} leave nothing to train on; keep their sum below 1")
        if self.singles and self.by == "image":
            raise ValueError("singles takes test images from groups of one image; it needs by: group")
        return self


class DataSettings(BaseModel):
    """The data to read, and how.

    ``source`` is one of:

    - the name of a data set that ``secateur data fetch`` has brought (``mnist5k`` also comes with the ``demo`` extra);
    - the path of a MedMNIST-layout ``.npz``;
    - an image folder (``train|val|test/class/*`` or ``class/*``);
    - a table of images (``.csv``, ``.tsv``, ``.parquet``), read as ``table`` says;
    - a folder of HAM10000, of the ISIC 2018 challenge, task 3, or of CUB-200-2011;
    - ``torchvision/NAME`` with ``root``;
    - ``hf:PATH``, a folder that the package ``datasets`` has saved, or ``hf:NAME`` of its hub with ``download``.

    Missing splits are split off the training images, class by class, according to ``split``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = "mnist5k"
    root: Path | None = Field(default=None, description="folder of torchvision data sets")
    download: bool = Field(default=False, description="let torchvision download into root, or datasets from its hub")
    table: TableSettings = Field(default_factory=TableSettings, description="columns of a table, folder of its images")
    split: SplitSettings = Field(default_factory=SplitSettings, description="of sources that do not say it themselves")
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
    cache: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="keep resized images of files in one array, decoded once; auto: those of tables, where that fits",
    )
    window: tuple[float, float] | None = Field(
        default=None, description="centre and width of the grey values of DICOM images; null: as the files say"
    )
    workers: int = Field(default=0, ge=0, description="threads that decode images; 0: as many as there are cores")
