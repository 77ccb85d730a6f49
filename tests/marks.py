"""Parameters of tests, some of which the default run leaves out because others test nearly the same in less time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def some_slow(values: Iterable[Any], *slow: Any) -> list[Any]:
    """Values for `pytest.mark.parametrize`, those of ``slow`` marked."""
    return [pytest.param(value, marks=pytest.mark.slow) if value in slow else value for value in values]
