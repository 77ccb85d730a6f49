"""What demo does: the whole way from training to a report."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from secateur.cli.present import Units, command_line, percent, show
from secateur.core.figures import count, milliseconds, size
from secateur.core.timing import Latency, LatencyShare
from secateur.data import loader
from secateur.evaluation import count_params, evaluate, measure_latency
from secateur.pipeline import Compressed, Prepared
from secateur.pipeline.jobs import TrainJob
from secateur.pipeline.pages import conditions, heatmaps, layers, measurement, new_report, timing_conditions
from secateur.pipeline.requests import HEATMAP_COMPOSITE
from secateur.reports import BeforeAfter, Comparison, ComparisonRow, read_rows, write_report
from secateur.structure import trace
from secateur.studies.compare import compare, write_rows
from secateur.surgery import save


def demonstrate(job: TrainJob, out: Path) -> None:
    """Train, prune by several criteria, fine-tune, measure, write tables, a bundle and a page into ``out``."""
    prepared, recipe = job.prepared, job.prepared.recipe
    typer.echo(f"1/3 training {recipe.model.name} on {len(prepared.data.train)} images of {prepared.data.name}")
    job.train()
    criteria = ", ".join(recipe.compare.variants.criteria)
    typer.echo(f"2/3 pruning to {recipe.compare.targets.budgets[-1]:.0%} of the MACs by {criteria}, and fine-tuning")
    kept: dict[str, Compressed] = {}
    # timed below, all in turn
    untimed = recipe.compare.model_copy(update={"timing": recipe.compare.timing.model_copy(update={"repeats": 0})})
    finetune = recipe.finetune.model_copy(update={"device": str(prepared.device)})
    rows = compare(
        prepared.model.to(prepared.device),
        prepared.data,
        untimed,
        recipe.prune,
        model_name=recipe.model.name,
        finetune=finetune,
        keep=kept,
    )
    typer.echo("3/3 measuring and writing")
    best = kept[recipe.compare.variants.criteria[0]]
    prepared.model.to("cpu")
    for network in kept.values():
        network.model.to("cpu")
    test, names = prepared.data.test, prepared.data.class_names
    times = _timed(prepared, kept, rows)
    before = replace(evaluate(prepared.model, loader(test), class_names=names), latency=times.get("none"))
    after = replace(
        evaluate(best.model, loader(test), class_names=names), latency=times.get(recipe.compare.variants.criteria[0])
    )
    structure = trace(prepared.model, test.batch([0])[0], stream=recipe.prune.stream)
    units = Units.of(structure, best.plan)
    if out.exists() and (out / "bundle").is_dir():
        shutil.rmtree(out / "bundle")
    metrics = {
        "achieved": dict(best.plan.achieved),
        "units": units.to_json(),
        "before": before.to_json(),
        "finetuned": after.to_json(),
    }
    bundle = save(
        best.model,
        out / "bundle",
        plan=best.plan,
        recipe=recipe.model_dump(mode="json"),
        metrics=metrics,
        data=prepared.data_record(),
    )
    write_rows(rows, out)
    page = write_report(
        new_report(
            f"{recipe.model.name} on {prepared.data.name}",
            best.plan.summary,
            prepared,
            command_line(),
            sections=[
                BeforeAfter(measurement(before, units.removable), measurement(after, units.kept)),
                Comparison(read_rows(ComparisonRow, rows)),
                layers(structure, best.plan),
                heatmaps(prepared.model, best.model, prepared),
            ],
            conditions=conditions(
                prepared,
                test,
                "test",
                seeds=list(recipe.compare.variants.seeds),
                reference_per_class=recipe.compare.sampling.per_class,
                composite=HEATMAP_COMPOSITE,
                **timing_conditions(before.latency),
            ),
        ),
        out / "report.html",
    )
    whole = count_params(prepared.model), structure.cost().macs
    lines = []
    for row in rows:
        stage = "" if row["criterion"] == "none" else ("fine-tuned" if row["finetuned"] else "pruned")
        lines.append(
            (
                "unpruned" if row["criterion"] == "none" else row["criterion"],
                stage,
                percent(row["accuracy"]),
                str(Units(round(row["units"] * units.removable), units.removable)),
                f"{row['params'] * whole[0]:,.0f} ({100 * row['params']:.1f} %)",
                f"{count(row['macs'] * whole[1])} ({100 * row['macs']:.1f} %)",
                size(row["size_bytes"]),
                "-" if row["latency_ms"] is None else milliseconds(row["latency_ms"]),
                "" if row["criterion"] == "none" else str(LatencyShare.from_columns(row) or "-"),
            )
        )
    show(
        ("criterion", "stage", "accuracy", "units", "parameters", "MACs", "size", "latency", "against unpruned"),
        lines,
        f"{recipe.model.name} on {prepared.data.name} at {recipe.compare.targets.budgets[-1]:.0%} of the MACs",
    )
    if before.latency is not None:
        rounds = f"{before.latency.repeats} rounds"
        typer.echo(f"latency: per batch of {before.latency.batch_size}, all networks timed in turn over {rounds}")
        if before.latency.warning:
            typer.echo(f"warning: latency {before.latency.warning}")
    typer.echo(f"bundle: {bundle}\nreport: {page}")


def _timed(prepared: Prepared, kept: Mapping[str, Compressed], rows: list[dict[str, Any]]) -> dict[str, Latency]:
    """Times of the unpruned network ("none") and of those kept, by criterion, all in turn; also put into their rows."""
    settings = prepared.recipe.compare
    if not settings.timing.repeats:
        return {}
    test = prepared.data.test
    probe = test.batch(range(min(settings.timing.batch, len(test))))[0]
    models = [prepared.model, *(network.model for network in kept.values())]
    found = dict(zip(("none", *kept), measure_latency(models, probe), strict=True))
    last = {row["criterion"]: _part(row) for row in rows if row["structured"]}  # which is the one that was kept
    for row in rows:
        if last.get(row["criterion"]) == _part(row) and row["structured"]:
            row |= found[row["criterion"]].columns()
    return found


def _part(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("strategy", "subset", "seed", "scored_on", "budget"))
