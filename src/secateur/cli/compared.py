"""What compare writes and prints."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import typer

from secateur import reports as rp
from secateur.cli.present import command_line, show
from secateur.cli.tracked import tracked
from secateur.data import LabelledImages
from secateur.pipeline import Prepared, busy_networks, class_rows, layer_rows, write_table
from secateur.pipeline.bench import measured_images
from secateur.pipeline.pages import conditions, new_report
from secateur.pipeline.tracked import log_comparison
from secateur.studies import class_aware

LATENCIES = (0.9, 0.8, 0.7, 0.6, 0.5)


def show_compared(prepared: Prepared, rows: list[dict[str, Any]], out: Path) -> None:
    """Tables, pictures and a page into ``out``; tables on the terminal."""
    chosen = prepared.recipe
    measured = [row for row in rows if row["criterion"] != "none"]
    for strategy in dict.fromkeys(row["strategy"] for row in measured):
        show(*summary([row for row in measured if row["strategy"] == strategy]), title=f"accuracy in %: {strategy}")
    found = class_aware.gains(rows)
    if found:
        show(*gain_table(found), title="accuracy by class-aware minus class-blind scores, in points (95 % interval)")
    latencies = class_aware.at_latency(rows, LATENCIES)
    if latencies and chosen.compare.subsets:
        show(*latency_table(latencies), title="accuracy in % at equal latency (PyTorch, of the unpruned network's)")
    notes = _notes(rows)
    typer.echo("\n".join([*notes, *_written(prepared, rows, found, notes, out)]))


def _notes(rows: list[dict[str, Any]]) -> list[str]:
    """What tables do not say, one line each."""
    notes = [str(line) for line in [class_aware.overhead(rows)] if line is not None]
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


def _written(
    prepared: Prepared, rows: list[dict[str, Any]], found: list[dict[str, Any]], notes: list[str], out: Path
) -> list[str]:
    """Write tables, pictures and the page, log to trackers; where all that is."""
    chosen = prepared.recipe
    measured = [row for row in rows if row["criterion"] != "none"]
    tables = write_table(rows, out)
    baseline = mean(row["accuracy"] for row in rows if row["criterion"] == "none")
    lines = [f"table: {tables[0]}"]
    asked = _conditions(prepared)
    if chosen.compare.kind != "ratio":
        structured = [row for row in measured if row["structured"]]
        lines.append(f"picture: {rp.save_curves(structured, out / 'compare.svg', baseline, asked)}")
    if chosen.compare.subsets:
        lines.append(f"picture: {rp.save_subset_curves(rows, out / 'subsets.svg', asked)}")
    if found:
        lines.append(f"picture: {rp.save_gains(found, out / 'gains.svg', asked)}")
    subsets = f"{len(chosen.compare.subsets)} subsets, " if chosen.compare.subsets else ""
    page = new_report(
        f"Criteria compared: {chosen.model.name} on {prepared.data.name}",
        f"{len(chosen.compare.criteria)} criteria, {subsets}{len(chosen.compare.seeds)} seeds, "
        f"unpruned {100 * baseline:.2f} %",
        prepared,
        command_line(),
        sections=[rp.Comparison(rp.read_rows(rp.ComparisonRow, rows)), *_subset_sections(rows, found)],
        conditions=asked,
    )
    page.notes.extend(notes)
    lines.append(f"report: {rp.write_report(page, out / 'report.html')}")
    with tracked(chosen, prepared, out, also=chosen.compare.trackers) as tracking:
        log_comparison(tracking, rows)
        tracking.file(out / "report.html")
    return [*lines, *tracking.lines()]


def _subset_sections(rows: list[dict[str, Any]], found: list[dict[str, Any]]) -> list[object]:
    """What the page shows of subsets of classes."""
    sections: list[object] = [rp.Gains(rp.read_rows(rp.GainRow, found))]
    if not any(row["subset"] != "all" for row in rows):
        return sections
    layers = _means(layer_rows(rows), "layer", ("kept", "total"))
    return [
        *sections,
        rp.ClassAccuracy(rp.read_rows(rp.ClassAccuracyRow, class_rows(rows))),
        rp.LayerShares(rp.read_rows(rp.LayerShareRow, layers)),
        rp.Timings(rp.read_rows(rp.TimingRow, class_aware.timings(rows))),
    ]


def _conditions(prepared: Prepared) -> rp.Conditions:
    """What holds for the rows: the images they were measured on, reference samples, how times were taken."""
    asked = prepared.recipe.compare
    split: LabelledImages = getattr(prepared.data, asked.split)
    images = measured_images(split, asked) if not asked.subsets else split
    timed = {"latency_batch": asked.latency_batch, "latency_rounds": asked.latency_repeats}
    return conditions(
        prepared,
        images,
        asked.split,
        seeds=list(asked.seeds),
        reference_per_class=asked.per_class,
        threads=torch.get_num_threads(),
        **(timed if asked.latency_repeats else {}),
    )


def _means(rows: list[dict[str, Any]], what: str, values: tuple[str, ...]) -> list[dict[str, Any]]:
    """Means over seeds."""
    keys = ("subset", "criterion", "scored_on", "strategy", "budget", "finetuned", what)
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        found[tuple(row[key] for key in keys)].append(row)
    return [
        dict(zip(keys, key, strict=True)) | {value: mean(row[value] for row in group) for value in values}
        for key, group in found.items()
    ]


def summary(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[object]]]:
    """Header and rows of one strategy: a line per criterion and stage, a column per budget; last, what was achieved.

    Figures are means over subsets and seeds.
    """
    cells: dict[tuple[str, bool], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    reached: dict[float, list[float]] = defaultdict(list)
    kind = "units" if rows[0]["budget_kind"] == "ratio" else rows[0]["budget_kind"]
    kind = kind if rows[0]["structured"] else "weights"
    for row in rows:
        cells[(class_aware.name_of(row), row["finetuned"])][row["budget"]].append(row["accuracy"])
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
        key = (class_aware.name_of(row), row["strategy"], "fine-tuned" if row["finetuned"] else "pruned")
        lines[key][row["latency_share"]] = "-" if row["accuracy"] is None else f"{100 * row['accuracy']:.1f}"
    body: list[list[object]] = [[*key, *(cells[s] for s in shares)] for key, cells in lines.items()]
    return ["criterion", "strategy", "stage", *(f"{s:g}" for s in shares)], body
