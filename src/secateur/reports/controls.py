"""What steers the charts of a section: tabs, a select box, and chips to bring one criterion forward."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from secateur.reports.look import Looks

# The shapes of Vega's symbols in a box of 12 by 12.
_SYMBOLS = {
    "circle": '<circle cx="6" cy="6" r="5"/>',
    "square": '<path d="M1.5 1.5h9v9h-9z"/>',
    "triangle-up": '<path d="M6 1l5.5 10H.5z"/>',
    "triangle-down": '<path d="M6 11L.5 1h11z"/>',
    "triangle-right": '<path d="M11 6L1 .5v11z"/>',
    "triangle-left": '<path d="M1 6l10 5.5V.5z"/>',
    "diamond": '<path d="M6 0l5 6-5 6-5-6z"/>',
    "cross": '<path d="M4 .5h4V4h3.5v4H8v3.5H4V8H.5V4H4z"/>',
}


def tabs(legend: str, name: str, choices: Mapping[str, str], kind: str = "signal") -> str:
    """Radio buttons that steer the charts' signal of this name, or choose what is shown (``kind`` "choice").

    Args:
        legend: words before the buttons.
        name: of the signal; each name once on a page.
        choices: value to title; the first is chosen.
        kind: "signal" or "choice".
    """
    labels = "".join(
        f'<label><input type="radio" name="{name}" data-{kind} value="{escape(value)}"'
        f"{' checked' if place == 0 else ''}>{escape(title)}</label>"
        for place, (value, title) in enumerate(choices.items())
    )
    return f"<fieldset><legend>{legend}</legend>{labels}</fieldset>"


def select(legend: str, name: str, choices: Mapping[str, str], kind: str = "signal", start: str | None = None) -> str:
    """As `tabs`, for many choices; ``start`` is the chosen value (the first by default)."""
    start = next(iter(choices), "") if start is None else start
    options = "".join(
        f'<option value="{escape(value)}"{" selected" if value == start else ""}>{escape(title)}</option>'
        for value, title in choices.items()
    )
    return f'<label class="choose">{legend} <select name="{name}" data-{kind}>{options}</select></label>'


def chips(looks: Looks) -> str:
    """Buttons, one for each criterion with its colour and shape, that bring its lines forward."""
    buttons = "".join(
        f'<button type="button" data-criterion="{escape(name)}" aria-pressed="false">'
        f"{symbol(look)}{escape(name) or 'unnamed'}</button>"
        for name, look in looks.items()
    )
    return f'<div class="chips" role="group" aria-label="Criterion">{buttons}</div>'


def symbol(look: tuple[str, str]) -> str:
    """A chart's mark, for text beside the chart."""
    colour, shape = look
    return f'<svg viewBox="0 0 12 12" aria-hidden="true" fill="{colour}">{_SYMBOLS[shape]}</svg>'
