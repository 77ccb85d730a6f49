"""What ``secateur data check`` prints and writes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import typer

from secateur.cli.present import command_line, show, show_lines
from secateur.core.files import atomic_path, write_json, write_text
from secateur.data.findings import Duplicate, Inspection
from secateur.data.settings import DataSettings
from secateur.data.verdicts import verdict
from secateur.pipeline.pages import origin
from secateur.reports import AlikeImages, ClassImages, DataCheck, Report, image_jpeg, render

_SHOWN = 6  # pairs of images on the page
_LINES = 40  # classes on the terminal


def print_inspection(found: Inspection) -> None:
    """The answer, a table of classes by split, and what else to know."""
    show_lines([f"{found.name}: {verdict(found)}"])
    several = len(found.splits) > 1
    rows = []
    for each in found.classes[:_LINES]:
        cells = [
            f"{each.images[split]:,}" + (f" ({each.groups[split]:,})" if each.groups else "") for split in found.splits
        ]
        rows.append((each.name, *cells, *([f"{sum(each.images.values()):,}"] if several else [])))
    what = "images" if found.groups is None else "images (groups)"
    title = f"{what}, split {found.split_by}" if several else what
    show(("class", *found.splits, *(["all"] if several else [])), rows, title)
    if len(found.classes) > _LINES:
        show_lines([f"and {len(found.classes) - _LINES:,} more classes: --json shows them all"])
    show_lines([f"- {line}" for line in (*found.findings(), *found.notes)])


def print_json(found: Inspection) -> None:
    """The same for programs."""
    typer.echo(json.dumps(found.to_json(), indent=1, ensure_ascii=False))


def write_inspection(found: Inspection, settings: DataSettings, out: Path) -> list[Path]:
    """Write ``check.json``, ``duplicates.csv`` and the page ``check.html``.

    Args:
        found: what is written.
        settings: it was found with.
        out: folder.
    """
    return [
        write_json(out / "check.json", found.to_json()),
        _write_duplicates(found, out / "duplicates.csv"),
        write_text(out / "check.html", render(page_of(found, settings))),
    ]


def page_of(found: Inspection, settings: DataSettings) -> Report:
    """The page."""
    made = origin(settings, command_line()) | {"notes": list(found.notes)}
    return Report(
        title=f"Data check: {found.name}",
        subtitle=verdict(found),
        sections=[
            DataCheck(
                findings=found.findings(),
                splits=list(found.splits),
                classes=[ClassImages(each.name, each.images, each.groups) for each in found.classes],
                split_by=found.split_by,
                alike=[_alike(found, pair) for pair in _first_pairs(found)],
            )
        ],
        **made,
    )


def _first_pairs(found: Inspection) -> list[Duplicate]:
    """Near-duplicates that are to be looked at; those across splits come first anyway."""
    near = [each for each in found.duplicates if each.kind == "near"]
    return sorted(near, key=lambda each: not each.across_groups)[:_SHOWN]


def _alike(found: Inspection, pair: Duplicate) -> AlikeImages:
    where = f"{pair.first_split} and {pair.second_split}" if pair.across_splits else pair.first_split
    whose = "" if found.groups is None else ", different groups" if pair.across_groups else ", same group"
    what = f", {pair.first_class} and {pair.second_class}" if pair.across_classes else f", {pair.first_class}"
    first, second = (image_jpeg(found.picture(row, side=240)) for row in pair.rows)
    return AlikeImages(f"{where}{whose}{what}", pair.first, pair.second, first, second)


def _write_duplicates(found: Inspection, path: Path) -> Path:
    columns = [name for name in Duplicate.__dataclass_fields__ if name != "rows"]
    with atomic_path(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(each.to_row() for each in found.duplicates)
    return path
