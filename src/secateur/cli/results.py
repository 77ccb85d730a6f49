"""What train, evaluate and prune write and print."""

from __future__ import annotations

import re
from pathlib import Path

import typer

from secateur.cli.present import (
    ALONE,
    COMPARED,
    Units,
    alone,
    command_line,
    compared,
    latency_lines,
    memory_lines,
    percent,
    show,
)
from secateur.core.files import write_json
from secateur.data import ImageData
from secateur.data.splits import write_assignment
from secateur.evaluation import Evaluation
from secateur.models import origin_of, save_weights
from secateur.pipeline.jobs import EvaluateJob, PruneJob, PruneRun, TrainJob
from secateur.pipeline.pages import conditions, heatmaps, layers, measurement, new_report, refits, timing_conditions
from secateur.pipeline.requests import HEATMAP_COMPOSITE
from secateur.reports import BeforeAfter, write_report
from secateur.selection.plan import Edits
from secateur.surgery import edits_of, save
from secateur.training import TrainingHistory


def _warn(found: Evaluation) -> None:
    if found.latency is not None and found.latency.warning:
        typer.echo(f"warning: latency {found.latency.warning}")


def write_split(data: ImageData, out: Path) -> None:
    """``split.csv``: which image is in which split, where the source itself did not say so."""
    if data.assignment is not None:
        write_assignment(data.assignment, out / "split.csv")
        typer.echo(f"split: {out / 'split.csv'}")


def show_trained(job: TrainJob, history: TrainingHistory, found: Evaluation, out: Path) -> None:
    """Weights (of a network that was cut: a bundle) and metrics into ``out``, a table on the terminal."""
    prepared, recipe = job.prepared, job.prepared.recipe
    model, name = prepared.model.to("cpu"), re.sub(r"[^\w.-]+", "-", recipe.model.name)
    metrics = {"test": found.to_json(), "history": history.to_json()}
    if edits_of(model) == Edits():
        origin = origin_of(model) or {"arguments": {}}
        metadata = {**origin, **prepared.data_record()}
        where = f"weights: {save_weights(model, out / f'{name}.safetensors', metadata)}"
    else:  # a network that was cut cannot be built by its name alone
        settings, record = recipe.model_dump(mode="json"), prepared.data_record()
        where = f"bundle: {save(model, out / 'bundle', recipe=settings, metrics=metrics, data=record)}"
    write_json(out / "metrics.json", metrics)
    write_split(prepared.data, out)
    title = f"{prepared.data.name}, {found.samples:,} test images, seed {recipe.train.seed}, {prepared.device}"
    show(ALONE, [alone(recipe.model.name, found)], title)
    _warn(found)
    typer.echo(where)


def show_evaluated(job: EvaluateJob, found: Evaluation, out: Path | None) -> None:
    """Tables on the terminal, and metrics into ``out``."""
    prepared = job.prepared
    title = f"{prepared.data.name}, {found.samples:,} {job.split} images, {prepared.device}"
    show(ALONE, [alone(prepared.recipe.model.name, found)], title)
    show(("class", "accuracy"), [(name, percent(value)) for name, value in found.per_class.items()])
    typer.echo(f"loss {found.loss:.4f}, calibration error {100 * found.calibration_error:.2f} %")
    _warn(found)
    if prepared.data.skipped:
        typer.echo(f"skipped {len(prepared.data.skipped)} unreadable image(s), first: {prepared.data.skipped[0]}")
    if out is not None:
        typer.echo(f"metrics: {write_json(out / 'metrics.json', found.to_json())}")


def show_pruned(job: PruneJob, run: PruneRun, out: Path) -> None:
    """Bundle, metrics and report into ``out``, tables on the terminal."""
    prepared, structure = job.prepared, job.structure
    recipe, plan, slim = prepared.recipe, run.compressed.plan, run.compressed.model
    left = Units.of(structure, plan)
    metrics = {
        "requested": dict(plan.requested),
        "achieved": dict(plan.achieved),
        "units": left.to_json(),
        "before": run.before.to_json(),
        "pruned": run.pruned.to_json(),
        "finetuned": None if run.tuned is None else run.tuned.to_json(),
    }
    settings, record = recipe.model_dump(mode="json"), prepared.data_record()
    bundle = save(slim, out / "bundle", plan=plan, recipe=settings, metrics=metrics, data=record)
    write_json(out / "metrics.json", metrics)
    job.reference.save(out / "reference.json")
    write_split(prepared.data, out)
    page = write_report(
        new_report(
            f"{recipe.model.name} on {prepared.data.name}",
            plan.summary,
            prepared,
            command_line(),
            sections=[
                BeforeAfter(measurement(run.before, left.removable), measurement(run.after, left.kept)),
                layers(structure, plan),
                *refits(run.compressed.fits),
                heatmaps(prepared.model, slim, prepared),
            ],
            conditions=conditions(
                prepared,
                prepared.data.test,
                "test",
                seeds=[recipe.reference.seed],
                reference_per_class=recipe.reference.per_class,
                composite=HEATMAP_COMPOSITE,
                **timing_conditions(run.after.latency),
            ),
        ),
        out / "report.html",
    )
    rows = [compared("unpruned", run.before, run.before, Units(left.removable, left.removable))]
    rows.append(compared("pruned", run.pruned, run.before, left))
    if run.tuned is not None:
        rows.append(compared("fine-tuned", run.tuned, run.before, left))
    show(COMPARED, rows, plan.summary)
    typer.echo(
        f"measured on {run.before.samples:,} test images of '{prepared.data.name}'; {len(job.reference)} reference "
        f"images, seed {recipe.reference.seed}"
    )
    lines = [
        *latency_lines(run.before.latency, run.after.latency),
        *memory_lines(run.before.memory, run.after.memory),
    ]
    for line in lines:
        typer.echo(line)
    for note in (run.compressed.history[-1].note, *plan.notes):
        if note:
            typer.echo(f"note: {note}")
    typer.echo(f"bundle: {bundle}\nreport: {page}")
