"""secateur compare."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import typer

from secateur.cli.options import (
    DataOption,
    DeviceOption,
    DryOption,
    ModelOption,
    OutOption,
    PrintOption,
    RecipeOption,
    SetOption,
    WeightsOption,
    recipe_from,
    stop_early,
)  # fmt: skip
from secateur.cli.present import new_report, show, warn_untrained
from secateur.pipeline import check_classes, compare, prepare, write_table
from secateur.report import save_curves, write_report


def command(
    recipe: RecipeOption = None,
    data: DataOption = None,
    model: ModelOption = None,
    weights: WeightsOption = None,
    criteria: Annotated[list[str] | None, typer.Option("--criterion", help="Repeat for several.")] = None,
    budgets: Annotated[
        list[float] | None, typer.Option("--budget", help="Share that stays; repeat for several.")
    ] = None,
    seeds: Annotated[
        list[int] | None, typer.Option("--seed", help="Of the reference samples; repeat for several.")
    ] = None,
    finetune: Annotated[int | None, typer.Option("--finetune", help="Also measure after this many epochs.")] = None,
    device: DeviceOption = None,
    overrides: SetOption = None,
    out: OutOption = Path("out/compare"),
    print_config: PrintOption = False,
    dry_run: DryOption = False,
) -> None:
    """Compare criteria over budgets and seeds under the same strategies; finished parts survive an interruption."""
    chosen = recipe_from(
        recipe, overrides, data__source=data, model__name=model, model__weights=weights,
        compare__criteria=criteria or None,
        compare__budgets=budgets or None, compare__seeds=seeds or None, finetune__epochs=finetune, device=device,
    )  # fmt: skip
    if stop_early(chosen, print_config, dry_run):
        return
    prepared = prepare(chosen)
    check_classes(prepared)
    warn_untrained(prepared)
    rows = compare(
        prepared.model.to(prepared.device),
        prepared.data,
        chosen.compare,
        chosen.prune,
        model_name=chosen.model.name,
        finetune=chosen.finetune.model_copy(update={"device": str(prepared.device)}),
        folder=out / "parts",
    )
    tables = write_table(rows, out)
    baseline = rows[0]["accuracy"]
    picture = save_curves(rows[1:], out / "compare.svg", baseline)
    page = write_report(
        new_report(
            f"Criteria compared: {chosen.model.name} on {prepared.data.name}",
            f"{len(chosen.compare.criteria)} criteria, {len(chosen.compare.seeds)} seeds, "
            f"unpruned {100 * baseline:.2f} %",
            prepared,
            rows=rows[1:],
        ),
        out / "report.html",
    )
    for strategy in dict.fromkeys(row["strategy"] for row in rows[1:]):
        show(*summary([row for row in rows[1:] if row["strategy"] == strategy]), title=f"accuracy in %: {strategy}")
    typer.echo(
        "\n".join(f"{name}: {path}" for name, path in (("table", tables[0]), ("picture", picture), ("report", page)))
    )


def summary(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[object]]]:
    """Header and rows of one strategy: a line per criterion and stage, a column per budget; last, what was achieved."""
    cells: dict[tuple[str, bool], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    reached: dict[float, list[float]] = defaultdict(list)
    kind = rows[0]["budget_kind"]
    for row in rows:
        cells[(row["criterion"], row["finetuned"])][row["budget"]].append(row["accuracy"])
        reached[row["budget"]].append(row[kind])
    budgets = sorted(reached, reverse=True)
    lines: list[list[object]] = []
    for (criterion, tuned), found in cells.items():
        means = [100 * mean(found[b]) for b in budgets]
        stage = "fine-tuned" if tuned else "pruned"
        lines.append([criterion, stage, *(f"{m:.1f}" for m in means), f"{mean(means):.1f}"])
    shares = [f"{100 * min(reached[b]):.1f}-{100 * max(reached[b]):.1f}" for b in budgets]
    lines.append([f"achieved {kind} in %", "", *shares, ""])
    return ["criterion", "stage", *(f"{b:g}" for b in budgets), "mean"], lines
