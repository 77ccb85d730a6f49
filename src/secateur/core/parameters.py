"""Parameters written as text: ``key=value, key=value``; values are YAML, and may have parameters of their own."""

from __future__ import annotations

import re
from typing import Any

import yaml

from secateur.core.errors import RequestError

_EXPONENT = re.compile(r"[-+]?\d+\.?\d*[eE][-+]?\d+")
"""A number, which YAML takes for a text where it lacks the point or the sign."""


def read_parameters(text: str, what: str) -> dict[str, Any]:
    """Parameters by name.

    Args:
        text: ``key=value`` pairs with commas between; a comma in brackets separates nothing.
        what: they belong to, for messages.

    Raises:
        RequestError: for a part that is no pair, a key given twice, or a value that is no YAML.

    Example:
        >>> read_parameters("composite=graded(low=z-plus,gamma=0.1),reduce=abs", "criterion")
        {'composite': 'graded(low=z-plus,gamma=0.1)', 'reduce': 'abs'}
    """
    found: dict[str, Any] = {}
    for part in _parts(text, what):
        key, equals, value = part.partition("=")
        if not equals or key.strip() in found:
            raise RequestError(f"{what}: '{part}' should read key=value, each key once")
        try:
            found[key.strip()] = float(value) if _EXPONENT.fullmatch(value.strip()) else yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise RequestError(f"{what}: '{value}' is no value; quote it, or leave it out") from error
    return found


def _parts(text: str, what: str) -> list[str]:
    """What stands between commas that are in no brackets."""
    depth, parts = 0, [""]
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if depth < 0:
            break
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    if depth:
        raise RequestError(f"{what}: a bracket is not closed, or opened, in '{text}'")
    return [part for part in parts if part.strip()]


def write_parameters(parameters: dict[str, Any]) -> str:
    """The text that `read_parameters` gives back, in the order of the names.

    Example:
        >>> write_parameters({"low": "z-plus", "gamma": 0.1, "first": None})
        'first=null, gamma=0.1, low=z-plus'
    """
    return ", ".join(f"{key}={_written(value)}" for key, value in sorted(parameters.items()))


def _written(value: Any) -> str:
    if isinstance(value, str) and yaml.safe_load(value) == value:
        return value
    return str(yaml.safe_dump(value, default_flow_style=True, width=float("inf"))).removesuffix("...\n").strip()
