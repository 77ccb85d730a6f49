"""Decision regions while ever more is removed, under a slider, and the accuracy that goes with them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from secateur.core.errors import RequestError
from secateur.reports import captions
from secateur.reports.conditions import Conditions
from secateur.reports.look import INK, Looks, channels, style
from secateur.reports.registry import register_section
from secateur.reports.rows import STRICT

if TYPE_CHECKING:
    from secateur.reports.look import Chart

_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")


def _check_base64(what: str, *pictures: str) -> None:
    for picture in pictures:
        if not _BASE64.fullmatch(picture):
            raise RequestError(f"{what} is not base64; give a PNG's bytes in base64, without prefix")


@dataclass(frozen=True)
class FilmTrack:
    """One criterion's decision regions while ever more is removed.

    Attributes:
        name: as a rule the criterion.
        frames: one base64 PNG without prefix per position, all of one size; `secateur.reports.film_png` makes them.
        accuracy: in percent, one per position.

    Raises:
        RequestError: for another number of accuracies than frames, accuracy outside 0..100, or a frame that is not
            base64.
    """

    __pydantic_config__ = STRICT

    name: str
    frames: list[str]
    accuracy: list[float]

    def __post_init__(self) -> None:
        if len(self.frames) != len(self.accuracy):
            raise RequestError(
                f"track '{self.name}' has {len(self.frames)} frames and {len(self.accuracy)} accuracies; "
                "give one of each per position"
            )
        if not all(0.0 <= value <= 100.0 for value in self.accuracy):
            raise RequestError(f"track '{self.name}' has an accuracy outside 0..100; give percent")
        _check_base64(f"a frame of track '{self.name}'", *self.frames)


@dataclass(frozen=True)
class Film:
    """Tracks side by side, moved by one slider.

    Attributes:
        title: as a rule the data set.
        positions: what the slider shows, rising: the number of removed units.
        tracks: one or more, each with one frame per position.
        points_png: transparent base64 PNG laid over each frame; may be empty. `secateur.reports.overlay_png` draws one.
        unit: of the positions, in words.
        start: the frame nearest to this position is shown first; by default the one where the tracks' accuracies
            differ most (of one track, the middle).

    Raises:
        RequestError: for positions that do not rise, no tracks, or a track of another length.
    """

    __pydantic_config__ = STRICT

    title: str
    positions: list[int]
    tracks: list[FilmTrack]
    points_png: str = ""
    unit: str = "neurons removed"
    start: int | None = None

    def __post_init__(self) -> None:
        if not self.positions or self.positions != sorted(set(self.positions)):
            raise RequestError(f"the positions of film '{self.title}' do not rise; give at least one, in rising order")
        if not self.tracks:
            raise RequestError(f"film '{self.title}' has no tracks; give at least one")
        for track in self.tracks:
            if len(track.frames) != len(self.positions):
                raise RequestError(
                    f"film '{self.title}' has {len(self.positions)} positions, its track '{track.name}' "
                    f"{len(track.frames)} frames; give one per position"
                )
        _check_base64(f"the points of film '{self.title}'", self.points_png)


@dataclass(frozen=True)
class Films:
    """Section of decision boundaries, one figure for each film."""

    __pydantic_config__ = STRICT

    films: list[Film]

    @property
    def looks(self) -> Looks:
        """Colour and shape of each track, the same in all films."""
        return style([track.name for film in self.films for track in film.tracks])


def first_frame(film: Film) -> int:
    """Index of the frame that is shown first: the nearest to the film's start, else where tracks differ most.

    Example:
        >>> from secateur.reports import FilmTrack
        >>> tracks = [FilmTrack("lrp", [""] * 3, [100, 99, 50]), FilmTrack("grad", [""] * 3, [100, 70, 50])]
        >>> first_frame(Film("moon", [0, 1000, 2000], tracks))
        1
        >>> first_frame(Film("moon", [0, 1000, 2000], tracks, start=1900))
        2
    """
    places = range(len(film.positions))
    if film.start is not None:
        start = film.start
        return min(places, key=lambda place: abs(film.positions[place] - start))
    if len(film.tracks) == 1:
        return len(places) // 2
    ranges = [max(values) - min(values) for values in zip(*(track.accuracy for track in film.tracks), strict=True)]
    return ranges.index(max(ranges))


def _charts(section: Films, conditions: Conditions) -> dict[str, Chart]:
    films = enumerate(section.films)
    return {f"film-{place}": film_chart(film, section.looks) for place, film in films if len(film.positions) > 1}


def film_chart(film: Film, looks: Looks | None = None, height: int = 170) -> Chart:
    """Accuracy against what is removed, one line by track, with a rule where the slider stands.

    The page moves it with the signal ``position`` (of what is removed, not its index).

    Args:
        film: with its tracks.
        looks: colour and shape of each track; by default those of its criteria.
        height: in pixels; the width is that of the place on the page.
    """
    import altair as alt

    names = [track.name for track in film.tracks]
    whole = style(names) if looks is None else looks
    looks = {name: whole[name] for name in names}
    values = [
        {"track": track.name, "position": position, "accuracy": accuracy}
        for track in film.tracks
        for position, accuracy in zip(film.positions, track.accuracy, strict=True)
    ]
    low = 10.0 * math.floor(min(min(track.accuracy) for track in film.tracks) / 10)
    ends = [film.positions[0], film.positions[-1]]
    across = alt.X("position:Q", title=film.unit, scale=alt.Scale(domain=ends, nice=False)).axis(
        tickCount=6, labelFlush=False
    )
    up = alt.Y("accuracy:Q", title="accuracy, %", scale=alt.Scale(domain=[low, 100.0], nice=False)).axis(tickCount=5)
    colour, shape = channels("track", looks, legend=None)
    base = alt.Chart(alt.InlineData(values=values))
    tooltip = [
        "track:N",
        alt.Tooltip("position:Q", title=film.unit),
        alt.Tooltip("accuracy:Q", title="accuracy, %", format=".1f"),
    ]
    lines = base.mark_line(strokeWidth=2, clip=False).encode(x=across, y=up, color=colour)
    rule = (
        alt.Chart(alt.InlineData(values=[{}]))
        .transform_calculate(position="position")
        .mark_rule(color=INK, opacity=0.5)
        .encode(x=across)
    )
    here = (
        base.transform_filter("datum.position === position")
        .mark_point(filled=True, size=70, opacity=1)
        .encode(x=across, y=up, color=colour, shape=shape, tooltip=tooltip)
    )
    return (
        alt.layer(rule, lines, here)
        .add_params(alt.param(name="position", value=film.positions[first_frame(film)]))
        .properties(width="container", height=height, description=f"Accuracy against {film.unit}")
    )


def _view(section: Films, conditions: Conditions) -> dict[str, Any]:
    held = captions.seeds(conditions.seeds), conditions.references()
    return {
        "looks": section.looks,
        "films": [
            {
                "name": f"film-{place}",
                "film": film,
                "first": first_frame(film),
                "where": f"{film.positions[first_frame(film)]} {film.unit}",
                "frames": {
                    "positions": film.positions,
                    "tracks": [{"frames": track.frames, "accuracy": track.accuracy} for track in film.tracks],
                },
                "beneath": captions.line(conditions.measured(data=[film.title]), *held),
            }
            for place, film in enumerate(section.films)
        ],
    }


register_section(Films, name="films", template="films.html", charts=_charts, view=_view)
