"""Sections of the page, in reading order: each takes the report and returns HTML, or nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from secateur.core.timing import LatencyShare, busy_warning
from secateur.reports import bars, captions, figures, ranks, tables
from secateur.reports.class_sections import class_section, gain_section, layer_section, timing_section
from secateur.reports.conditions import Conditions
from secateur.reports.controls import tabs
from secateur.reports.curve_sections import curves
from secateur.reports.layout import section
from secateur.reports.look import specification
from secateur.reports.records import Agreement, ClassUnit, Heatmap, Measurement, Report
from secateur.reports.summary import Row, number
from secateur.reports.toy_sections import film_section, sample_section, toy_looks

Charts = dict[str, dict[str, Any]]


def body(report: Report) -> tuple[str, Charts]:
    """Header, sections and footer, and the charts to be drawn in them (element id to specification)."""
    drawn: Charts = {}
    known, looks = report.conditions, toy_looks(report.films, report.sample_accuracy)
    parts = [
        _figures(report.before, report.after, known),
        curves(report, drawn),
        gain_section(report.gains, known, drawn),
        class_section(report.class_rows, known),
        layer_section(report.layer_rows, known, drawn),
        timing_section(report.timings, known),
        film_section(report.films, looks, known, drawn),
        sample_section(report.sample_accuracy, looks, known, drawn),
        _ranks(report.rank_matrices),
        _layers_and_classes(report, drawn),
        _heatmaps(report.heatmaps, known),
        _agreement(report.agreement, known, drawn),
        _units(report.units, known),
        _notes(report.notes),
        _reproduce(report),
    ]
    main = "\n".join(part for part in parts if part)
    quiet = "" if main else '<section><p class="hint">Nothing has been measured yet.</p></section>'
    warning = "<noscript><p class='hint'>The charts need JavaScript; tables and pictures do not.</p></noscript>"
    return (
        f"<header>\n<h1>{escape(report.title)}</h1>\n"
        + (f"<p>{escape(report.subtitle)}</p>\n" if report.subtitle else "")
        + (f'<p class="when">{_created(report.created)}</p>\n' if report.created else "")
        + f"{warning if drawn else ''}{_cards(report.before, report.after, known)}"
        f"{_warning(report.before, report.after)}</header>\n"
        f"<main>\n{main}{quiet}\n</main>\n"
        "<footer>Made with Secateur. This file is complete: it needs no network.</footer>"
    ), drawn


def _created(created: str) -> str:
    return f'<time datetime="{escape(created)}">{escape(created.replace("T", " "))}</time>'


def _cards(before: Measurement | None, after: Measurement | None, conditions: Conditions) -> str:
    if before is None and after is None:
        return ""
    cards = []
    for title, name, show, fewer in (
        ("Accuracy", "accuracy", figures.percent, ""),
        ("Parameters", "params", figures.count, "fewer"),
        ("MACs", "macs", figures.count, "fewer"),
        ("Size", "size_bytes", figures.size, "smaller"),
        ("Latency", "latency_ms", figures.milliseconds, ""),
    ):
        old, new = (None if stage is None else number(getattr(stage, name)) for stage in (before, after))
        value = new if new is not None else old
        if value is None:
            continue
        inner = f'<div class="name">{title}</div><div class="value">{show(value)}</div>'
        if old is not None and new is not None:
            inner += f'<div class="was">from {show(old)}</div>{_change(name, before, after, fewer)}'
        elif new is None:
            inner += '<div class="was">before pruning</div>'
        cards.append(f'<li class="card">{inner}</li>')
    return f'<ul class="cards">{"".join(cards)}</ul>\n{captions.html(captions.of_stages([before, after], conditions))}'


def _change(name: str, before: Measurement | None, after: Measurement | None, fewer: str) -> str:
    """What became of one figure; green or red only where it is known to have changed."""
    if before is None or after is None:
        return ""
    old, new = getattr(before, name), getattr(after, name)
    if name == "latency_ms":
        return _latency(after.latency_relative)
    if fewer:
        text, look = figures.gain(old, new, fewer), " worse" if new > old else " unclear" if new == old else ""
    elif not captions.comparable(before, after):
        return ""
    else:
        text, clear = figures.accuracy_change(old, new, after.samples or before.samples)
        look = " unclear" if not clear else " worse" if new < old else ""
    return f'<div class="change{look}">{text}</div>' if text else ""


def _latency(share: LatencyShare | None) -> str:
    """What was measured in turn; nothing is claimed of times that were not."""
    if share is None:
        return ""
    look = "" if share.faster else " worse" if share.measurable else " unclear"
    return f'<div class="change{look}">{escape(str(share))}</div>'


def _warning(*stages: Measurement | None) -> str:
    spreads = [stage.latency_spread for stage in stages if stage is not None and stage.latency_spread is not None]
    text = busy_warning(max(spreads, default=None))
    return f'<p class="warning">Latency {text}</p>\n' if text else ""


def _figures(before: Measurement | None, after: Measurement | None, conditions: Conditions) -> str:
    if before is None and after is None:
        return ""
    title = "Before and after" if before and after else "Measured"
    return section(title, tables.before_after(before, after, conditions))


def _ranks(rows: Sequence[Row]) -> str:
    by_measure: dict[str, dict[str, list[ranks.Matrix]]] = {}
    for matrix in ranks.matrices(rows):
        by_measure.setdefault(matrix.measure, {}).setdefault(matrix.case, []).append(matrix)
    if not by_measure:
        return ""
    titles = {measure: ranks.measure_title(measure) for measure in by_measure}
    parts = []
    for measure, cases in by_measure.items():
        for place, (case, found) in enumerate(cases.items()):
            shown = "".join(
                f'<figure class="panel scroll"><h3>{escape(" · ".join(filter(None, (m.dataset, m.of))))}</h3>'
                f"{ranks.matrix_table(m)}</figure>"
                for m in found
            )
            beneath = captions.html(ranks.matrices_line(found))
            parts.append(
                f'<details data-value="{escape(measure)}"{" open" if place == 0 else ""}>'
                f"<summary>{escape(case)} · {titles[measure]}</summary>"
                f'<div class="trio matrices">{shown}</div>{beneath}</details>'
            )
    steer = f'<div class="bar">{tabs("Measure", "similarity", titles, "choice")}</div>' if len(titles) > 1 else ""
    hint = "Orders in which criteria remove units, compared in pairs; each number is the mean over pairs of runs."
    return section("How alike the rankings are", f'<p class="hint">{hint}</p>{steer}{"".join(parts)}')


def _layers_and_classes(report: Report, drawn: Charts) -> str:
    parts = []
    if report.layers:
        drawn["layers"] = specification(bars.layers_kept(report.layers))
        hint = "Units of layers that are cut together are shown in each of them."
        if report.before is not None and report.after is not None and report.before.units:
            kept, total = report.after.units, report.before.units
            stay = f"{kept} of {total} removable units stay ({figures.percent(kept / total)})."
            hint = f"{stay} Those of layers that are cut together count once, and are shown in each."
        parts.append(_figure("Units kept in each layer", hint, "layers", captions.of_scores(report.conditions)))
    before, after = report.before, report.after
    comparable = before is not None and after is not None and captions.comparable(before, after)
    changes = bars.class_changes(before.per_class, after.per_class) if before and after and comparable else []
    if changes:
        drawn["classes"] = specification(bars.per_class(changes))
        several = len(changes) == bars.MOST_CLASSES
        hint = (
            f"The {len(changes)} classes that changed most, largest drop on top." if several else "Largest drop on top."
        )
        beneath = captions.of_classes([name for name, _, _ in changes], [before, after], report.conditions)
        parts.append(_figure("Accuracy of each class", hint, "classes", beneath))
    return f'<section class="pair">{"".join(parts)}</section>' if parts else ""


def _figure(title: str, hint: str, name: str, beneath: str) -> str:
    return (
        f'<div><h2>{title}</h2><p class="hint">{hint}</p>'
        f'<figure class="panel"><div class="chart" id="{name}"></div>{captions.html(beneath)}</figure></div>'
    )


def _heatmaps(heatmaps: Iterable[Heatmap], conditions: Conditions) -> str:
    maps = []
    for heatmap in heatmaps:
        shown = [("image", "Image", heatmap.image_png)] if heatmap.image_png else []
        if heatmap.after_png:
            shown.append(("before", "Relevance before pruning", heatmap.before_png))
            shown.append(("after", "Relevance after pruning", heatmap.after_png))
        else:
            shown.append(("relevance", "Relevance", heatmap.before_png))
        pictures = "".join(
            f'<div><span>{label}</span><img src="data:image/png;base64,{escape(data)}" '
            f'alt="{escape(f"{meaning}: {heatmap.title}")}"></div>'
            for label, meaning, data in shown
        )
        caption = f"<figcaption>{escape(heatmap.caption)}</figcaption>" if heatmap.caption else ""
        maps.append(
            f'<figure class="panel"><h3>{escape(heatmap.title)}</h3>'
            f'<div class="{"triple" if heatmap.after_png else "double"}">{pictures}</div>{caption}</figure>'
        )
    legend = (
        '<p class="hint">Relevance of each pixel: against the class '
        '<span class="scale" role="img" aria-label="blue through white to red"></span> for the class. '
        "Each map has its own scale.</p>"
    )
    beneath = captions.html(captions.of_maps(conditions))
    return (
        section("What the network looks at", f'{legend}<div class="maps">{"".join(maps)}</div>{beneath}')
        if maps
        else ""
    )


def _agreement(found: Agreement | None, conditions: Conditions, drawn: Charts) -> str:
    if found is None:
        return ""
    plots = []
    for measure, title in (("cosine", "cosine"), ("rank", "rank correlation")):
        if sum(found.counts.get(measure, [])):
            name = f"agreement-{measure}"
            drawn[name] = specification(
                bars.agreement(found.counts[measure], found.counts.get(f"chance_{measure}", []), title)
            )
            count = captions.line(f"{sum(found.counts[measure]):,} images", captions.of_maps(conditions))
            plots.append(f'<figure class="panel"><div class="chart" id="{name}"></div>{captions.html(count)}</figure>')
    classes = [group for group in found.groups if group.kind == "class"]
    caption = "By class, lowest cosine first"
    if len(classes) > bars.MOST_CLASSES:
        caption += f" (the first {bars.MOST_CLASSES} of {len(classes)})"
    hint = (
        "Heatmaps of the true class before and after pruning, compared image by image: cosine, and Spearman’s rank "
        "correlation over all pixels; 1 is the same map. Heatmaps of <em>different</em> images by the first network "
        "are the level to read them against: agreement no higher than that says nothing."
    )
    return section(
        "Does it still look at the same thing?",
        f'<p class="hint">{hint}</p><div class="pair">{"".join(plots)}</div>'
        + tables.agreement([group for group in found.groups if group.kind != "class"], conditions)
        + (tables.agreement(classes[: bars.MOST_CLASSES], conditions, caption) if classes else ""),
    )


def _units(units: list[ClassUnit], conditions: Conditions) -> str:
    names = list(dict.fromkeys(unit.class_name for unit in units))
    shown = set(names[: bars.MOST_CLASSES])
    hint = "Index of the units with the largest relevance for each class, and their mean relevance in brackets."
    if len(names) > len(shown):
        hint += f" The first {len(shown)} of {len(names)} classes."
    table = tables.strongest_units([unit for unit in units if unit.class_name in shown], conditions)
    return section("Units that speak for a class", f'<p class="hint">{hint}</p>{table}') if units else ""


def _notes(notes: list[str]) -> str:
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return section("Notes", f'<ul class="notes">{items}</ul>') if items else ""


def _reproduce(report: Report) -> str:
    parts = []
    if report.command:
        parts.append(f"<h3>Command</h3><pre><code>{escape(report.command)}</code></pre>")
    if report.settings:
        text = json.dumps(report.to_json()["settings"], indent=2, ensure_ascii=False)
        parts.append(f"<h3>Settings</h3><pre><code>{escape(text)}</code></pre>")
    if report.versions:
        text = "\n".join(f"{name} {version}" for name, version in report.versions.items())
        parts.append(f"<h3>Versions</h3><pre><code>{escape(text)}</code></pre>")
    if not parts:
        return ""
    return section(
        "How to get this again",
        f'<details class="settings"><summary>Command, settings and versions</summary>{"".join(parts)}</details>',
    )
