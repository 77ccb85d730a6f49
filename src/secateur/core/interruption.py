"""What is kept when Ctrl-C ends long work: the work itself declares it, and the command line says it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

NOTHING = "nothing is kept; the same command starts again"

_kept: list[str] = []


@contextlib.contextmanager
def keeping(what: str | Callable[[], str]) -> Iterator[None]:
    """Declare what an interruption within the context leaves behind.

    The declaration is kept for `message`, and added as a note to the `KeyboardInterrupt`, so that Python prints it
    below the traceback.

    Args:
        what: e.g. "finished epochs are kept in out/train/training.state; the same command goes on from there"; or a
            function that says so when it comes to it, "" for nothing.

    Example:
        >>> forget()
        >>> try:
        ...     with keeping("finished parts are kept in out/parts"):
        ...         raise KeyboardInterrupt
        ... except KeyboardInterrupt:
        ...     message()
        'finished parts are kept in out/parts'
    """
    try:
        yield
    except KeyboardInterrupt as error:
        text = what if isinstance(what, str) else what()
        if text and text not in _kept:
            _kept.append(text)
            error.add_note(text)
        raise


def message() -> str:
    """What the interruption has left behind: all that was declared, the innermost first; and forget it.

    Example:
        >>> message()
        'nothing is kept; the same command starts again'
    """
    text = "; ".join(_kept) or NOTHING
    forget()
    return text


def forget() -> None:
    """Forget earlier interruptions, at the start of a command."""
    _kept.clear()
