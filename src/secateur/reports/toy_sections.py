"""What is seen on two-dimensional data, as sections of the page: decision boundaries, and how few samples will do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import Any

from secateur.reports import captions, films, samples
from secateur.reports.conditions import Conditions
from secateur.reports.controls import chips, symbol, tabs
from secateur.reports.layout import section
from secateur.reports.look import Looks, specification, style
from secateur.reports.records import Film
from secateur.reports.summary import Row

Charts = dict[str, dict[str, Any]]


def toy_looks(found: Sequence[Film], rows: Sequence[Row]) -> Looks:
    """Colour and shape of each criterion in films and in curves over reference samples: the same in both."""
    names = [track.name for film in found for track in film.tracks]
    points = samples.sample_points(rows)
    return style([*names, *samples.distinct((p for p in points if p["stage"] == "post"), "criterion")])


def film_section(found: Sequence[Film], looks: Looks, conditions: Conditions, drawn: Charts) -> str:
    """Decision regions under a slider, one figure for each film.

    Args:
        found: films.
        looks: of the criteria, see `toy_looks`.
        conditions: of the report.
        drawn: charts are added here.
    """
    parts = []
    for place, film in enumerate(found):
        name = f"film-{place}"
        if len(film.positions) > 1:
            drawn[name] = specification(films.film_chart(film, looks))
        parts.append(_film(film, name, looks, conditions))
    hint = (
        "Which class the network chooses where, and how sure it is, while more and more is removed in each criterion’s "
        "order. Dots are training data, outlined dots the reference samples."
    )
    return section("Decision boundaries", f'<p class="hint">{hint}</p>{"".join(parts)}') if parts else ""


def _film(film: Film, name: str, looks: Looks, conditions: Conditions) -> str:
    first = films.first_frame(film)
    beneath = captions.line(
        conditions.measured(data=[film.title]), captions.seeds(conditions.seeds), conditions.references()
    )
    tracks = "".join(
        f'<div><div class="frame"><img src="data:image/png;base64,{track.frames[first]}" '
        f'alt="{escape(f"Decision regions of {track.name}")}"><span></span></div>'
        f"<p>{symbol(looks[track.name])}<span>{escape(track.name)}</span>"
        f'<span class="value">{track.accuracy[first]:.1f}\u202f%</span></p></div>'
        for track in film.tracks
    )
    # once for all tracks, not once each: the points are the largest picture
    points = f";--points:url(data:image/png;base64,{film.points_png})" if film.points_png else ""
    where = f"{film.positions[first]} {film.unit}"
    steer = f'<p class="steer"><output>{escape(where)}</output></p>'
    if len(film.positions) > 1:
        frames = {
            "positions": film.positions,
            "tracks": [{"frames": track.frames, "accuracy": track.accuracy} for track in film.tracks],
        }
        # shown by the script that serves them
        steer = (
            '<div class="steer"><button type="button" hidden>Play</button>'
            f'<input type="range" min="0" max="{len(film.positions) - 1}" value="{first}" '
            f'aria-label="{escape(film.unit)}" aria-valuetext="{escape(where)}" hidden>'
            f"<output>{escape(where)}</output></div>"
            f'<div class="chart" id="{name}" data-steered></div>'
            f'<script type="application/json">{json.dumps(frames, separators=(",", ":"))}</script>'
        )
    return (
        f'<figure class="panel film" data-unit="{escape(film.unit)}"><h3>{escape(film.title)}</h3>'
        f'<div class="tracks" style="--tracks:{len(film.tracks)}{points}">{tracks}</div>{steer}'
        f"{captions.html(beneath)}</figure>"
    )


def sample_section(rows: Sequence[Row], looks: Looks, conditions: Conditions, drawn: Charts) -> str:
    """Accuracy against reference samples, one figure by data set.

    Args:
        rows: as `secateur.reports.save_samples` takes them.
        looks: of the criteria, see `toy_looks`.
        conditions: of the report.
        drawn: charts are added here.
    """
    points = samples.sample_points(rows)
    plots: list[str] = []
    for dataset in samples.distinct(points, "dataset"):
        name = f"samples-{len(plots)}"
        drawn[name] = specification(samples.samples_chart(rows, dataset, looks=looks))
        shown = [point for point in points if point["dataset"] == dataset]
        beneath = captions.line(captions.counted(shown, "runs", "runs behind each mean"), conditions.labels)
        chart = f'<div class="chart" id="{name}" data-steered></div>'
        plots.append(f'<figure class="panel"><h3>{escape(dataset)}</h3>{chart}{captions.html(beneath)}</figure>')
    evaluated = {name: name for name in samples.distinct(points, "evaluated")}
    pruned = samples.distinct((point for point in points if point["stage"] == "post"), "criterion")
    choices = tabs("Evaluated on", "evaluated", evaluated) if len(evaluated) > 1 else ""
    return (
        section(
            "Accuracy against reference samples",
            '<p class="hint">Each line is the mean over runs, each band one standard deviation to both sides. '
            "The dashed line is the network before pruning.</p>"
            f'<div class="bar">{choices}{chips({name: looks[name] for name in pruned})}</div>'
            f'<div class="trio">{"".join(plots)}</div>'
            f"<details><summary>All accuracies</summary>{samples.samples_table(rows)}</details>",
        )
        if plots
        else ""
    )
