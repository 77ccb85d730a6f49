"""Reads safetensors files that may be untrusted.

The whole header is checked before anything is read, and every tensor gets its own memory: a view of the file could
start at any address, and instructions that need aligned memory would end the process. Headers are read without PyTorch.
"""

from __future__ import annotations

import json
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from secateur.core.errors import RequestError

if TYPE_CHECKING:
    import torch

_TYPES: dict[str, tuple[str, int]] = {
    "BOOL": ("bool", 1), "U8": ("uint8", 1), "I8": ("int8", 1), "U16": ("uint16", 2), "I16": ("int16", 2),
    "F16": ("float16", 2), "BF16": ("bfloat16", 2), "U32": ("uint32", 4), "I32": ("int32", 4), "F32": ("float32", 4),
    "U64": ("uint64", 8), "I64": ("int64", 8), "F64": ("float64", 8), "C64": ("complex64", 8),
    "F8_E4M3": ("float8_e4m3fn", 1), "F8_E4M3FNUZ": ("float8_e4m3fnuz", 1), "F8_E5M2": ("float8_e5m2", 1),
    "F8_E5M2FNUZ": ("float8_e5m2fnuz", 1), "F8_E8M0": ("float8_e8m0fnu", 1),
}  # fmt: skip
"""Torch's name of each type, and its bytes."""
_LARGEST_HEADER = 100 * 2**20  # bytes, as the safetensors package has it
_METADATA = "__metadata__"


class _BadHeader(ValueError):
    """The error in a header, in words."""


@dataclass(frozen=True)
class _Span:
    """Type, shape and range of bytes of a tensor in the data."""

    begin: int
    size: int
    type: str
    shape: list[int]


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file, each contiguous and in its own memory.

    Args:
        path: an existing file.

    Raises:
        RequestError: for a file that is not a complete safetensors file, or holds types that torch does not have.
    """
    try:
        with path.open("rb") as file:
            header, start = _header(file)
            spans = _spans(header, os.fstat(file.fileno()).st_size - start)
            return {name: _tensor(file, start, span) for name, span in spans.items()}
    except (OSError, ValueError, RuntimeError, OverflowError, RecursionError) as error:
        raise _unreadable(path, error) from error


def read_header_metadata(path: Path) -> dict[str, str]:
    """The texts in the metadata of a safetensors file.

    Raises:
        RequestError: for a missing file, or one that is not a complete safetensors file.
    """
    try:
        with path.open("rb") as file:
            header, start = _header(file)
            _spans(header, os.fstat(file.fileno()).st_size - start)
    except (OSError, ValueError, OverflowError, RecursionError) as error:
        raise _unreadable(path, error) from error
    return dict(header.get(_METADATA) or {})


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The JSON values (else the text) in a safetensors header; empty for other files.

    Raises:
        RequestError: for a missing or broken file.
    """
    if Path(path).suffix != ".safetensors":
        return {}
    header = read_header_metadata(Path(path))
    return {key: _from_json(value) for key, value in header.items() if key != "format"}


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text  # another tool's header: plain text


def _unreadable(path: Path, error: Exception) -> RequestError:
    reason = (error.strerror if isinstance(error, OSError) else None) or (str(error).splitlines() or [""])[0]
    return RequestError(f"checkpoint '{path}' is not a readable safetensors file ({reason[:200]})")


def _header(file: BinaryIO) -> tuple[dict[str, Any], int]:
    """The header's values, and the position at which the data starts."""
    if sys.byteorder != "little":
        raise _BadHeader("this machine is big-endian, the format little-endian")
    first = file.read(8)
    length = int.from_bytes(first, "little")
    if len(first) < 8 or length > _LARGEST_HEADER:
        raise _BadHeader("it does not begin with the length of a header")
    text = file.read(length)
    if len(text) < length:
        raise _BadHeader("its header is cut short")
    header = json.loads(text.decode("utf-8"), object_pairs_hook=_without_repetition)
    if not isinstance(header, dict):
        raise _BadHeader("its header is no table")
    metadata = header.get(_METADATA)
    if metadata is not None and not (isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values())):
        raise _BadHeader("its metadata are not texts")
    return header, 8 + length


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise _BadHeader("its header names something twice")
    return values


def _spans(header: dict[str, Any], length: int) -> dict[str, _Span]:
    """The span of every tensor; together they fill the data without gap or overlap."""
    spans = {}
    for name, entry in header.items():
        if name == _METADATA:
            continue
        name.encode()  # half of a surrogate pair is no text: a UnicodeEncodeError, which is a ValueError
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise _BadHeader(f"its entry '{name[:60]}' is no tensor")
        shape, offsets = entry["shape"], entry["data_offsets"]
        kind = entry["dtype"]
        if not isinstance(kind, str) or kind not in _TYPES:
            raise _BadHeader(f"'{name[:60]}' is of type {str(kind)[:20]!r}, which cannot be read")
        if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
            raise _BadHeader(f"'{name[:60]}' has no shape or place")
        begin, end = offsets
        itemsize = _TYPES[kind][1]
        # also the shape of an empty tensor must be one that torch can hold
        if math.prod(max(1, size) for size in shape) * itemsize > 2**63 - 1:
            raise _BadHeader(f"'{name[:60]}' has a shape that is too large")
        if end - begin != math.prod(shape) * itemsize:
            raise _BadHeader(f"'{name[:60]}' takes {end - begin} bytes, its shape and type another number")
        spans[name] = _Span(begin, end - begin, kind, shape)
    position = 0
    for span in sorted(spans.values(), key=lambda span: (span.begin, span.size)):
        if span.begin != position:
            raise _BadHeader("its tensors overlap, or leave gaps")
        position += span.size
    if position != length:
        raise _BadHeader(f"it holds {length} bytes of data where its header names {position}")
    return spans


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(size) is int and 0 <= size < 2**63 for size in value)


def _tensor(file: BinaryIO, start: int, span: _Span) -> torch.Tensor:
    import torch

    dtype = getattr(torch, _TYPES[span.type][0], None)
    if dtype is None:
        raise _BadHeader(f"it holds values of type '{span.type}', which this version of torch has not")
    data = torch.empty(span.size, dtype=torch.uint8)
    file.seek(start + span.begin)
    if span.size and file.readinto(data.numpy()) != span.size:  # type: ignore[attr-defined]
        raise _BadHeader("it is cut short")
    if dtype is torch.bool:
        return (data != 0).reshape(span.shape)  # other bytes than 0 and 1 are no truth values
    return data.view(dtype).reshape(span.shape)
