"""The report on class-aware pruning, and its tables on the terminal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from secateur import reports as rp
from secateur.experiments import Tables, TextTable
from secateur.studies.class_aware.findings import at_latency, gains, timings
from secateur.studies.compare.findings import name_of
from secateur.studies.compare.page import compare_page, conditions_of
from secateur.studies.compare.settings import CompareStudySettings
from secateur.studies.compare.tables import class_rows, layer_rows, rows_of

LATENCIES = (0.9, 0.8, 0.7, 0.6, 0.5)


def class_aware_page(tables: Tables, settings: CompareStudySettings) -> rp.Report:
    """The report of a comparison with gains, accuracy by class, kept layers and time spent."""
    rows = rows_of(tables)
    return compare_page(
        tables,
        settings,
        rp.Gains(rp.read_rows(rp.GainRow, gains(rows))),
        rp.ClassAccuracy(rp.read_rows(rp.ClassAccuracyRow, class_rows(rows))),
        rp.LayerShares(rp.read_rows(rp.LayerShareRow, _means(layer_rows(rows), "layer", ("kept", "total")))),
        rp.Timings(rp.read_rows(rp.TimingRow, timings(rows))),
    )


def class_aware_tables(tables: Tables) -> list[TextTable]:
    """Gains over class-blind scores, and accuracy at equal latency, where they were measured."""
    rows, found = rows_of(tables), []
    if better := gains(rows):
        title = "accuracy by class-aware minus class-blind scores, in points (95 % interval)"
        found.append(TextTable(title, *gain_table(better)))
    if latencies := at_latency(rows, LATENCIES):
        title = "accuracy in % at equal latency (PyTorch, of the unpruned network's)"
        found.append(TextTable(title, *latency_table(latencies)))
    return found


def write_class_aware_figures(tables: Tables, settings: CompareStudySettings, folder: Path) -> dict[str, Path]:
    """Accuracy by subset, and gains where there are class-blind scores, as SVG."""
    rows = rows_of(tables)
    asked = conditions_of(rows, settings)
    written = {"subsets": rp.save_subset_curves(rows, folder / "subsets.svg", asked)}
    if found := gains(rows):
        written["gains"] = rp.save_gains(found, folder / "gains.svg", asked)
    return written


def _means(rows: Sequence[Mapping[str, Any]], what: str, values: tuple[str, ...]) -> list[dict[str, Any]]:
    """Means over seeds."""
    keys = ("subset", "criterion", "scored_on", "strategy", "budget", "finetuned", what)
    found: dict[tuple[Any, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        found[tuple(row[key] for key in keys)].append(row)
    return [
        dict(zip(keys, key, strict=True)) | {value: mean(row[value] for row in group) for value in values}
        for key, group in found.items()
    ]


def gain_table(found: list[dict[str, Any]]) -> tuple[list[str], list[list[object]]]:
    """Header and rows: a line per criterion and stage, a column per budget, last the mean over budgets."""
    budgets = sorted({row["budget"] for row in found if row["budget"] is not None}, reverse=True)
    lines: dict[tuple[Any, ...], dict[float | None, str]] = defaultdict(dict)
    for row in found:
        spread = "" if row["low"] is None else f" [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"
        key = (row["criterion"], row["strategy"], "fine-tuned" if row["finetuned"] else "pruned")
        lines[key][row["budget"]] = f"{100 * row['gain']:+.1f}{spread}"
        if row["budget"] is None:
            lines[key][None] += f" ({row['better']} of {row['pairs']} better)"
    body: list[list[object]] = [[*key, *(cells.get(b, "-") for b in (*budgets, None))] for key, cells in lines.items()]
    return ["criterion", "strategy", "stage", *(f"{b:g}" for b in budgets), "mean over budgets"], body


def latency_table(found: list[dict[str, Any]]) -> tuple[list[str], list[list[object]]]:
    """Header and rows: a line per criterion and stage, a column per latency share."""
    shares = sorted({row["latency_share"] for row in found}, reverse=True)
    lines: dict[tuple[Any, ...], dict[float, str]] = defaultdict(dict)
    for row in found:
        key = (name_of(row), row["strategy"], "fine-tuned" if row["finetuned"] else "pruned")
        lines[key][row["latency_share"]] = "-" if row["accuracy"] is None else f"{100 * row['accuracy']:.1f}"
    body: list[list[object]] = [[*key, *(cells[s] for s in shares)] for key, cells in lines.items()]
    return ["criterion", "strategy", "stage", *(f"{s:g}" for s in shares)], body
