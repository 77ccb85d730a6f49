"""What the commands on prototype networks write and print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from secateur.cli.present import ALONE, alone, command_line, percent, say_notes, show
from secateur.cli.results import write_split
from secateur.core.files import atomic_path, write_json
from secateur.exporting.formats import SUFFIXES
from secateur.models.prototype_network import PrototypeNetwork
from secateur.prototypes.explanation import ImageExplanation, PrototypeExplanations
from secateur.prototypes.exporting import export_prototypes
from secateur.prototypes.jobs import (
    ExplainPrototypesJob,
    Opened,
    ProjectJob,
    PrunePrototypesJob,
    TrainPrototypesJob,
    prototype_network_of,
)
from secateur.prototypes.kept import SOURCES, to_values
from secateur.prototypes.nearest import NearestPatches
from secateur.prototypes.numbers import prototype_numbers
from secateur.prototypes.pruning import PrunedPrototypes, left_of
from secateur.prototypes.records import Box, Projection
from secateur.surgery import read_bundle, save
from secateur.tracking import Tracking
from secateur.training import curves

Row = dict[str, Any]


def show_trained_prototypes(job: TrainPrototypesJob, out: Path) -> None:
    """Train; bundle, tables and page into ``out``, a table on the terminal."""
    say_notes(job.prepared)
    recipe, prepared = job.opened.recipe, job.prepared
    tracking = Tracking(
        recipe.tracking,
        f"prototypes of {recipe.network.backbone} on {prepared.data.name}",
        recipe.model_dump(mode="json"),
        out,
        lambda text: typer.echo(f"warning: {text}", err=True),
    )
    with tracking:
        trained, found = job.run(out / "states", curves(tracking))
        rows = trained.rows()
        metrics = {"test": found.to_json(), "history": rows, SOURCES: to_values(trained.last)}
        bundle = _save(job.opened, job.opened.network, out, metrics)
        written = {"bundle": bundle, "history": _write_rows(rows, out / "history.csv")}
        written |= _write_sources(job, trained.last, out)
        write_json(out / "metrics.json", metrics)
        tracking.file(out / "metrics.json")
    write_split(prepared.data, out)
    title = f"{prepared.data.name}, {found.samples:,} test images, seed {recipe.train.seed}, {prepared.device}"
    show(("stage", "epoch", "training loss", "accuracy on validation images"), [_stage_row(row) for row in rows[-8:]])
    show(ALONE, [alone(recipe.network.backbone, found)], title)
    _say_duplicates(trained.last)
    _say(written)
    for line in tracking.lines():
        typer.echo(line)


def show_pushed(job: ProjectJob, out: Path) -> None:
    """Project; bundle, table and page into ``out``, accuracy before and after on the terminal."""
    say_notes(job.prepared)
    projection, before, after = job.run()
    metrics = {"test": after.to_json(), "before": before.to_json(), SOURCES: to_values(projection)}
    written = {"bundle": _save(job.opened, job.opened.network, out, metrics)}
    written |= _write_sources(job, projection, out)
    title = f"{job.prepared.data.name}, {after.samples:,} test images, {job.prepared.device}"
    show(ALONE, [alone("before", before), alone("projected", after)], title)
    _say_duplicates(projection)
    _say(written)


def _write_sources(job: TrainPrototypesJob | ProjectJob, projection: Projection, out: Path) -> dict[str, Path]:
    """Where the prototypes come from, as table and page."""
    from secateur.prototypes.pages import prototypes_page

    rows = source_rows(projection, job.prepared.data.class_names)
    return {
        "prototypes": _write_rows(rows, out / "prototypes.csv"),
        "report": prototypes_page(job, projection, out / "report.html", command_line()),
    }


def show_pruned_prototypes(job: PrunePrototypesJob, out: Path) -> None:
    """Prune; bundle, table of decisions and page into ``out``, a table on the terminal."""
    from secateur.prototypes.pages import pruning_page

    say_notes(job.prepared)
    pruned, data = job.run(), job.prepared.data
    last = list(pruned.measured.values())[-1]
    metrics: Row = {"test": last.to_json(), **{name: found.to_json() for name, found in pruned.measured.items()}}
    projection = job.opened.projection
    if projection is not None:
        metrics[SOURCES] = to_values(left_of(projection, pruned.kept))
    rows = decision_rows(pruned, data.class_names)
    written = {
        "bundle": _save(job.opened, pruned.network, out, metrics),
        "decisions": _write_rows(rows, out / "decisions.csv"),
        "report": pruning_page(job, pruned, out / "report.html", command_line()),
    }
    write_json(out / "metrics.json", metrics)
    table = [
        [name, pruned.network.num_prototypes if name != "unpruned" else len(rows), *alone("", found)[1:]]
        for name, found in pruned.measured.items()
    ]
    title = f"{data.name}, {last.samples:,} test images, {job.prepared.device}"
    show(("", "prototypes", *ALONE[1:]), table, title)
    show(("class", "kept", "of"), _per_class(rows), "prototypes")
    _say(written)


def show_explained_prototypes(job: ExplainPrototypesJob, out: Path) -> None:
    """Explain; tables and page into ``out``, a table on the terminal."""
    from secateur.prototypes.pages import FIGURE, explanation_page

    say_notes(job.prepared)
    local, both = job.run()
    names = job.prepared.data.class_names
    evidence = evidence_rows(job, local, names)
    written = {
        "evidence": _write_rows(evidence, out / "evidence.csv"),
        "nearest": _write_rows(nearest_rows(job.opened.network, both, names), out / "nearest.csv"),
        "report": explanation_page(job, local, both, out / "report.html", command_line()),
        "figure": out / FIGURE,
    }
    table = []
    for position, item in enumerate(local):
        strongest = item.evidence[0]
        table.append(
            [
                _called(job, position),
                names[item.predicted],
                item.used,
                f"{strongest.prototype} ({names[strongest.label]})",
                f"{strongest.contribution:.2f} of {item.logits[item.target]:.2f}",
            ]
        )
    show(("image", "network says", "prototypes used", "strongest", "contribution"), table)
    typer.echo(
        f"a decision uses {both.used:.1f} prototypes on average (90 % of the positive contributions); mean purity "
        f"{100 * float(both.purity.mean()):.1f} %"
    )
    _say(written)


def show_exported_prototypes(model: Path, format: str, out: Path) -> None:
    """Export; the file into ``out``, its difference from PyTorch on the terminal."""
    bundle = read_bundle(model)
    network = prototype_network_of(bundle.model, model)
    path = out / f"prototypes{SUFFIXES[format]}"
    found = export_prototypes(network, path, format=format, metadata=bundle.architecture.get("data", {}))
    outputs = "logits and similarities" if format in ("onnx", "openvino") else "(logits, similarities)"
    typer.echo(f"outputs: {outputs}; largest difference from PyTorch {found.difference:.1e}")
    _say({format: found.path})


def source_rows(projection: Projection, names: Sequence[str]) -> list[Row]:
    """Where each prototype comes from, one row each."""
    return [
        {
            "prototype": source.prototype,
            "class": names[source.label],
            "image": source.patch.image,
            "split": source.patch.split,
            "file": source.patch.name,
            "row": source.patch.position[0],
            "column": source.patch.position[1],
            "distance": source.patch.distance,
            "duplicate_of": source.duplicate_of,
            **_boxes(source.boxes),
            "checksum": source.patch.checksum,
        }
        for source in projection.sources
    ]


def decision_rows(pruned: PrunedPrototypes, names: Sequence[str]) -> list[Row]:
    """What became of each prototype, one row each."""
    return [
        {
            "prototype": decision.number,
            "class": names[decision.label] if decision.label >= 0 else "",
            "kept": decision.kept,
            "reason": decision.reason,
            "purity": decision.purity,
            "score": decision.score,
            "nearest_classes": " ".join(names[label] for label in decision.nearest_labels),
        }
        for decision in pruned.decisions
    ]


def evidence_rows(job: ExplainPrototypesJob, local: Sequence[ImageExplanation], names: Sequence[str]) -> list[Row]:
    """The strongest prototypes of each image, one row for each."""
    return [
        {
            "image": _called(job, position),
            "predicted": names[item.predicted],
            "logit": item.logits[item.target],
            "rank": rank,
            "prototype": evidence.prototype,
            "class": names[evidence.label] if evidence.label >= 0 else "",
            "similarity": evidence.similarity,
            "weight": evidence.weight,
            "contribution": evidence.contribution,
            **_boxes(evidence.boxes),
        }
        for position, item in enumerate(local)
        for rank, evidence in enumerate(item.evidence, 1)
    ]


def nearest_rows(network: PrototypeNetwork, both: PrototypeExplanations, names: Sequence[str]) -> list[Row]:
    """The nearest patches of each prototype, one row for each."""
    numbers = prototype_numbers(network)
    found: list[Row] = []
    for near in filter(None, (both.train, both.test)):
        found += [row for place, number in enumerate(numbers) for row in _near(near, place, int(number), names)]
    return found


def _near(near: NearestPatches, place: int, number: int, names: Sequence[str]) -> list[Row]:
    return [
        {
            "prototype": number,
            "split": near.split,
            "rank": rank + 1,
            "image": int(near.images[place, rank]),
            "class": names[near.labels[place, rank]],
            "row": int(near.rows[place, rank]),
            "column": int(near.columns[place, rank]),
            "distance": float(near.distances[place, rank]),
            "similarity": float(near.similarities[place, rank]),
        }
        for rank in range(near.images.shape[1])
        if near.images[place, rank] >= 0
    ]


def _called(job: ExplainPrototypesJob, position: int) -> str:
    return job.files[position] if job.files else str(job.indices[position])


def _boxes(boxes: Mapping[Any, Box]) -> Row:
    return {
        f"{kind}_{side}": getattr(box, side)
        for kind, box in boxes.items()
        for side in ("top", "left", "bottom", "right")
    }


def _per_class(rows: Sequence[Row]) -> list[list[object]]:
    names = list(dict.fromkeys(row["class"] for row in rows))
    own = {name: [row["kept"] for row in rows if row["class"] == name] for name in names}
    return [[name or "(switched off)", sum(kept), len(kept)] for name, kept in own.items()]


def _stage_row(row: Row) -> list[object]:
    loss = row.get("train_loss")
    return [
        row["stage"],
        int(row["epoch"]),
        "-" if loss is None else f"{loss:.4f}",
        percent(row.get("val_accuracy")),
    ]


def _save(opened: Opened, network: PrototypeNetwork, out: Path, metrics: Row) -> Path:
    network.to("cpu")
    return save(
        network,
        out / "bundle",
        recipe=opened.recipe.model_dump(mode="json"),
        metrics=metrics,
        data=opened.prepared.data_record(),
        progress=False,
    )


def _write_rows(rows: Sequence[Row], path: Path) -> Path:
    import pandas as pd

    with atomic_path(path) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)
    return path


def _say_duplicates(projection: Projection) -> None:
    found = projection.duplicates
    if found:
        typer.echo(
            f"{len(found)} of {len(projection.sources)} prototypes are on a patch that another one is on as well, the "
            f"first: {found[0].prototype} and {found[0].duplicate_of}; train.avoid_duplicates=true keeps them apart"
        )


def _say(written: Mapping[str, Path]) -> None:
    for name, path in written.items():
        typer.echo(f"{name}: {path}")
