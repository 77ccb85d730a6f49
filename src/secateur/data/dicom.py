"""Reads pixels of DICOM files, windowed to 8 bits, and nothing else of these files.

Only the elements that describe the pixels are read (`_ELEMENTS`); the reader skips those that identify the patient.
Messages name files, never values of a file.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from secateur.core.errors import RequestError
from secateur.core.extras import check_installed

SUFFIXES = frozenset({".dcm", ".dicom"})
_MAGIC = b"DICM"
_MAGIC_AT = 128
_ELEMENTS = [
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("PixelData", "FloatPixelData", "DoubleFloatPixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
    *("RedPaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData"),
    *("GreenPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableData"),
    *("BluePaletteColorLookupTableDescriptor", "BluePaletteColorLookupTableData"),
]
_DEFERRED = "64 KB"
"""Elements longer than this are read when they are used: not at all in files that are refused before."""

_LUTS: dict[str, Callable[[np.ndarray, float, float], np.ndarray]] = {
    "LINEAR": lambda values, centre, width: (values - (centre - 0.5)) / (width - 1) + 0.5,
    "LINEAR_EXACT": lambda values, centre, width: (values - centre) / width + 0.5,
    "SIGMOID": lambda values, centre, width: 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700))),
}
"""The functions of DICOM PS3.3, C.11.2.1.2 and C.11.2.1.3, to [0, 1]."""


def is_dicom(path: Path) -> bool:
    """Whether a file is read as DICOM: by its suffix or, without one, by its first bytes.

    Args:
        path: of a file that exists.

    Raises:
        OSError: when it cannot be opened.
    """
    if path.suffix:
        return path.suffix.lower() in SUFFIXES
    with path.open("rb") as file:
        return file.read(_MAGIC_AT + len(_MAGIC))[_MAGIC_AT:] == _MAGIC


def read_dicom(
    path: Path, window: tuple[float, float] | None, check_size: Callable[[Path, int, int], None]
) -> Image.Image:
    """The one image of a DICOM file, in 8 bits.

    Grey values go through the modality LUT (rescale slope and intercept), then through a window: the one given, else
    the first that the file names, else from the least to the greatest value of the image. In MONOCHROME1 images the
    least value is white. Colours are taken as they are (RGB, YBR, palette).

    Args:
        path: of the file.
        window: centre and width, in units of the modality (Hounsfield units, say); None: see above.
        check_size: refuses a path, width and height that are too large.

    Raises:
        RequestError: for a file that is no DICOM or damaged, without pixels, with several frames, compressed in a way
            that no installed package can decode, with a VOI LUT and no window, or with pixels of another kind; or when
            pydicom is not installed.
    """
    check_installed("pydicom", "dicom", f"DICOM image '{path}'")
    from pydicom import dcmread
    from pydicom.errors import BytesLengthException, InvalidDicomError

    try:
        dataset = dcmread(path, defer_size=_DEFERRED, specific_tags=_ELEMENTS)
        _check(dataset, path)
        check_size(path, int(dataset.Columns), int(dataset.Rows))
        return Image.fromarray(_pixels(dataset, path, window))
    except RequestError:
        raise
    except InvalidDicomError:
        raise RequestError(_refused(path, "no DICOM file")) from None
    except (OSError, EOFError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError,
            AssertionError, struct.error, BytesLengthException) as error:  # fmt: skip
        # no text of the error: it may hold what the file holds
        raise RequestError(_refused(path, f"its pixels cannot be decoded: {type(error).__name__}")) from None


def _refused(path: Path, reason: str) -> str:
    return f"DICOM image '{path}' cannot be read ({reason}); repair it or use on_bad_sample: skip"


def _check(dataset: Any, path: Path) -> None:
    """Refuse what has no single image that can be decoded here, before its pixels are read."""
    from pydicom.pixels.decoders.base import get_decoder

    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise RequestError(_refused(path, "it has no pixels"))
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames != 1:
        raise RequestError(f"DICOM image '{path}' has {frames} frames; write each one to a file of its own")
    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        decoder = get_decoder(syntax) if syntax.is_compressed else None
    except NotImplementedError:
        raise RequestError(_refused(path, "compressed in a way that pydicom does not know")) from None
    if decoder is not None and not decoder.is_available:
        raise RequestError(
            f"DICOM image '{path}' is compressed ({syntax.name}) and no installed package decodes that; "
            "pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg"
        )


def _pixels(dataset: Any, path: Path, window: tuple[float, float] | None) -> np.ndarray:
    """uint8 [H, W] or [H, W, 3]."""
    from pydicom.pixels.processing import apply_color_lut

    kind = str(dataset.PhotometricInterpretation)
    if kind in ("MONOCHROME1", "MONOCHROME2"):
        shares = _windowed(dataset, path, window)
        return np.asarray(np.rint(255 * (1 - shares if kind == "MONOCHROME1" else shares)), np.uint8)
    values = dataset.pixel_array  # of YBR, pydicom makes RGB
    if kind == "PALETTE COLOR":
        values = apply_color_lut(values, dataset)
    if values.ndim != 3 or values.shape[-1] != 3 or values.dtype not in (np.uint8, np.uint16):
        raise RequestError(_refused(path, f"pixels are {values.dtype} of shape {list(values.shape)}"))
    if values.dtype == np.uint16:
        bits = 16 if kind == "PALETTE COLOR" else int(dataset.BitsStored)
        values = values >> (bits - 8)
    return np.ascontiguousarray(values, np.uint8)


def _windowed(dataset: Any, path: Path, window: tuple[float, float] | None) -> np.ndarray:
    """Grey values as shares of the window, float64 [H, W] in [0, 1]."""
    from pydicom.pixels.processing import apply_modality_lut

    values = apply_modality_lut(dataset.pixel_array, dataset).astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise RequestError(_refused(path, "its values are not finite"))
    if window is not None:
        return _share(values, *window, "LINEAR", path)
    if "WindowCenter" in dataset and "WindowWidth" in dataset:
        function = str(dataset.get("VOILUTFunction") or "LINEAR")
        return _share(values, _first(dataset.WindowCenter), _first(dataset.WindowWidth), function, path)
    if "VOILUTSequence" in dataset:
        raise RequestError(f"DICOM image '{path}' has a VOI LUT instead of a window; give a window: data.window")
    return np.asarray((values - low) / max(high - low, 1e-12))


def _share(values: np.ndarray, centre: float, width: float, function: str, path: Path) -> np.ndarray:
    if function not in _LUTS:
        raise RequestError(_refused(path, "its window has an unknown function"))
    if not np.isfinite([centre, width]).all() or width < (1 if function == "LINEAR" else 1e-12):
        raise RequestError(_refused(path, "its window is not positive; give one: data.window"))
    if function == "LINEAR" and width == 1:  # a threshold
        return np.asarray(values > centre - 0.5, np.float64)
    return np.asarray(np.clip(_LUTS[function](values, centre, width), 0, 1))


def _first(value: Any) -> float:
    """Of one number or several."""
    from pydicom.multival import MultiValue

    return float(value[0] if isinstance(value, MultiValue) else value)
