"""secateur explain."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import numpy as np
import pandas as pd
import typer

from secateur import report as rp
from secateur.attribution import composites
from secateur.cli.options import (
    ClassesOption,
    DataOption,
    DeviceOption,
    DryOption,
    HeadOption,
    ModelOption,
    OutOption,
    PrintOption,
    RecipeOption,
    SetOption,
    WeightsOption,
    class_list,
    recipe_from,
    stop_early,
)
from secateur.cli.present import heatmap, new_report, percent, say_notes, show
from secateur.core.errors import RequestError
from secateur.core.files import atomic_path
from secateur.data import LabelledImages, Normalisation
from secateur.pipeline import Explanation, check_classes, explain, prepare, strongest_units
from secateur.pipeline.agreement import Agreement
from secateur.pipeline.explanation import (
    HEATMAP_COMPOSITE,
    Start,
    agreement,
    check_outputs,
    draw,
    draw_per_class,
    first_of_classes,
)
from secateur.surgery import Bundle, read_bundle

_BINS = 40
# what fits on a terminal, and in a table of the report
_CLASSES, _LAYERS, _UNITS = 20, 3, 3


def command(
    recipe: RecipeOption = None,
    data: DataOption = None,
    model: ModelOption = None,
    weights: WeightsOption = None,
    compare_with: Annotated[Path | None, typer.Option("--against", help="Bundle of the pruned network.")] = None,
    images: Annotated[
        list[int] | None, typer.Option("--image", help="Index in the test set; repeat for several.")
    ] = None,
    count: Annotated[int, typer.Option("--count", min=1, help="How many images, when none is named.")] = 8,
    per_class: Annotated[
        int, typer.Option("--per-class", min=0, help="Test images per class to rank units on; 0: no ranking.")
    ] = 10,
    top: Annotated[int, typer.Option("--top", min=1, help="Units per class and layer in units.csv.")] = 5,
    agreement_images: Annotated[
        int,
        typer.Option("--agreement-images", min=0, help="Test images to compare with --against on; 0: none."),
    ] = 500,
    composite: Annotated[str, typer.Option("--composite", help="Rules of the relevance pass.")] = HEATMAP_COMPOSITE,
    start: Annotated[
        str, typer.Option("--start", help="Relevance at the class: logit, one (shares), contrast (to other classes).")
    ] = "logit",
    seed: Annotated[int | None, typer.Option("--seed", help="Of the images drawn.")] = None,
    classes: ClassesOption = None,
    head: HeadOption = None,
    device: DeviceOption = None,
    overrides: SetOption = None,
    out: OutOption = Path("out/explain"),
    print_config: PrintOption = False,
    dry_run: DryOption = False,
) -> None:
    """Heatmaps of test images, the units that speak for each class, and whether a pruned network looks elsewhere."""
    chosen = recipe_from(
        recipe, overrides, data__source=data, data__classes=class_list(classes), model__name=model,
        model__weights=weights, model__replace_head=head, reference__seed=seed,
        device=device,
    )  # fmt: skip
    # wrong names and files show before any work
    composites.get(composite)
    begin = _start(start)
    bundle = None if compare_with is None or print_config else read_bundle(compare_with)
    if stop_early(chosen, print_config, dry_run):
        return
    prepared = prepare(chosen)
    check_classes(prepared)
    say_notes(prepared)
    test = prepared.data.test
    networks = [prepared.model.to(prepared.device)]
    splits = [test]
    if bundle is not None:
        networks.append(bundle.model.to(prepared.device))
        splits.append(_as_recorded(test, bundle, compare_with))
        check_outputs(networks, splits, composite, [chosen.model.name, str(compare_with)])
    passes: dict[str, Any] = {"composite": composite, "start": begin, "batch_size": chosen.prune.batch_size}
    indices = list(dict.fromkeys(images or first_of_classes(test, count)))
    found = explain(networks, splits, indices, **passes)
    records = [heatmap(item) for item in found]
    _write_pictures(found, records, out)
    written = [f"pictures: {out}"]
    units: list[dict[str, Any]] = []
    if per_class:
        drawn = draw_per_class(test, per_class, chosen.reference.seed)
        units = strongest_units(networks[0], test, drawn, top, **passes)
        written.append(f"units: {_write_rows(units, out / 'units.csv')}")
    compared = None
    if bundle is not None and agreement_images:
        drawn = draw(test, agreement_images, chosen.reference.seed)
        compared = agreement(networks[0], networks[1], splits, drawn, **passes)
        written.append(f"agreement: {_write_rows(compared.rows(), out / 'agreement.csv')}")
    page = rp.write_report(
        new_report(
            f"What {chosen.model.name} looks at",
            f"relevance of the true class, {composite}",
            prepared,
            heatmaps=records,
            agreement=None if compared is None else _agreement_record(compared),
            units=_unit_records(units),
        ),
        out / "report.html",
    )
    rows = [(i.index, i.label, *i.predicted, *(f"{c:.3f}" for c in (*i.cosine[1:], *i.rank[1:]))) for i in found]
    extra = ("pruned says", "cosine", "rank correlation") if bundle is not None else ()
    show(("image", "class", "network says", *extra), rows)
    if units:
        _show_units(units)
    if compared is not None:
        _show_agreement(compared)
    typer.echo("\n".join([*written, f"report: {page}"]))


def _start(text: str) -> Start:
    if text not in get_args(Start):
        raise RequestError(f"unknown start '{text}'; known: {', '.join(get_args(Start))}")
    return cast(Start, text)


def _as_recorded(images: LabelledImages, bundle: Bundle, path: Path | None) -> LabelledImages:
    """The images as the bundle's network takes them: it may have been trained with another normalisation."""
    known = bundle.architecture.get("data", {}).get("normalisation")
    if not known:
        return images
    recorded = Normalisation(tuple(known["mean"]), tuple(known["std"]))
    if recorded == images.normalisation:
        return images
    if len(recorded.mean) != len(images.normalisation.mean):
        raise RequestError(
            f"bundle '{path}' takes {len(recorded.mean)} channel(s), the images have "
            f"{len(images.normalisation.mean)}; give the data it was pruned on"
        )
    return images.replace(normalisation=recorded)


def _write_pictures(found: Sequence[Explanation], records: Sequence[rp.Heatmap], out: Path) -> None:
    for item, record in zip(found, records, strict=True):
        for name, picture in (("before", record.before_png), ("after", record.after_png)):
            if picture:
                with atomic_path(out / f"image-{item.index}-{name}.png") as temporary:
                    temporary.write_bytes(base64.b64decode(picture))


def _write_rows(rows: list[dict[str, Any]], path: Path) -> Path:
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
