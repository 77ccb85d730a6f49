"""Reads an image file that may be broken or malicious; PyTorch is loaded for tensors only."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from secateur.core.errors import RequestError
from secateur.data.dicom import is_dicom, read_dicom
from secateur.data.settings import Resize

if TYPE_CHECKING:
    import torch

MAX_PIXELS = 100_000_000
_LONGEST = 8  # times the shorter side: what lies beyond is cut off before resizing


def read_image(
    path: Path, channels: int = 3, resize: Resize | None = None, window: tuple[float, float] | None = None
) -> torch.Tensor:
    """One image as uint8 [C, H, W], resized if requested; see `read_pixels`.

    Raises:
        RequestError: see `read_pixels`.
    """
    import torch  # checks read pixels without it

    with warnings.catch_warnings():
        # odd metadata does not matter while the pixels can be read, and our size limit is stricter
        warnings.simplefilter("ignore")
        pixels_HWC = read_pixels(path, channels, resize, window)
    return torch.from_numpy(pixels_HWC).permute(2, 0, 1)


def read_pixels(
    path: Path,
    channels: int = 3,
    resize: Resize | None = None,
    window: tuple[float, float] | None = None,
    box: tuple[int, int, int, int] | None = None,
) -> np.ndarray:
    """One image as uint8 [H, W, C]; may be called by several threads, and warns as Pillow does.

    Pixels are taken as stored: an orientation in the EXIF data is not applied, nor a colour profile; an alpha channel
    is left out; of 16-bit grey values the upper 8 bits are kept. DICOM files are windowed, see
    `secateur.data.dicom.read_dicom`.

    Args:
        path: path of the file; its content decides its type, not its name.
        channels: 1 (grey) or 3 (RGB).
        resize: size of the result; None: the stored size.
        window: centre and width of the window for values of DICOM images; None: that of each file.
        box: left, top, right and bottom of the region that is cut out before resizing, within the image; None: all.

    Raises:
        RequestError: for an empty, truncated, foreign or larger than 100-megapixel file, or 32-bit pixels.
    """
    try:
        if path.stat().st_size == 0:
            raise RequestError(f"image '{path}' is empty (zero bytes)")
        mode = "RGB" if channels == 3 else "L"
        if is_dicom(path):
            converted = read_dicom(path, window, check_size).convert(mode)
        else:
            with Image.open(path) as picture:
                check_size(path, *picture.size)
                converted = _eight_bit(picture, path).convert(mode)
    except RequestError:
        raise
    except Image.DecompressionBombError as error:
        raise RequestError(
            f"image '{path}' has more than {MAX_PIXELS / 1e6:.0f} megapixels; shrink it first"
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error) as error:
        raise RequestError(f"image '{path}' cannot be read ({error}); repair it or use on_bad_sample: skip") from error
    if box is not None:
        converted = _cut(converted, box, path)
    if resize is not None:
        converted = _resized(converted, resize)
    pixels = np.array(converted, np.uint8)
    return pixels.reshape(*pixels.shape[:2], -1)


def check_size(path: Path, width: int, height: int) -> None:
    """Refuse an image of more than `MAX_PIXELS`, before its pixels are decoded."""
    if width * height > MAX_PIXELS:
        raise RequestError(
            f"image '{path}' has {width * height / 1e6:.0f} megapixels, "
            f"more than the limit of {MAX_PIXELS / 1e6:.0f}; shrink it first"
        )


def _eight_bit(picture: Image.Image, path: Path) -> Image.Image:
    """The picture in a mode whose conversion loses nothing: Pillow cuts values above 255 off."""
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PNG"):
        return Image.fromarray((np.asarray(picture).astype(np.uint32) >> 8).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise RequestError(f"image '{path}' has 32-bit pixels (mode {picture.mode}); convert it to 8 bits first")
    return picture


def resized_arrays(images_NHWC: np.ndarray, resize: Resize) -> np.ndarray:
    """Images in memory, resized as files are.

    Args:
        images_NHWC: uint8 [N, H, W, C], with one or three channels.
        resize: what comes out.

    Returns:
        uint8 [N, side, side, C].

    Example:
        >>> resized_arrays(np.full((1, 8, 16, 3), 7, np.uint8), Resize(size=6, crop=4)).shape
        (1, 4, 4, 3)
    """
    resized = np.empty((len(images_NHWC), resize.side, resize.side, images_NHWC.shape[-1]), np.uint8)
    for image, target in zip(images_NHWC, resized, strict=True):
        picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else np.ascontiguousarray(image))
        target[...] = np.asarray(_resized(picture, resize)).reshape(target.shape)
    return resized


def _resized(picture: Image.Image, resize: Resize) -> Image.Image:
    """The central square of the resized picture, to the byte as torchvision makes it of a PIL image."""
    short = min(picture.size)
    if max(picture.size) > _LONGEST * short:
        # a strip one pixel high would otherwise grow beyond any memory
        picture = _central(picture, *(min(side, _LONGEST * short) for side in picture.size))
    width, height = (int(resize.size * side / short) for side in picture.size)
    whole = picture.resize((width, height), Image.Resampling[resize.interpolation.upper()])
    return _central(whole, resize.side, resize.side)


def _cut(picture: Image.Image, box: tuple[int, int, int, int], path: Path) -> Image.Image:
    left, top, right, bottom = box[0], box[1], min(box[2], picture.width), min(box[3], picture.height)
    if left >= right or top >= bottom:
        raise RequestError(f"image '{path}' has {picture.width}x{picture.height} pixels, its box {box} lies outside")
    return picture.crop((left, top, right, bottom))


def _central(picture: Image.Image, width: int, height: int) -> Image.Image:
    left, top = round((picture.width - width) / 2), round((picture.height - height) / 2)
    return picture.crop((left, top, left + width, top + height))
