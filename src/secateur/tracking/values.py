"""Values as trackers take them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from secateur.tracking.base import Value


def plain(value: Any) -> Value:
    """Numbers as Python's own; those that are not finite as none.

    Example:
        >>> plain(2.5), plain(float("nan")), plain("lrp"), plain(Ellipsis)
        (2.5, None, 'lrp', 'Ellipsis')
    """
    if isinstance(value, bool | str) or value is None:
        return value
    if type(value).__name__.startswith("bool"):  # NumPy's
        return bool(value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value)
    if not math.isfinite(number):
        return None
    return int(number) if hasattr(value, "__index__") else number


def flat(settings: Any, name: str = "") -> Sequence[tuple[str, str]]:
    """Nested settings as pairs of a dotted name and text.

    Example:
        >>> flat({"prune": {"strategy": "per-cost", "steps": [1, 2]}})
        [('prune.strategy', 'per-cost'), ('prune.steps', '[1, 2]')]
    """
    if isinstance(settings, dict) and settings:
        return [pair for key, value in settings.items() for pair in flat(value, f"{name}.{key}" if name else str(key))]
    return [(name, settings if isinstance(settings, str) else json.dumps(settings))]
