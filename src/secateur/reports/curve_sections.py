"""Accuracy against what stays, as sections of the page: curves with what steers them, and the tables behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from secateur.reports import captions, charts, subsets, tables
from secateur.reports.controls import chips, select, tabs
from secateur.reports.layout import section
from secateur.reports.look import specification, style
from secateur.reports.records import Report
from secateur.reports.summary import (
    Panel,
    Point,
    aggregate,
    criteria,
    masked_panels,
    number,
    panels,
    samples_by_subset,
    split_unpruned,
)
from secateur.reports.summary import subsets as subset_classes

Charts = dict[str, dict[str, Any]]

_MASKED = "Masked weights: no speed gained"
_MASKED_HINT = (
    "Single weights are set to zero; tensors keep their size, so MACs and time stay as they were. For comparison only."
)


def curves(report: Report, drawn: Charts) -> str:
    """Curves and tables of the report's rows; charts are added to ``drawn``."""
    unpruned, pruned = split_unpruned(report.rows)
    if not pruned:
        return ""
    compared = subsets.comparison(report.rows)
    if compared is not None:
        return _compared(report, compared, drawn)
    points = aggregate(pruned)
    structured = panels([point for point in points if point["structured"]])
    masked = masked_panels(points)
    samples = samples_by_subset(report.rows, report.conditions)
    # the rows' own unpruned network was measured on the same samples as they
    baseline = unpruned.get("all", None if report.before is None else number(report.before.accuracy))
    looks = style(criteria(points))
    shown = _measures([point for point in points if point["structured"]])
    plots: list[str] = []
    every = [point for panel in structured for point in panel.points]
    for panel in structured if shown else []:
        chart = charts.curves(panel.points, every=every, looks=looks, baseline=baseline, measure=shown[0], legend=False)
        beneath = captions.of_points(panel.points, samples, report.conditions, timed=True)
        plots.append(_plot(f"curves-{len(plots)}", panel.title, specification(chart), drawn, beneath))
    several = max((point["seeds"] for point in points), default=1) > 1
    stages = len({point["finetuned"] for point in points}) > 1
    hint = "Each line is the mean over seeds, each band reaches from the lowest to the highest seed. " * several
    hint += "Solid lines are fine-tuned, dashed lines are not. " * stages
    hint += "Choose a criterion to bring it forward." if len(criteria(points)) > 1 else ""
    every = [point for panel in masked for point in panel.points]
    for place, panel in enumerate(masked if _drawable(every) else []):
        chart = charts.curves(
            panel.points,
            every=every,
            looks=looks,
            baseline=baseline,
            measure=charts.MASKED,
            across_title="share of weights that are not zero",
            legend=False,
        )
        beneath = captions.of_points(panel.points, samples, report.conditions)
        plots.append(_masked_plot(f"masked-{place}", panel, len(masked) > 1, specification(chart), drawn, beneath))
    steer = f'<div class="bar">{_measure_tabs(shown)}{chips(looks)}</div>' if plots else ""
    spread = ", mean ± standard deviation over seeds" if several else ""
    found = [*structured, *masked]
    numbers = [
        tables.by_budget(panel, samples, report.conditions)
        for panel in found
        if any(p["budget"] is not None for p in panel.points)
    ]
    settings = tables.every_setting(found, samples, report.conditions)
    return _curves_and_tables(hint if plots else "", steer, plots, spread, numbers, settings)


def _compared(report: Report, found: subsets.Comparison, drawn: Charts) -> str:
    names = {
        name: f"{name}: {classes}" if classes else name
        for name, classes in subset_classes(split_unpruned(report.rows)[1]).items()
    }
    subset_title = f"mean over {len(names)} subsets"
    samples = samples_by_subset(report.rows, report.conditions)
    shown = _measures(found.points)
    stages, scored = found.stages, found.scored
    scored = scored | ({"both": "both"} if len(scored) > 1 else {})
    steer: dict[str, str] = {"subset": subsets.MEAN} if len(names) > 1 else {}
    steer |= {"stage": next(iter(stages))} if len(stages) > 1 else {}
    steer |= {"scored": next(iter(scored))} if len(scored) > 1 else {}
    plots: list[str] = []
    for panel in panels(found.points) if shown else []:
        chart = subsets.subset_chart(found, panel.points, measure=shown[0], steer=steer)
        beneath = captions.of_points(panel.points, samples, report.conditions, timed=True)
        plots.append(_plot(f"curves-{len(plots)}", panel.title, specification(chart), drawn, beneath))
    masked = masked_panels(found.masked)
    for place, panel in enumerate(masked if _drawable(found.masked) else []):
        chart = subsets.subset_chart(
            found,
            panel.points,
            measure=charts.MASKED,
            across_title="share of weights that are not zero",
            steer=steer,
            height=300,
        )
        beneath = captions.of_points(panel.points, samples, report.conditions)
        plots.append(_masked_plot(f"masked-{place}", panel, len(masked) > 1, specification(chart), drawn, beneath))
    controls = [_measure_tabs(shown)]
    controls += [tabs("Stage", "stage", stages)] * ("stage" in steer)
    controls += [tabs("Scored", "scored", scored)] * ("scored" in steer)
    controls += [select("Classes", "subset", {subsets.MEAN: subset_title} | names)] * ("subset" in steer)
    bar = f'<div class="bar">{"".join(controls)}</div><div class="bar">{chips(found.looks)}</div>' if plots else ""
    means = "over subsets of classes and seeds" if len(names) > 1 else "over seeds"
    hint = f"Each line is the mean {means}; each band reaches from the lowest to the highest seed"
    hint += ", each seed averaged over the subsets. " if len(names) > 1 else ". "
    if "scored" in steer:
        hint += (
            "Class-aware criteria (solid) look at samples of the subset’s classes alone, "
            "class-blind ones (dashed) at samples of all classes. "
        )
    if len(found.looks) > subsets.TOP:
        hint += _in_colour(found, samples)
    hint += "Choose a criterion to bring it forward."
    whole = panels([point for point in found.means if point["structured"]]) + masked_panels(found.means)
    parts = [
        Panel(f"{panel.title} · {name}", [point for point in panel.points if charts.stage(point) == name])
        for panel in whole
        for name in stages
    ]
    numbers = [
        tables.by_budget(panel, samples, report.conditions, brief=True)
        for panel in parts
        if any(p["budget"] is not None for p in panel.points)
    ]
    spread = f", mean {means} (hover for the standard deviation over seeds)"
    settings = tables.every_setting(whole, samples, report.conditions)
    return _curves_and_tables(hint if plots else "", bar, plots, spread, numbers, settings)


def _in_colour(found: subsets.Comparison, samples: Mapping[str, int]) -> str:
    """Why some criteria are in colour, and whether these can be told apart from the others."""
    top, marks = subsets.not_told_apart(found, samples)
    words = (
        f"The {subsets.TOP} criteria of the highest mean accuracy are in colour, the others grey: for the eye alone. "
    )
    if not marks.sources:
        return words + "Nothing is known of chance: too few seeds, and no number of test samples. "
    grey = [name for name in top if name not in list(found.looks)[: subsets.TOP]]
    if not top:
        return words + "By 95 % intervals no criterion can be told apart from the best. "
    return words + (f"No other is measurably better than {', '.join(grey)}, too. " if grey else "")


def _curves_and_tables(
    hint: str, steer: str, plots: Sequence[str], spread: str, numbers: Sequence[str], settings: str
) -> str:
    return section(
        "Accuracy against what stays",
        (f'<p class="hint">{hint.strip()}</p>' if hint else "")
        + f'{steer}<div class="pair">{"".join(plots)}</div>'
        + (f'</section>\n<section><h2>Accuracy by budget</h2><p class="hint">In percent{spread}.</p>'
           f"{''.join(numbers)}" if numbers else "")
        + f"<details><summary>All settings, with what was achieved</summary>{settings}</details>",
    )  # fmt: skip


def _measure_tabs(shown: Sequence[str]) -> str:
    return tabs("What stays", "measure", {name: charts.MEASURES[name] for name in shown}) if shown else ""


def _measures(points: Sequence[Point]) -> list[str]:
    return [name for name in charts.MEASURES if any(p[name] is not None and p["accuracy"] is not None for p in points)]


def _drawable(points: Sequence[Point]) -> bool:
    return any(None not in (point[charts.MASKED], point["accuracy"]) for point in points)


def _plot(name: str, title: str, spec: dict[str, Any], drawn: Charts, beneath: str, hint: str = "") -> str:
    drawn[name] = spec
    head = f"<h3>{escape(title)}</h3>" if title else ""
    caption, held = f"<figcaption>{hint}</figcaption>" if hint else "", captions.html(beneath)
    return f'<figure class="panel">{head}<div class="chart" id="{name}" data-steered></div>{caption}{held}</figure>'


def _masked_plot(name: str, panel: Panel, several: bool, spec: dict[str, Any], drawn: Charts, beneath: str) -> str:
    title = f"{_MASKED} · {panel.title}" if several else _MASKED
    return _plot(name, title, spec, drawn, beneath, _MASKED_HINT)
