"""Augmentation of training images, by torchvision's v2 transforms."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torchvision.transforms import v2

from secateur.core.errors import RequestError

AUGMENTATIONS: dict[str, Callable[[], v2.Transform | None]] = {
    "none": lambda: None,
    "shift": lambda: v2.RandomAffine(0, translate=(0.1, 0.1)),
    "flip": lambda: v2.RandomHorizontalFlip(),
    "crop-flip": lambda: v2.Compose([_PadCrop(4), v2.RandomHorizontalFlip()]),
    "photo": lambda: v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            v2.RandomRotation(20),
            v2.ColorJitter(brightness=0.1, contrast=0.1, hue=0.1),
        ]
    ),
}


class _PadCrop(v2.Transform):  # type: ignore[misc]
    """Pad by ``margin`` pixels and crop a random window of the image's own size."""

    def __init__(self, margin: int) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Crop one CHW image."""
        cropped: torch.Tensor = v2.RandomCrop(tuple(image.shape[-2:]), padding=self.margin)(image)
        return cropped


def augmentation(name: str) -> v2.Transform | None:
    """The named transform of one uint8 CHW image, or None for ``none``."""
    if name not in AUGMENTATIONS:
        raise RequestError(f"unknown augmentation '{name}'; known: {', '.join(AUGMENTATIONS)}")
    return AUGMENTATIONS[name]()
