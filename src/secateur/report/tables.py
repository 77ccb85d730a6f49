"""Tables of the page as HTML; every text that came from outside is escaped here."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

from secateur.report import figures
from secateur.report.records import AgreementGroup, ClassUnit, Measurement
from secateur.report.summary import BLIND, TIMED, Panel, Point, Row, best, criteria, number


def before_after(before: Measurement | None, after: Measurement | None) -> str:
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
            old, new = values
            cells.append(figures.ABSENT if old is None or new is None else figure.compare(old, new))
        body.append(_line(f'<th scope="row">{figure.name}</th>', (escape(cell) for cell in cells)))
    body += _latency([stage for _, stage in stages])
    quartiles = [stage.latency_quartiles for _, stage in stages]
    if any(quartiles):
        cells = [" to ".join(map(figures.milliseconds, q)) if q else figures.ABSENT for q in quartiles]
        body.append(_line('<th scope="row">Latency, quartiles</th>', [*cells, ""][: len(stages) * 2 - 1]))
    return _table("", head, body)


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
    return [_line(f'<th scope="row">{title}</th>', cells)]


def by_budget(panel: Panel, *, brief: bool = False) -> str:
    """Mean accuracy (in %) of each criterion at each budget; the best of a column is bold.

    Args:
        panel: points to compare.
        brief: standard deviations in tooltips, lest the table outgrow the page.
    """
    kinds = {p["budget_kind"] for p in panel.points} - {""}
    stays = f"{_kind(kinds.pop())} that stay" if len(kinds) == 1 else "budget"
    goes = panel.points[0]["budget_kind"] == "ratio"
    stays = "nominal share that goes" if goes else stays
    budgets = sorted({p["budget"] for p in panel.points if p["budget"] is not None}, reverse=not goes)
    stages = [stage for stage in (False, True) if any(p["finetuned"] is stage for p in panel.points)]
    leaders = best(panel.points)
    cells = {(p["criterion"], p["finetuned"], p["budget"]): p for p in panel.points}
    head = f'<th scope="col" class="text">criterion · {escape(stays)}</th>'
    head += "".join(f'<th scope="col">{figures.percent(budget, 0)}</th>' for budget in budgets)
    head += '<th scope="col">mean</th>' if len(budgets) > 1 else ""
    body: list[str] = []
    for stage in stages:
        body += ["</tbody><tbody>"] if body else []
        measured = {p["budget"] for p in panel.points if p["finetuned"] is stage}
        means = {
            name: _mean([cells.get((name, stage, budget)) for budget in budgets if budget in measured])
            for name in criteria(panel.points)
        }
        top = max((mean for mean in means.values() if mean is not None), default=None)
        for name in criteria(panel.points):
            row = [cells.get((name, stage, budget)) for budget in budgets]
            if not any(row):
                continue
            show = _brief if brief else _bold
            texts = [figures.ABSENT if p is None else show(p, "accuracy", id(p) in leaders) for p in row]
            if len(budgets) > 1:
                mean = means[name]
                text = figures.ABSENT if mean is None else f"{100 * mean:.1f}"
                texts.append(f"<strong>{text}</strong>" if mean is not None and mean == top else text)
            suffix = " <span class='hint'>fine-tuned</span>" if stage and len(stages) > 1 else ""
            body.append(_line(f'<th scope="row">{escape(name) or "–"}{suffix}</th>', texts))
    return _table(escape(panel.title), head, body)


def every_setting(panels: Sequence[Panel]) -> str:
    """One line per setting with what was achieved: the long table."""
    points = [point for panel in panels for point in panel.points]
    leaders = best(points)
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
                *(_cell(point, name, name == "accuracy" and id(point) in leaders) for name, _ in shown),
            ]
            cells += [figures.plain(point["loss"])] if lossy else []
            cells += [figures.milliseconds(point["latency_ms"]).removesuffix("\u202fms")] if timed else []
            cells += [figures.size(point["size_bytes"])] if sized else []
            cells.append(str(point["seeds"]))
            body.append(_line(f'<th scope="row">{escape(point["criterion"]) or "–"}</th>', cells, text=1))
        tables.append(_table(escape(panel.title), head, body))
    return "".join(tables)


def preparation(timings: Sequence[Row]) -> str:
    """Time that each criterion takes to score, cut and train again, and the accuracy that goes with it.

    Args:
        timings: with criterion; scoring_s, surgery_s, retraining_s (seconds) and any column whose name begins with
            "accuracy" (0..1) are shown where some row has them.
    """
    times = [name for name in _TIMES if any(number(row.get(name)) is not None for row in timings)]
    found = dict.fromkeys(name for row in timings for name in row if name.startswith("accuracy"))
    accuracies = [name for name in found if any(number(row.get(name)) is not None for row in timings)]
    heads = [_TIMES[name] for name in times] + ["all together"] * (len(times) > 1)
    heads += [f"{name.replace('_', ' ')}, %" for name in accuracies]
    head = '<th scope="col" class="text">criterion</th>'
    head += "".join(f'<th scope="col">{escape(title)}</th>' for title in heads)
    tops = {name: max((number(row.get(name)) or 0.0 for row in timings), default=0.0) for name in accuracies}
    body = []
    for row in timings:
        known = [number(row.get(name)) for name in times]
        cells = [figures.seconds(value) for value in known]
        cells += [figures.seconds(sum(value or 0.0 for value in known))] * (len(times) > 1)
        for name in accuracies:
            value = number(row.get(name))
            text = figures.ABSENT if value is None else f"{100 * value:.1f}"
            cells.append(f"<strong>{text}</strong>" if value is not None and value == tops[name] else text)
        label = str(row.get("criterion", "")) + (BLIND if row.get("scored_on") == "all" else "")
        body.append(_line(f'<th scope="row">{escape(label) or "–"}</th>', cells))
    return _table("", head, body)


def agreement(groups: Sequence[AgreementGroup], caption: str = "") -> str:
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
        body.append(_line(f'<th scope="row">{escape(group.name)}</th>', cells))
    return _table(escape(caption), head, body)


def strongest_units(units: Sequence[ClassUnit]) -> str:
    """Index and relevance of the strongest units, one line per class and one column per layer."""
    layers = list(dict.fromkeys(unit.layer for unit in units))
    cells: dict[str, dict[str, list[ClassUnit]]] = {}
    for unit in units:
        cells.setdefault(unit.class_name, {}).setdefault(unit.layer, []).append(unit)
    head = '<th scope="col" class="text">class</th>'
    head += "".join(f'<th scope="col" class="text">{escape(layer)}</th>' for layer in layers)
    body = [
        _line(
            f'<th scope="row">{escape(name)}</th>',
            (" · ".join(_unit(u) for u in sorted(row.get(layer, []), key=lambda u: u.rank)) for layer in layers),
            text=len(layers),
        )
        for name, row in cells.items()
    ]
    return _table("", head, body)


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
    _Figure("Accuracy", "accuracy", figures.percent, lambda old, new: figures.points(new - old)),
    _Figure("Balanced accuracy", "balanced_accuracy", figures.percent, lambda a, b: figures.points(b - a)),
    _Figure("Calibration error", "calibration_error", figures.percent, lambda a, b: figures.points(b - a)),
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


def _line(head: str, cells: Iterable[str], text: int = 0) -> str:
    inner = "".join(f"<td{' class=text' if place < text else ''}>{cell}</td>" for place, cell in enumerate(cells))
    return f"<tr>{head}{inner}</tr>"


def _table(caption: str, head: str, body: Sequence[str]) -> str:
    title = f"<caption>{caption}</caption>" if caption else ""
    return (
        f'<div class="panel scroll"><table>{title}<thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )
