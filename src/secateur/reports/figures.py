"""Numbers as people read them; everything returned here is plain text, not yet HTML."""

from __future__ import annotations

from collections.abc import Callable

from secateur.core import figures
from secateur.reports import told_apart
from secateur.reports.rows import number
from secateur.reports.summary import Point

ABSENT = "–"
_GAP = "\u202f"  # narrow no-break space
_MINUS = "\u2212"


def percent(share: float | None, digits: int = 1) -> str:
    """Share as a percentage.

    Example:
        >>> percent(0.8812).replace(_GAP, " "), percent(None)
        ('88.1 %', '–')
    """
    return ABSENT if number(share) is None else f"{100 * (share or 0.0):.{digits}f}{_GAP}%"


def hundredths(share: float | None) -> str:
    """Share in percent, where the title of its column says so.

    Example:
        >>> hundredths(0.8812), hundredths(None)
        ('88.1', '–')
    """
    return ABSENT if number(share) is None else f"{100 * (share or 0.0):.1f}"


def points(difference: float) -> str:
    """Difference of two shares in percentage points, with its sign.

    Example:
        >>> points(-0.0123).replace(_GAP, " ")
        '−1.2 points'
    """
    text = f"{100 * difference:+.1f}".replace("-", _MINUS)
    return f"{'±0.0' if text[1:] == '0.0' else text}{_GAP}points"


def change(before: float, after: float) -> str:
    """Difference of two shares in percentage points, of the shares as they are shown: the page adds up.

    Example:
        >>> percent(0.9734), percent(0.9526), change(0.9734, 0.9526).replace(_GAP, " ")
        ('97.3\u202f%', '95.3\u202f%', '−2.0 points')
    """
    return points(round(100 * after, 1) / 100 - round(100 * before, 1) / 100)


def accuracy_change(before: float, after: float, samples: int | None) -> tuple[str, bool | None]:
    """Change of accuracy in words, with its 95 % interval where the number of test samples is known.

    Args:
        before: accuracy, 0..1.
        after: likewise.
        samples: that both were measured on.

    Returns:
        The words, and whether the interval leaves out zero; ``None`` without one.

    Example:
        >>> accuracy_change(0.95, 0.94, 1000)[0].replace(_GAP, " ")
        'no measurable difference [−3.0, +1.0] points'
    """
    if samples is None:
        return change(before, after), None
    found = told_apart.accuracy_change(before, after, samples)
    low, high = (round(100 * end, 1) + 0.0 for end in (found.low, found.high))  # judged as they are shown
    ends = f"{low:+.1f}, {high:+.1f}".replace("-", _MINUS)
    if low <= 0 <= high:
        return f"no measurable difference [{ends}]{_GAP}points", False
    return f"{change(before, after)} [{ends}]", True


def count(value: float | None) -> str:
    """Large number with three figures and k, M, G.

    Example:
        >>> count(40_813_184).replace(_GAP, " "), count(999), count(None)
        ('40.8 M', '999', '–')
    """
    return _gapped(figures.count, value)


def size(value: float | None) -> str:
    """Bytes in decimal units.

    Example:
        >>> size(1_107_000).replace(_GAP, " ")
        '1.11 MB'
    """
    return _gapped(figures.size, value)


def plain(value: float | None, digits: int = 3) -> str:
    """Decimal number."""
    return ABSENT if number(value) is None else f"{value:.{digits}f}".replace("-", _MINUS)


def milliseconds(value: float | None) -> str:
    """Time in milliseconds with three figures."""
    return _gapped(figures.milliseconds, value)


def seconds(value: float | None) -> str:
    """Time in seconds, beyond two minutes in minutes, beyond two hours in hours.

    Example:
        >>> seconds(0.25).replace(_GAP, " "), seconds(300).replace(_GAP, " "), seconds(None)
        ('0.25 s', '5.00 min', '–')
    """
    if value is None or number(value) is None:
        return ABSENT
    amount, name = (value, "s") if value < 120 else (value / 60, "min") if value < 7200 else (value / 3600, "h")
    return f"{figures.three(amount)}{_GAP}{name}"


def factor(before: float, after: float) -> str:
    """How many times smaller; empty when there is nothing to divide.

    Example:
        >>> factor(200, 100), factor(200, 0), factor(200, 198)
        ('2.0×', '', '1.01×')
    """
    if before <= 0 or after <= 0:
        return ""
    ratio = before / after
    return f"{ratio:.2f}×" if 0.95 < ratio < 1.05 else f"{ratio:.1f}×"


def gain(before: float, after: float, fewer: str) -> str:
    """How many times smaller, in words; of something that grew, by how much.

    Example:
        >>> gain(200, 100, "fewer"), gain(100, 110, "fewer").replace(_GAP, " "), gain(100, 100, "fewer")
        ('2.0× fewer', '10 % more', 'unchanged')
    """
    if before <= 0 or after <= 0:
        return ""
    if before == after:
        return "unchanged"
    return f"{factor(before, after)} {fewer}" if after < before else f"{percent(after / before - 1, 0)} more"


def spread(point: Point, name: str) -> str:
    """Mean and, for several seeds, standard deviation of a share, in percent."""
    mean, deviation = point[name], point[f"{name}_std"]
    if mean is None:
        return ABSENT
    return f"{100 * mean:.1f}" if deviation is None else f"{100 * mean:.1f} ± {100 * deviation:.1f}"


def _gapped(show: Callable[[float], str], value: float | None) -> str:
    """As the terminal shows it, with a space at which lines do not break."""
    return ABSENT if value is None or number(value) is None else show(value).replace(" ", _GAP)
