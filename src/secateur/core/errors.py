"""Errors that a user can act on: each message says what, where, and the remedy, in one line."""

from __future__ import annotations

import operator
from collections.abc import Sequence


class SecateurError(Exception):
    """The work failed (exit code 1): a full disk, a non-finite relevance, an interrupted run."""

    exit_code = 1


class RequestError(SecateurError, ValueError):
    """The request was wrong (exit code 2): an unknown name, an unreachable budget, a broken input file."""

    exit_code = 2


class TimeLimitError(SecateurError):
    """Work took longer than it may: a matter of the machine, and never a result.

    Code that catches all errors of its work lets this one pass.
    """


def check_distinct(what: str, values: Sequence[object]) -> None:
    """Refuse values of which one stands there twice.

    Args:
        what: their name, for the message.
        values: of which each is to be given once.

    Raises:
        RequestError: naming the first value that repeats.

    Example:
        >>> check_distinct("seeds", [0, 1, 0])
        Traceback (most recent call last):
            ...
        secateur.core.errors.RequestError: seeds: '0' stands there twice; give each once
    """
    twice = next((value for value in values if list(values).count(value) > 1), None)
    if twice is not None:
        raise RequestError(f"{what}: '{twice}' stands there twice; give each once")


def check_count(what: str, count: object) -> None:
    """Refuse what is no positive whole number.

    Args:
        what: its name, for the message.
        count: a Python or NumPy integer, or anything else.

    Raises:
        RequestError: for fractions, booleans, text, and numbers below 1.

    Example:
        >>> check_count("per_class", 2.5)
        Traceback (most recent call last):
            ...
        secateur.core.errors.RequestError: per_class must be a positive integer, got 2.5
    """
    try:
        number = None if isinstance(count, bool) else operator.index(count)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None:
        raise RequestError(f"{what} must be a positive integer, got {count!r}")
    if number < 1:
        raise RequestError(f"{what} must be at least 1, got {number}")
