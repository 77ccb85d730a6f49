"""What a bundle holds of a prototype network's prototypes, as plain values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from secateur.core.errors import RequestError
from secateur.prototypes.records import Projection

SOURCES = "prototype_sources"
"""Key in a bundle's metrics."""


def to_values(projection: Projection) -> dict[str, Any]:
    """Plain values of where prototypes come from."""
    values: dict[str, Any] = TypeAdapter(Projection).dump_python(projection, mode="json")
    return values


def projection_in(metrics: dict[str, Any], bundle: str | Path) -> Projection | None:
    """Where the prototypes of a bundle come from; None where it was never projected.

    Args:
        metrics: of the bundle.
        bundle: its folder, for messages.

    Raises:
        RequestError: for a record that is not understood.
    """
    values = metrics.get(SOURCES)
    if values is None:
        return None
    try:
        return TypeAdapter(Projection).validate_python(values)
    except ValidationError as error:
        raise RequestError(
            f"'{bundle}' does not say in a known way which patches its prototypes are; project them again: "
            f"secateur prototypes push --model {bundle}"
        ) from error
