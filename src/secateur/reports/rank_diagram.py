"""Average ranks on an axis, with the critical difference and bars over candidates that are not told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from secateur.reports.look import GREY, PAPER_INK

_LINE = 0.5
"""Height of a line of names; the axis is at 0, and heights grow downwards."""


def save_rank_diagram(
    average: Mapping[str, float], critical: float, groups: Sequence[Sequence[str]], path: str | Path, title: str
) -> Path:
    """Write a diagram as Demšar (2006) draws it: the best on the left, names at both sides.

    Args:
        average: rank by candidate.
        critical: difference of two ranks.
        groups: candidates that are not told apart.
        path: ending in ``.svg``, ``.png`` or ``.pdf``.
        title: above it.

    Raises:
        RequestError: for another ending.
        SecateurError: when the file cannot be written.
    """
    from matplotlib.figure import Figure

    from secateur.reports.drawing import paper_style, save_figure

    names = sorted(average, key=lambda name: average[name])
    count, half = len(names), (len(names) + 1) // 2
    first = 0.5 + 0.22 * len(groups)
    with paper_style():
        figure = Figure((8.0, 1.6 + 0.3 * (half + 0.5 * len(groups))), facecolor="#FFFFFF")
        axes = figure.add_axes((0.28, 0.04, 0.44, 0.92))
        axes.set_axis_off()
        axes.set_xlim(1, count)
        axes.set_ylim(first + _LINE * half, -2.1)
        width = (count - 1) * 0.04
        axes.plot((1, count), (0, 0), color=PAPER_INK, clip_on=False)
        for rank in range(1, count + 1):
            axes.plot((rank, rank), (0, -0.15), color=PAPER_INK, clip_on=False)
            axes.text(rank, -0.25, str(rank), ha="center", va="bottom")
        end = min(critical, count - 1)
        axes.plot((1, 1 + end), (-1.1, -1.1), color=GREY, linewidth=2, marker="|", clip_on=False)
        shown = f"critical difference {critical:.2f}" + (" (longer than the axis)" if critical > count - 1 else "")
        axes.text(1, -1.25, shown, ha="left", va="bottom", color=PAPER_INK)
        axes.text((1 + count) / 2, -2.0, title, ha="center", va="bottom", fontweight="bold", clip_on=False)
        for index, group in enumerate(groups):
            ranks = [average[name] for name in group]
            y = 0.25 + 0.22 * index
            ends = (min(ranks) - width / 4, max(ranks) + width / 4)
            axes.plot(ends, (y, y), color=PAPER_INK, linewidth=4, solid_capstyle="butt", clip_on=False)
        for index, name in enumerate(names):
            left = index < half
            y = first + _LINE * (index if left else count - 1 - index)
            edge, align = (1 - width, "right") if left else (count + width, "left")
            axes.plot((average[name], average[name], edge), (0, y, y), color=GREY, linewidth=1, clip_on=False)
            axes.text(edge, y, f" {name} ({average[name]:.2f}) ", ha=align, va="center")
        return save_figure(figure, path)
