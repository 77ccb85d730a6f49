"""Reading one image file, distrustfully."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from secateur.core.errors import RequestError

MAX_PIXELS = 100_000_000


def read_image(path: Path, channels: int = 3, size: int | None = None) -> torch.Tensor:
    """One image as uint8 [C, H, W]; given ``size``, its central square resized to that side.

    16-bit grey values keep their upper 8 bits.

    Raises:
        RequestError: for an empty, truncated, foreign or larger than 100-megapixel file, or 32-bit pixels.
    """
    try:
        if path.stat().st_size == 0:
            raise RequestError(f"image '{path}' is empty (zero bytes)")
        with warnings.catch_warnings():
            # odd metadata does not matter while the pixels can be read, and our size limit is stricter
            warnings.simplefilter("ignore")
            with Image.open(path) as picture:
                width, height = picture.size
                if width * height > MAX_PIXELS:
                    raise RequestError(
                        f"image '{path}' has {width * height / 1e6:.0f} megapixels, "
                        f"more than the limit of {MAX_PIXELS / 1e6:.0f}; shrink it first"
                    )
                converted = _eight_bit(picture, path).convert("RGB" if channels == 3 else "L")
    except RequestError:
        raise
    except Image.DecompressionBombError as error:
        raise RequestError(
            f"image '{path}' has more than {MAX_PIXELS / 1e6:.0f} megapixels; shrink it first"
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error) as error:
        raise RequestError(f"image '{path}' cannot be read ({error}); repair it or use on_bad_sample: skip") from error
    if size is not None and converted.size != (size, size):
        # cut before resizing: a strip one pixel high would otherwise grow beyond any memory
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
        converted = converted.resize((size, size), Image.Resampling.BILINEAR, box=box)
    pixels = np.asarray(converted, np.uint8)
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1).copy()).permute(2, 0, 1)


def _eight_bit(picture: Image.Image, path: Path) -> Image.Image:
    """The picture in a mode whose conversion loses nothing: Pillow cuts values above 255 off."""
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PNG"):
        return Image.fromarray((np.asarray(picture).astype(np.uint32) >> 8).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise RequestError(f"image '{path}' has 32-bit pixels (mode {picture.mode}); convert it to 8 bits first")
    return picture


def centre_resized(images_NCHW: torch.Tensor, size: int) -> torch.Tensor:
    """The central squares of uint8 images, resized to ``size``: bilinear, with antialiasing.

    Args:
        images_NCHW: uint8 [N, C, H, W].
        size: side in pixels.

    Returns:
        uint8 [N, C, size, size].

    Example:
        >>> centre_resized(torch.full((1, 3, 8, 16), 7, dtype=torch.uint8), 4).unique().tolist()
        [7]
    """
    height, width = images_NCHW.shape[-2:]
    side = min(height, width)
    # the odd pixel is cut off as torchvision's centre crop does
    top, left = round((height - side) / 2), round((width - side) / 2)
    square = images_NCHW[..., top : top + side, left : left + side].to(torch.float32)
    resized = torch.nn.functional.interpolate(square, (size, size), mode="bilinear", antialias=True)
    return resized.round_().clamp_(0, 255).to(torch.uint8)
