"""Pixels and relevance as base64 PNG. Axes: H height, W width, C colour channels."""

from __future__ import annotations

import base64
import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from secateur.core.errors import RequestError

# ColorBrewer RdBu, five of its stops: safe for colour-blind readers, white at zero.
_STOPS = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
_COLOURS = np.array([[33, 102, 172], [146, 197, 222], [255, 255, 255], [244, 165, 130], [178, 24, 43]])
_SHORTER_SIDE = 128


def image_png(pixels_HWC: NDArray[Any]) -> str:
    """Encode an image as a base64 PNG, enlarged in whole steps until its shorter side has 128 pixels.

    Args:
        pixels_HWC: uint8, with 1 (grey), 3 (RGB) or 4 (RGBA) channels.

    Raises:
        RequestError: for another type or shape.

    Example:
        >>> import numpy as np
        >>> image_png(np.zeros((32, 32, 3), dtype=np.uint8))[:8]
        'iVBORw0K'
    """
    pixels = np.asarray(pixels_HWC)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or pixels.size == 0:
        raise RequestError(
            f"image has type {pixels.dtype} and shape {list(pixels.shape)}; give uint8 of shape "
            "[height, width, 1, 3 or 4]"
        )
    return _encode(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def heatmap_png(relevance_HW: NDArray[Any]) -> str:
    """Colour relevance (blue for negative, white for zero, red for positive) and encode it as a base64 PNG.

    Full colour stands for the 99.5th percentile of ``|R|``, so that single pixels do not pale the rest;
    both signs share this scale.

    Args:
        relevance_HW: relevance per pixel (sum over colour channels first).

    Raises:
        RequestError: for another shape or values that are not finite.
    """
    relevance = np.asarray(relevance_HW)
    if relevance.ndim != 2 or relevance.size == 0 or relevance.dtype.kind not in "fiu":
        raise RequestError(
            f"relevance has type {relevance.dtype} and shape {list(relevance.shape)}; "
            "give real numbers of shape [height, width]"
        )
    relevance = relevance.astype(np.float64)
    if not np.isfinite(relevance).all():
        count = int((~np.isfinite(relevance)).sum())
        raise RequestError(
            f"relevance holds {count} values that are not finite; check the composite and its stabiliser"
        )
    share = _scaled(relevance)
    channels = [np.interp(share, _STOPS, _COLOURS[:, channel]) for channel in range(3)]
    return _encode(np.stack(channels, axis=-1).round().astype(np.uint8))


def _scaled(relevance: NDArray[np.float64]) -> NDArray[np.float64]:
    largest = np.abs(relevance).max()
    if largest == 0.0:
        return relevance
    share = relevance / largest  # first by the maximum: no overflow, however small the percentile
    scale = float(np.quantile(np.abs(share), 0.995))
    if scale < 1e-300:  # nearly all pixels are zero: the percentile says nothing
        scale = 1.0
    clipped: NDArray[np.float64] = np.clip(share / scale, -1.0, 1.0)
    return clipped


def _encode(pixels: NDArray[np.uint8]) -> str:
    factor = math.ceil(_SHORTER_SIDE / min(pixels.shape[:2]))
    enlarged = np.ascontiguousarray(pixels.repeat(factor, axis=0).repeat(factor, axis=1))
    buffer = io.BytesIO()
    Image.fromarray(enlarged).save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
