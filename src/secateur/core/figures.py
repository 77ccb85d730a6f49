"""Sizes and times as people read them: one spelling for terminal, page and model card."""

from __future__ import annotations

_SIZES = ("B", "kB", "MB", "GB", "TB")


def three(value: float) -> str:
    """A number with three significant figures, without exponent.

    Example:
        >>> three(6.857), three(68.57), three(685.7)
        ('6.86', '68.6', '686')
    """
    return f"{value:.{2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0}f}"


def scaled(value: float, names: tuple[str, ...]) -> str:
    """A number with three significant figures in the first unit, each a thousand times the last, that suits it.

    Example:
        >>> scaled(7_500, ("g", "kg", "t"))
        '7.50 kg'
    """
    amount, place = float(value), 0
    while abs(amount) >= 999.5 and place < len(names) - 1:
        amount, place = amount / 1000, place + 1
    text = f"{amount:.0f}" if place == 0 else three(amount)
    return f"{text} {names[place]}".rstrip()


def count(value: float) -> str:
    """A large number with three significant figures.

    Example:
        >>> count(40_813_184), count(979_895), count(999)
        ('40.8 M', '980 k', '999')
    """
    return scaled(value, ("", "k", "M", "G", "T"))


def size(value: float) -> str:
    """Bytes in decimal units: 1 kB is 1000 bytes.

    Example:
        >>> size(632_012), size(1_107_000)
        ('632 kB', '1.11 MB')
    """
    return scaled(value, _SIZES)


def milliseconds(value: float) -> str:
    """Milliseconds with three significant figures.

    Example:
        >>> milliseconds(6.857)
        '6.86 ms'
    """
    return f"{three(value)} ms"
