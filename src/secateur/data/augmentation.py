"""Augmentation of training images by torchvision's v2 transforms, which use PyTorch's random numbers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torchvision.transforms import InterpolationMode, v2

from secateur.core.errors import RequestError
from secateur.data.dataset import Augmentation, ResizingAugmentation
from secateur.data.settings import Resize

AUGMENTATIONS: dict[str, Callable[[Resize | None], Augmentation | None]] = {
    "none": lambda resize: None,
    "shift": lambda resize: v2.RandomAffine(0, translate=(0.1, 0.1)),
    "flip": lambda resize: v2.RandomHorizontalFlip(),
    "crop-flip": lambda resize: v2.Compose([_PadCrop(4), v2.RandomHorizontalFlip()]),
    "resized-crop-flip": lambda resize: ResizingAugmentation(
        v2.Compose([_ResizedCrop(resize), v2.RandomHorizontalFlip()])
    ),
    "photo": lambda resize: _OnPicture(
        v2.RandomHorizontalFlip(),
        v2.RandomVerticalFlip(),
        v2.RandomRotation(20),
        v2.ColorJitter(brightness=0.1, contrast=0.1, hue=0.1),
    ),
}


class _OnPicture(v2.Transform):  # type: ignore[misc]
    """Transforms of a PIL image, as published recipes use them: changing the hue takes half as long as on tensors."""

    def __init__(self, *transforms: v2.Transform) -> None:
        super().__init__()
        self.transforms = v2.Compose(transforms)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Transform one CHW image."""
        changed: torch.Tensor = v2.functional.pil_to_tensor(self.transforms(v2.functional.to_pil_image(image)))
        return changed


class _PadCrop(v2.Transform):  # type: ignore[misc]
    """Pad by ``margin`` pixels and crop a random window of the image's own size."""

    def __init__(self, margin: int) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Crop one CHW image."""
        cropped: torch.Tensor = v2.RandomCrop(tuple(image.shape[-2:]), padding=self.margin)(image)
        return cropped


class _ResizedCrop(v2.Transform):  # type: ignore[misc]
    """A random window of 8 to 100 % of the image's area and 3:4 to 4:3 in shape, resized (antialiased).

    The result has the size that ``resize`` gives to other images or, without it, the size of the image.
    """

    def __init__(self, resize: Resize | None) -> None:
        super().__init__()
        self.resize = resize

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Crop one CHW image."""
        size = tuple(image.shape[-2:]) if self.resize is None else (self.resize.side, self.resize.side)
        kind = InterpolationMode("bilinear" if self.resize is None else self.resize.interpolation)
        cropped: torch.Tensor = v2.RandomResizedCrop(size, interpolation=kind, antialias=True)(image)
        return cropped


def augmentation(name: str, resize: Resize | None = None) -> Augmentation | None:
    """The named transform of one uint8 CHW image, or None for ``none``.

    Args:
        name: one of `secateur.data.settings.AUGMENTATION_NAMES`.
        resize: how images are resized where they are not augmented.

    Raises:
        RequestError: for an unknown name.
    """
    if name not in AUGMENTATIONS:
        raise RequestError(f"unknown augmentation '{name}'; known: {', '.join(AUGMENTATIONS)}")
    return AUGMENTATIONS[name](resize)
