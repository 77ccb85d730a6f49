"""secateur demo."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import typer

from secateur.cli.options import DeviceOption, OutOption, SetOption, recipe_from
from secateur.cli.present import heatmaps, layers, measurement, new_report, percent, show
from secateur.data import loader
from secateur.evaluation import count_params, evaluate, measure_latency
from secateur.pipeline import Compressed, check_classes, compare, prepare, train_network, write_table
from secateur.report import write_report
from secateur.structure import trace
from secateur.surgery import save


def command(device: DeviceOption = None, overrides: SetOption = None, out: OutOption = Path("out/demo")) -> None:
    """Train on real digits, prune to half the MACs by four criteria, fine-tune an epoch, report."""
    recipe = recipe_from("demo", overrides, device=device)
    prepared = prepare(recipe)
    check_classes(prepared)
    typer.echo(f"1/3 training {recipe.model.name} on {len(prepared.data.train)} images of {prepared.data.name}")
    train_network(prepared)
    criteria = ", ".join(recipe.compare.criteria)
    typer.echo(f"2/3 pruning to {recipe.compare.budgets[-1]:.0%} of the MACs by {criteria}, and fine-tuning")
    kept: dict[str, Compressed] = {}
    finetune = recipe.finetune.model_copy(update={"device": str(prepared.device)})
    rows = compare(
        prepared.model.to(prepared.device),
        prepared.data,
        recipe.compare,
        recipe.prune,
        model_name=recipe.model.name,
        finetune=finetune,
        keep=kept,
    )
    typer.echo("3/3 measuring and writing")
    best = kept[recipe.compare.criteria[0]]
    prepared.model.to("cpu")
    best.model.to("cpu")
    test, names = prepared.data.test, prepared.data.class_names
    probe = test.batch(range(min(64, len(test))))[0]
    old, new = measure_latency([prepared.model, best.model], probe)
    before = replace(evaluate(prepared.model, loader(test), class_names=names), latency=old)
    after = replace(evaluate(best.model, loader(test), class_names=names), latency=new)
    structure = trace(prepared.model, probe[:1])
    if out.exists() and (out / "bundle").is_dir():
        shutil.rmtree(out / "bundle")
    metrics = {"before": before.to_json(), "finetuned": after.to_json(), "achieved": dict(best.plan.achieved)}
    bundle = save(
        best.model,
        out / "bundle",
        plan=best.plan,
        recipe=recipe.model_dump(mode="json"),
        metrics=metrics,
        data=prepared.data_record(),
    )
    write_table(rows, out)
    page = write_report(
        new_report(
            f"{recipe.model.name} on {prepared.data.name}",
            str(best.plan),
            prepared,
            rows=rows[1:],
            before=measurement(before, structure.num_units),
            after=measurement(after, int(best.plan.keep(structure).sum())),
            layers=layers(structure, best.plan),
            heatmaps=heatmaps(prepared.model, best.model, prepared),
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
                percent(row["units"]),
                f"{row['params'] * whole[0]:,.0f} ({row['params']:.1%})",
                f"{row['macs'] * whole[1] / 1e6:.2f} M ({row['macs']:.1%})",
                f"{row['size_bytes'] / 1024:,.0f} KiB",
                "-" if row["latency_ms"] is None else f"{row['latency_ms']:.1f} ms ({row['latency_share']:.2f}x)",
            )
        )
    show(
        ("criterion", "stage", "accuracy", "units", "parameters", "MACs", "size", "latency/batch 64"),
        lines,
        f"{recipe.model.name} on {prepared.data.name} at {recipe.compare.budgets[-1]:.0%} of the MACs",
    )
    typer.echo(f"bundle: {bundle}\nreport: {page}")
