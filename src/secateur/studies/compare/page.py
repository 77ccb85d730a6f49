"""The report of a comparison, its figures, and its tables on the terminal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from secateur import reports as rp
from secateur.core.devices import choose_device
from secateur.experiments import Tables, TextTable
from secateur.pipeline.pages import origin
from secateur.studies.compare.cells import UNPRUNED
from secateur.studies.compare.findings import name_of, overhead
from secateur.studies.compare.settings import CompareStudySettings
from secateur.studies.compare.tables import Row, rows_of
from secateur.studies.compare.timing import busy_networks


def compare_page(tables: Tables, settings: CompareStudySettings, *more: object) -> rp.Report:
    """The report.

    Args:
        tables: assembled.
        settings: of the study.
        more: sections behind the curves.
    """
    rows, asked = rows_of(tables), settings.compare
    subsets = f"{len(asked.variants.subsets)} subsets, " if asked.variants.subsets else ""
    made = origin(settings)
    made["notes"] += notes_of(rows)
    return rp.Report(
        title=f"Criteria compared: {rows[0]['model']} on {rows[0]['dataset']}",
        subtitle=f"{len(asked.variants.criteria)} criteria, {subsets}{len(asked.variants.seeds)} seeds, "
        f"unpruned {100 * unpruned(rows):.2f} %",
        sections=[rp.Comparison(rp.read_rows(rp.ComparisonRow, rows)), *more],
        conditions=conditions_of(rows, settings),
        **made,
    )


def write_figures(rows: Sequence[Row], settings: CompareStudySettings, folder: Path) -> dict[str, Path]:
    """Accuracy over budgets, as SVG."""
    if settings.compare.targets.kind == "ratio":
        return {}
    structured = [row for row in rows if row["structured"] and row["criterion"] != UNPRUNED]
    path = folder / "compare.svg"
    return {"picture": rp.save_curves(structured, path, unpruned(rows), conditions_of(rows, settings))}


def unpruned(rows: Sequence[Row]) -> float:
    """Mean accuracy of the unpruned network over subsets, 0..1."""
    return float(mean(row["accuracy"] for row in rows if row["criterion"] == UNPRUNED))


def notes_of(rows: Sequence[Row]) -> list[str]:
    """What tables do not say, one line each."""
    notes = [str(line) for line in [overhead(rows)] if line is not None]
    fallbacks: dict[str, int] = defaultdict(int)
    for row in rows:
        if row["latency_note"] and not row["finetuned"]:
            fallbacks[row["latency_note"]] += 1
    notes += [f"{count} network(s) {text}" for text, count in fallbacks.items()]
    busy = busy_networks(rows)
    notes += [busy] if busy else []
    if any(not row["structured"] for row in rows):
        notes.append("masked weights are zeros in a network of full size: nothing gets smaller or faster by them")
    return notes


def conditions_of(rows: Sequence[Row], settings: CompareStudySettings) -> rp.Conditions:
    """What holds for the rows: the images they were measured on, reference samples, how times were taken."""
    asked, classes = settings.compare, settings.data.classes
    samples = {row["samples"] for row in rows if row["criterion"] == UNPRUNED}
    timed: dict[str, Any] = {"latency_batch": asked.timing.batch, "latency_rounds": asked.timing.repeats}
    return rp.Conditions(
        data=rows[0]["dataset"],
        split=asked.sampling.split,
        samples=samples.pop() if len(samples) == 1 else None,
        labels="" if classes is None else f"{len(classes)} classes",
        device=str(choose_device(settings.device)),
        seeds=list(asked.variants.seeds),
        reference_per_class=asked.sampling.per_class,
        threads=torch.get_num_threads(),
        **(timed if asked.timing.repeats else {}),
    )


def summaries(rows: Sequence[Row]) -> list[TextTable]:
    """Mean accuracy by criterion and budget, a table for each strategy."""
    measured = [row for row in rows if row["criterion"] != UNPRUNED]
    found = []
    for strategy in dict.fromkeys(row["strategy"] for row in measured):
        columns, lines = summary([row for row in measured if row["strategy"] == strategy])
        found.append(TextTable(f"accuracy in %: {strategy}", columns, lines))
    return found


def summary(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[object]]]:
    """Header and rows of one strategy: a line per criterion and stage, a column per budget; last, what was achieved.

    Figures are means over subsets and seeds.
    """
    cells: dict[tuple[str, bool], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    reached: dict[float, list[float]] = defaultdict(list)
    kind = "units" if rows[0]["budget_kind"] == "ratio" else rows[0]["budget_kind"]
    kind = kind if rows[0]["structured"] else "weights"
    for row in rows:
        cells[(name_of(row), row["finetuned"])][row["budget"]].append(row["accuracy"])
        reached[row["budget"]].append(row[kind])
    budgets = sorted(reached, reverse=rows[0]["budget_kind"] != "ratio")
    lines: list[list[object]] = []
    for (criterion, tuned), found in cells.items():
        means = [100 * mean(found[b]) if found[b] else None for b in budgets]
        stage = "fine-tuned" if tuned else "pruned"
        shown = ["-" if m is None else f"{m:.1f}" for m in means]
        lines.append([criterion, stage, *shown, f"{mean(m for m in means if m is not None):.1f}"])
    shares = [f"{100 * min(reached[b]):.1f}-{100 * max(reached[b]):.1f}" for b in budgets]
    lines.append([f"achieved {kind} in %", "", *shares, ""])
    return ["criterion", "stage", *(f"{b:g}" for b in budgets), "mean"], lines
