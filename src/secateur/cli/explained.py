"""What explain writes and prints."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import typer

from secateur import reports as rp
from secateur.cli.present import command_line, percent, show
from secateur.core.files import atomic_path
from secateur.pipeline.agreement import Agreement
from secateur.pipeline.explaining import Explained, ExplainJob
from secateur.pipeline.explanation import Explanation
from secateur.pipeline.pages import conditions, heatmap, new_report

_BINS = 40
# what fits on a terminal, and in a table of the report
_CLASSES, _LAYERS, _UNITS = 20, 3, 3


def show_explained(job: ExplainJob, found: Explained, out: Path) -> None:
    """Pictures, tables and a page into ``out``; tables on the terminal."""
    records = [heatmap(item) for item in found.images]
    _write_pictures(found.images, records, out)
    written = [f"pictures: {out}"]
    if found.units:
        written.append(f"units: {_write_rows(found.units, out / 'units.csv')}")
    if found.agreement is not None:
        written.append(f"agreement: {_write_rows(found.agreement.rows(), out / 'agreement.csv')}")
    page = rp.write_report(
        new_report(
            f"What {job.prepared.recipe.model.name} looks at",
            f"relevance of the true class, {job.asked.composite}",
            job.prepared,
            command_line(),
            sections=[
                rp.Heatmaps(records),
                *([] if found.agreement is None else [_agreement_record(found.agreement)]),
                rp.ClassUnits(_unit_records(found.units)),
            ],
            conditions=conditions(
                job.prepared,
                job.prepared.data.test,
                "test",
                seeds=[job.prepared.recipe.reference.seed],
                composite=job.asked.composite,
            ),
        ),
        out / "report.html",
    )
    rows = [(i.index, i.label, *i.predicted, *(f"{c:.3f}" for c in (*i.cosine[1:], *i.rank[1:]))) for i in found.images]
    extra = ("pruned says", "cosine", "rank correlation") if len(job.networks) > 1 else ()
    show(("image", "class", "network says", *extra), rows)
    if found.units:
        _show_units(found.units)
    if found.agreement is not None:
        _show_agreement(found.agreement)
    typer.echo("\n".join([*written, f"report: {page}"]))


def _write_pictures(found: Sequence[Explanation], records: Sequence[rp.Heatmap], out: Path) -> None:
    for item, record in zip(found, records, strict=True):
        for name, picture in (("before", record.before_png), ("after", record.after_png)):
            if picture:
                with atomic_path(out / f"image-{item.index}-{name}.png") as temporary:
                    temporary.write_bytes(base64.b64decode(picture))


def _write_rows(rows: list[dict[str, Any]], path: Path) -> Path:
    import pandas as pd

    with atomic_path(path) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)
    return path


def _unit_records(units: Sequence[dict[str, Any]]) -> list[rp.ClassUnit]:
    last = set(list(dict.fromkeys(row["layer"] for row in units))[-_LAYERS:])
    return [
        rp.ClassUnit(row["class"], row["layer"], row["unit"], row["relevance"], row["rank"])
        for row in units
        if row["layer"] in last and row["rank"] <= _UNITS
    ]


def _agreement_record(found: Agreement) -> rp.Agreement:
    measures = ("cosine", "rank", "chance_cosine", "chance_rank")
    return rp.Agreement(
        groups=[rp.AgreementGroup(**row) for row in found.summary()],
        counts={name: np.histogram(getattr(found, name), _BINS, (-1, 1))[0].tolist() for name in measures},
    )


def _show_units(units: Sequence[dict[str, Any]]) -> None:
    records = _unit_records(units)
    layers = list(dict.fromkeys(unit.layer for unit in records))
    names = list(dict.fromkeys(unit.class_name for unit in records))
    rows = [
        (
            name,
            *(
                " ".join(str(u.unit) for u in records if u.class_name == name and u.layer == layer) or "-"
                for layer in layers
            ),
        )
        for name in names[:_CLASSES]
    ]
    title = f"units with the largest relevance, last {len(layers)} layers"
    show(("class", *layers), rows, title + _rest(names))


def _show_agreement(found: Agreement) -> None:
    groups = found.summary()
    classes = [row for row in groups if row["kind"] == "class"]
    rows = [
        (row["name"], row["images"], percent(row["same_answer"]), *_spread(row, "cosine"), *_spread(row, "rank"))
        for row in groups
        if row["kind"] != "class"
    ]
    measures = ("cosine", "median (quartiles)", "rank", "median (quartiles)")
    show(("images", "number", "same answer", *measures), rows, "agreement of the heatmaps before and after")
    means = [
        (
            row["name"],
            row["images"],
            percent(row["same_answer"]),
            f"{row['cosine_mean']:.3f}",
            f"{row['rank_mean']:.3f}",
        )
        for row in classes[:_CLASSES]
    ]
    show(("class", "images", "same answer", "cosine", "rank"), means, "means by class" + _rest(classes))


def _spread(row: dict[str, Any], measure: str) -> tuple[str, str]:
    mean, q1, median, q3 = (row[f"{measure}_{figure}"] for figure in ("mean", "q1", "median", "q3"))
    return ("-", "-") if mean is None else (f"{mean:.3f}", f"{median:.3f} ({q1:.2f} to {q3:.2f})")


def _rest(items: Sequence[object]) -> str:
    return f" (first {_CLASSES} of {len(items)} classes)" if len(items) > _CLASSES else ""
