"""Cells: the pieces of work of a study, each with an identity that follows from what its result depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from secateur.core.errors import RequestError

FIRST = "measure"
"""Stage of cells that name none."""


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
"""Made once: a study may have a million cells."""


class Cell(BaseModel):
    """Coordinates of one piece of work; a study's own class has them as fields.

    Attributes:
        stage: the stages of a study are worked on one after another.

    Example:
        >>> class Measurement(Cell):
        ...     dataset: str
        ...     seed: int
        >>> print(Measurement(dataset="moon", seed=3))
        dataset=moon seed=3
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: ClassVar[str] = FIRST

    @property
    def coordinates(self) -> dict[str, Any]:
        """As JSON has them."""
        return self.model_dump(mode="json")

    def __str__(self) -> str:
        return " ".join(f"{name}={_short(value)}" for name, value in self.coordinates.items())


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def canonical(value: Any) -> str:
    """JSON that is the same for equal values: sorted keys, no spaces, no NaN."""
    return _CANONICAL.encode(value)


def identity(study: str, version: int, cell: Cell, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Name of a cell's result: SHA-256 of all that it depends on.

    Args:
        study: name of the study.
        version: of the study; raised when its results change.
        cell: the coordinates.
        settings: the sections that results depend on, by path.
        inputs: fingerprints of weights and data, by name.

    Returns:
        64 hexadecimal digits.

    Raises:
        RequestError: for NaN or infinity, which JSON does not have.
    """
    whole = {
        "study": study,
        "version": version,
        "stage": cell.stage,
        "coordinates": cell.coordinates,
        "settings": settings,
        "inputs": inputs,
    }
    try:
        text = canonical(whole)
    except ValueError as error:
        raise RequestError(
            f"a setting or coordinate of study '{study}' is NaN or infinite ({cell}); give a number"
        ) from error
    return hashlib.sha256(text.encode()).hexdigest()


def fingerprint(*parts: str | bytes) -> str:
    """Hash of texts and bytes, each told from its neighbours."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()
