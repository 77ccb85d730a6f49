"""Tables of the page as HTML; every text that came from outside is escaped here."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from secateur.reports import captions, figures
from secateur.reports.conditions import Conditions
from secateur.reports.layout import LIMIT, csv_link, row, table
from secateur.reports.records import AgreementGroup, ClassUnit, Measurement
from secateur.reports.summary import BLIND, TIMED, Panel, Point, Row, best_points, criteria, number
from secateur.reports.told_apart import Accuracies, Marks, Run, best


def before_after(before: Measurement | None, after: Measurement | None, conditions: Conditions) -> str:
    """All figures of the network as it came and as it goes; either may be missing."""
    stages = [(name, stage) for name, stage in (("before", before), ("after", after)) if stage is not None]
    head = '<th scope="col" class="text">figure</th>'
    head += "".join(f'<th scope="col">{name}</th>' for name, _ in stages)
    head += '<th scope="col">change</th>' if len(stages) == 2 else ""
    body = []
    for figure in _FIGURES:
        values = [number(getattr(stage, figure.field)) for _, stage in stages]
        if all(value is None for value in values):
            continue
        cells = [figure.show(value) for value in values]
        if len(values) == 2:
            cells.append(_change(figure, stages[0][1], stages[1][1]))
        body.append(row(f'<th scope="row">{figure.name}</th>', (escape(cell) for cell in cells)))
    body += _latency([stage for _, stage in stages])
    quartiles = [stage.latency_quartiles for _, stage in stages]
    if any(quartiles):
        cells = [" to ".join(map(figures.milliseconds, q)) if q else figures.ABSENT for q in quartiles]
        body.append(row('<th scope="row">Latency, quartiles</th>', [*cells, ""][: len(stages) * 2 - 1]))
    intervals = any("[" in line and "points" in line for line in body)
    how = "intervals at 95 %; that of accuracy is binomial, at most as wide where both saw the same samples"
    beneath = captions.line(captions.of_stages([before, after], conditions), how if intervals else "")
    return table("", head, body, captions.html(beneath))


def _change(figure: _Figure, before: Measurement, after: Measurement) -> str:
    old, new = number(getattr(before, figure.field)), number(getattr(after, figure.field))
    measured = figure.compare is figures.change or figure.compare is _difference
    if old is None or new is None or (measured and not captions.comparable(before, after)):
        return figures.ABSENT
    if figure.field == "accuracy":
        return figures.accuracy_change(old, new, after.samples or before.samples)[0]
    return "unchanged" if old == new and not measured else figure.compare(old, new)


def _latency(stages: Sequence[Measurement]) -> list[str]:
    """The row of times; its change is the ratio that was measured in turn, with its interval."""
    if all(stage.latency_ms is None for stage in stages):
        return []
    cells = [figures.milliseconds(stage.latency_ms) for stage in stages]
    batch = stages[-1].latency_batch
    if len(stages) == 2:
        share = stages[1].latency_relative
        cells.append(figures.ABSENT if share is None else escape(str(share)))
    title = "Latency, median" if batch is None else f"Latency per batch of {batch}, median"
    return [row(f'<th scope="row">{title}</th>', cells)]


def by_budget(panel: Panel, samples: Mapping[str, int], conditions: Conditions, *, brief: bool = False) -> str:
    """Mean accuracy (in %) of each criterion at each budget; bold where no other is measurably better.

    Args:
        panel: points to compare.
        samples: test samples of each subset, where known.
        conditions: of the report.
        brief: standard deviations in tooltips, lest the table outgrow the page.
    """
    kinds = {p["budget_kind"] for p in panel.points} - {""}
    stays = f"budget: share of {_kind(kinds.pop())} that may stay" if len(kinds) == 1 else "budget"
    goes = panel.points[0]["budget_kind"] == "ratio"
    stays = "nominal share that goes" if goes else stays
    budgets = sorted({p["budget"] for p in panel.points if p["budget"] is not None}, reverse=not goes)
    stages = [stage for stage in (False, True) if any(p["finetuned"] is stage for p in panel.points)]
    marks = best_points([p for p in panel.points if p["budget"] is not None], samples)
    cells = {(p["criterion"], p["finetuned"], p["budget"]): p for p in panel.points}
    head = f'<th scope="col" class="text">criterion · {escape(stays)}</th>'
    head += "".join(f'<th scope="col">{figures.percent(budget, 0)}</th>' for budget in budgets)
    head += '<th scope="col">mean</th>' if len(budgets) > 1 else ""
    body: list[str] = []
    for stage in stages:
        body += ["</tbody><tbody>"] if body else []
        measured = [b for b in budgets if any(p["budget"] == b and p["finetuned"] is stage for p in panel.points)]
        lines = {name: [cells.get((name, stage, budget)) for budget in measured] for name in criteria(panel.points)}
        means = {name: mean for name, line in lines.items() if (mean := _mean(line)) is not None}
        top = best([{name: _runs(lines[name]) for name in means}], samples) if len(budgets) > 1 else Marks()
        marks |= Marks(frozenset(), top.compared, top.sources)
        for name in criteria(panel.points):
            found = [cells.get((name, stage, budget)) for budget in budgets]
            if not any(found):
                continue
            show = _brief if brief else _bold
            texts = [figures.ABSENT if p is None else show(p, "accuracy", id(p) in marks.keys) for p in found]
            if len(budgets) > 1:
                text = f"{100 * means[name]:.1f}" if name in means else figures.ABSENT
                texts.append(f"<strong>{text}</strong>" if name in top.keys else text)
            suffix = " <span class='hint'>fine-tuned</span>" if stage and len(stages) > 1 else ""
            body.append(row(f'<th scope="row">{escape(name) or "–"}{suffix}</th>', texts))
    shown = any("<strong>" in line for line in body)
    beneath = captions.html(captions.of_points(panel.points, samples, conditions))
    beneath += captions.html(str(Marks(frozenset({""}) if shown else frozenset(), marks.compared, marks.sources)))
    return table(escape(panel.title), head, body, beneath)


def every_setting(panels: Sequence[Panel], samples: Mapping[str, int], conditions: Conditions) -> str:
    """One line per setting with what was achieved, by budget, then accuracy; of long tables the rest as a file."""
    points = [point for panel in panels for point in panel.points]
    marks = best_points(points, samples)
    shown = [(name, title) for name, title in _SHARES if any(p[name] is not None for p in points)]
    timed = any(p["latency_ms"] is not None for p in points)
    sized = any(p["size_bytes"] is not None for p in points)
    lossy = any(p["loss"] is not None for p in points)
    heads = ["criterion", "fine-tuned", "budget", *(title for _, title in shown)]
    heads += ["loss"] * lossy + ["latency, ms"] * timed + ["size"] * sized + ["seeds"]
    head = "".join(
        f'<th scope="col"{" class=text" if place < 2 else ""}>{title}</th>' for place, title in enumerate(heads)
    )
    tables = []
    for panel in panels:
        body = []
        for point in sorted(panel.points, key=lambda p: (-(p["budget"] or 0.0), -(p["accuracy"] or 0.0))):
            cells = [
                "yes" if point["finetuned"] else "no",
                figures.percent(point["budget"], 0),
                *(_cell(point, name, name == "accuracy" and id(point) in marks.keys) for name, _ in shown),
            ]
            cells += [figures.plain(point["loss"])] if lossy else []
            cells += [figures.milliseconds(point["latency_ms"]).removesuffix("\u202fms")] if timed else []
            cells += [figures.size(point["size_bytes"])] if sized else []
            cells.append(str(point["seeds"]))
            body.append(row(f'<th scope="row">{escape(point["criterion"]) or "–"}</th>', cells, text=1))
        beneath = captions.html(captions.of_points(panel.points, samples, conditions, timed=True))
        rest = ""
        if len(body) > LIMIT:
            rest = csv_link([_plain(p) for p in panel.points], "settings.csv", f"All {len(body)} lines as CSV")
        tables.append(table(escape(panel.title), head, body, beneath, rest))
    return "".join(tables) + captions.html(str(marks).replace("of its column", "at its budget and stage"))


def preparation(timings: Sequence[Row], conditions: Conditions) -> str:
    """Time that each criterion takes to score, cut and train again, and the accuracy that goes with it.

    Args:
        timings: with criterion; scoring_s, surgery_s, retraining_s (seconds) and any column whose name begins with
            "accuracy" (0..1) are shown where some row has them.
        conditions: of the report.
    """
    times = [name for name in _TIMES if any(number(row.get(name)) is not None for row in timings)]
    found = dict.fromkeys(name for row in timings for name in row if name.startswith("accuracy"))
    accuracies = [name for name in found if any(number(row.get(name)) is not None for row in timings)]
    heads = [_TIMES[name] for name in times] + ["all together"] * (len(times) > 1)
    heads += [f"{name.replace('_', ' ')}, %" for name in accuracies]
    head = '<th scope="col" class="text">criterion</th>'
    head += "".join(f'<th scope="col">{escape(title)}</th>' for title in heads)
    body = []
    for timing in timings:
        known = [number(timing.get(name)) for name in times]
        cells = [figures.seconds(value) for value in known]
        cells += [figures.seconds(sum(value or 0.0 for value in known))] * (len(times) > 1)
        for name in accuracies:
            value = number(timing.get(name))
            cells.append(figures.ABSENT if value is None else f"{100 * value:.1f}")
        label = str(timing.get("criterion", "")) + (BLIND if timing.get("scored_on") == "all" else "")
        body.append(row(f'<th scope="row">{escape(label) or "–"}</th>', cells))
    return table("", head, body, captions.html(captions.of_work(conditions)))


def agreement(groups: Sequence[AgreementGroup], conditions: Conditions, caption: str = "") -> str:
    """Mean, median and quartiles of cosine and rank correlation, one line per group."""
    head = '<th scope="col" class="text">images</th><th scope="col">number</th><th scope="col">same answer</th>'
    head += "".join(
        f'<th scope="col">{measure}, {figure}</th>'
        for measure in ("cosine", "rank")
        for figure in ("mean", "median (quartiles)")
    )
    body = []
    for group in groups:
        cells = [str(group.images), figures.percent(group.same_answer)]
        for mean, median, q1, q3 in (
            (group.cosine_mean, group.cosine_median, group.cosine_q1, group.cosine_q3),
            (group.rank_mean, group.rank_median, group.rank_q1, group.rank_q3),
        ):
            middle = f"{figures.plain(median, 2)} ({figures.plain(q1, 2)} to {figures.plain(q3, 2)})"
            cells += [figures.plain(mean, 2), figures.ABSENT if median is None else middle]
        body.append(row(f'<th scope="row">{escape(group.name)}</th>', cells))
    return table(escape(caption), head, body, captions.html(captions.of_maps(conditions)))


def strongest_units(units: Sequence[ClassUnit], conditions: Conditions) -> str:
    """Index and relevance of the strongest units, one line per class and one column per layer."""
    layers = list(dict.fromkeys(unit.layer for unit in units))
    cells: dict[str, dict[str, list[ClassUnit]]] = {}
    for unit in units:
        cells.setdefault(unit.class_name, {}).setdefault(unit.layer, []).append(unit)
    head = '<th scope="col" class="text">class</th>'
    head += "".join(f'<th scope="col" class="text">{escape(layer)}</th>' for layer in layers)
    body = [
        row(
            f'<th scope="row">{escape(name)}</th>',
            (" · ".join(_unit(u) for u in sorted(found.get(layer, []), key=lambda u: u.rank)) for layer in layers),
            text=len(layers),
        )
        for name, found in cells.items()
    ]
    beneath = captions.line(captions.of_maps(conditions), captions.seeds(conditions.seeds))
    return table("", head, body, captions.html(beneath))


def _unit(unit: ClassUnit) -> str:
    return f"{unit.unit} <span class='hint'>({figures.plain(unit.relevance, 2)})</span>"


_TIMES = {"scoring_s": "scoring", "surgery_s": "surgery", "retraining_s": "training again"}
_SHARES = (
    ("macs", "MACs, %"),
    ("params", "parameters, %"),
    ("units", "units, %"),
    ("accuracy", "accuracy, %"),
    ("balanced_accuracy", "balanced, %"),
    ("latency_share", "latency"),
    ("onnx_share", "ONNX latency"),
    ("weights", "weights, %"),
)


@dataclass(frozen=True)
class _Figure:
    name: str
    field: str
    show: Callable[[float | None], str]
    compare: Callable[[float, float], str]


def _difference(before: float, after: float) -> str:
    return f"{after - before:+.3f}".replace("-", "−")


_FIGURES = (
    _Figure("Accuracy", "accuracy", figures.percent, figures.change),
    _Figure("Balanced accuracy", "balanced_accuracy", figures.percent, figures.change),
    _Figure("Calibration error", "calibration_error", figures.percent, figures.change),
    _Figure("Loss", "loss", figures.plain, _difference),
    _Figure("Units", "units", figures.count, figures.factor),
    _Figure("Parameters", "params", figures.count, figures.factor),
    _Figure("MACs for one input", "macs", figures.count, figures.factor),
    _Figure("Size on disk", "size_bytes", figures.size, figures.factor),
)


def _kind(kind: str) -> str:
    return {"macs": "MACs", "params": "parameters"}.get(kind, kind)


def _mean(row: Sequence[Point | None]) -> float | None:
    values = [None if point is None else number(point["accuracy"]) for point in row]
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None


def _runs(points: Sequence[Point | None]) -> Accuracies:
    """All that a mean over budgets is the mean of."""
    found: dict[Run, float] = {}
    for point in points:
        found |= point["runs"] if point is not None else {}
    return found


def _plain(point: Point) -> dict[str, object]:
    """A point as a line of a CSV file."""
    skipped = ("runs", "base", "subset")
    return {name: value for name, value in point.items() if name not in skipped and value not in (None, "")}


def _cell(point: Point, name: str, bold: bool) -> str:
    """A share; of times with its interval, since a share alone would claim what may be chance."""
    return escape(point[f"{name}_text"]) or figures.ABSENT if name in TIMED else _bold(point, name, bold)


def _bold(point: Point, name: str, bold: bool) -> str:
    text = figures.spread(point, name)
    return f"<strong>{text}</strong>" if bold else text


def _brief(point: Point, name: str, bold: bool) -> str:
    mean, _, spread = figures.spread(point, name).partition(" ± ")
    mean = f"<strong>{mean}</strong>" if bold else mean
    return f'<span title="± {spread}">{mean}</span>' if spread else mean
