"""Terminal tables of the toy study."""

from __future__ import annotations

from typing import Any

import pandas as pd

from secateur.cli.present import show

_WHERE = {"train": "training points", "test": "reference samples"}


def show_run(rows: pd.DataFrame, title: str) -> None:
    """Accuracy before and after, a line for each data set and criterion."""
    where = list(dict.fromkeys(zip(rows["evaluated_on"], rows["noise"], strict=True)))
    lines: list[list[object]] = []
    for (dataset, criterion), part in rows.groupby(["dataset", "criterion"], sort=False):
        found = part.set_index(["evaluated_on", "noise", "stage"])["accuracy"]
        cells = [f"{found[(*place, 'pre')]:.2f} → {found[(*place, 'post')]:.2f}" for place in where]
        lines.append([dataset, criterion, *cells])
    show(["data set", "criterion", *(_place(*place) for place in where)], lines, title)


def show_summary(summary: pd.DataFrame) -> None:
    """Mean and standard deviation over seeds, a table for each place of measurement."""
    if (summary.groupby("dataset")["network"].nunique() == 1).all():  # networks of given points, each of its own name
        summary = summary.assign(network=", ".join(summary["network"].unique()))
    by = ["network", "removed", "evaluated_on", "noise"]
    for network, removed, evaluated_on, noise in summary[by].drop_duplicates().itertuples(index=False):
        part = summary[(summary[by] == [network, removed, evaluated_on, noise]).all(axis=1)]
        after, before = part[part["stage"] == "post"], part[part["stage"] == "pre"]
        counts = sorted(after["samples_per_class"].unique())
        lines: list[list[object]] = []
        for dataset in after["dataset"].unique():
            unpruned = before[before["dataset"] == dataset].drop_duplicates("samples_per_class")
            lines.append(_line(dataset, "unpruned", unpruned, counts))
            here = after[after["dataset"] == dataset]
            lines += [_line(dataset, name, group, counts) for name, group in here.groupby("criterion", sort=False)]
        show(
            ["data set", "criterion", *map(str, counts)],
            lines,
            f"accuracy in % by reference samples per class, mean ± standard deviation: {_place(evaluated_on, noise)}; "
            f"network {network}, {removed} removed",
        )


def show_against(beside: pd.DataFrame) -> None:
    """Our means beside published ones."""
    lines = [
        [
            row["dataset"],
            row["criterion"],
            row["samples_per_class"],
            _place(row["evaluated_on"], 0.0),
            row["stage"],
            f"{row['ours']:.2f} ± {row['ours_sd']:.2f}",
            f"{row['theirs']:.2f} ± {row['theirs_sd']:.2f}",
            f"{row['difference']:+.2f}",
        ]
        for row in beside.to_dict("records")
    ]
    columns = ["data set", "criterion", "per class", "measured on", "stage", "ours", "published", "difference"]
    show(columns, lines, "beside the published means, in %")


def show_ranks(rows: list[dict[str, Any]], measure: str = "spearman") -> None:
    """Mean rank correlation in the five cases; the files hold all measures."""
    frame = pd.DataFrame(rows)
    frame = frame[frame["measure"] == measure]
    lines = [
        [dataset, case, _ends(part["mean"]), f"{part['mean'].mean():.2f}", int(part["pairs"].sum())]
        for (dataset, case), part in frame.groupby(["dataset", "case"], sort=False)
    ]
    show(["data set", "case", "lowest to highest mean", "mean", "pairs"], lines, f"agreement of rankings: {measure}")


def _ends(values: pd.Series[Any]) -> str:
    return f"{values.min():.2f} to {values.max():.2f}"


def _line(dataset: object, name: object, part: pd.DataFrame, counts: list[Any]) -> list[object]:
    found = part.set_index("samples_per_class")
    return [dataset, name, *(_cell(found, count) for count in counts)]


def _cell(found: pd.DataFrame, count: Any) -> str:
    if count not in found.index:
        return "-"
    row = found.loc[count]
    return f"{row['mean_accuracy_percent']:.2f} ± {row['sd_accuracy_percent']:.2f}"


def _place(evaluated_on: str, noise: float) -> str:
    return f"noisy, σ {noise:g}" if evaluated_on == "noisy" else _WHERE[evaluated_on]
