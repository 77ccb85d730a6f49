"""What the rows say: who is ahead, what fine-tuning recovers, how steadily, and which class pays."""

from __future__ import annotations

from typing import TYPE_CHECKING

from secateur.core.statistics import mean_interval, paired_difference
from secateur.experiments import Finding, Tables, TextTable
from secateur.studies.stepwise.cells import UNPRUNED
from secateur.studies.stepwise.tables import FINAL, PRUNED, TUNED

if TYPE_CHECKING:
    import pandas as pd

WAY = ["protocol", "criterion"]


def short(criterion: str) -> str:
    """Name of a criterion without its parameters, which the protocol says.

    Example:
        >>> short("weight:p=1")
        'weight'
    """
    return criterion.partition(":")[0]


def unpruned(tables: Tables) -> pd.Series:
    """Row of the unpruned network."""
    steps = tables["steps"]
    return steps[steps["criterion"] == UNPRUNED].iloc[0]


def summary(tables: Tables, watched: str | None) -> pd.DataFrame:
    """One line for each protocol and criterion, means over seeds.

    Columns: protocol, criterion, macs, pruned and tuned (accuracy behind the first cut ... last step before and after
    fine-tuning), change (of the last from the unpruned network), spread (standard deviation of the accuracy behind
    fine-tuning over steps and seeds), balanced, auc, watched (recall of the watched class), watched_name, runs.
    """
    import pandas as pd

    steps, classes = tables["steps"], tables["classes"]
    base = unpruned(tables)
    lines = []
    for (protocol, criterion), part in steps[steps["criterion"] != UNPRUNED].groupby(WAY, sort=False):
        last = part[part["step"] == part["step"].max()]
        ends = last[last["stage"] == _last_stage(last)]
        tuned = part[part["stage"] == TUNED]["accuracy"]
        own = classes[(classes["protocol"] == protocol) & (classes["criterion"] == criterion)]
        recalls = own[(own["step"] == part["step"].max()) & (own["stage"] == _last_stage(last))]
        means = recalls.groupby("class", sort=False)["recall"].mean()
        name = watched if watched in means.index else means.idxmin()
        lines.append(
            {
                "protocol": protocol,
                "criterion": short(str(criterion)),
                "macs": ends["macs"].mean(),
                "pruned": last[last["stage"] == PRUNED]["accuracy"].mean(),
                "tuned": ends["accuracy"].mean(),
                "change": ends["accuracy"].mean() - base["accuracy"],
                "spread": tuned.std(ddof=1) if len(tuned) > 1 else None,
                "balanced": ends["balanced_accuracy"].mean(),
                "auc": ends["auc"].mean(),
                "watched": means[name],
                "watched_name": name,
                "runs": ends["seed"].nunique(),
            }
        )
    return pd.DataFrame(lines)


def stepwise_findings(tables: Tables, watched: str | None = None) -> list[Finding]:
    """For each protocol: whether the criterion with the best mean is ahead of each other one; then the watched class.

    Differences are taken within each pair of seed and step, behind fine-tuning where there is some: an interval over
    seeds and steps together, which are not independent, so it is a description and no proof.
    """
    found = []
    for protocol, means in _means(tables["steps"], "accuracy").groupby("protocol", sort=False):
        found += _ahead(str(protocol), means.droplevel("protocol"), "accuracy over all steps")
    if watched is not None:
        classes = tables["classes"]
        recalls = _means(classes[classes["class"] == watched], "recall")
        for protocol, means in recalls.groupby("protocol", sort=False):
            found += _ahead(str(protocol), means.droplevel("protocol"), f"recall of '{watched}' over all steps")
    return found


def _means(frame: pd.DataFrame, column: str) -> pd.Series:
    """Mean over the steps behind fine-tuning (behind the cut, where there is none), by protocol, criterion, seed."""
    used = frame[frame["criterion"] != UNPRUNED]
    stage = TUNED if (used["stage"] == TUNED).any() else PRUNED
    return used[used["stage"] == stage].groupby([*WAY, "seed"], sort=False)[column].mean()


def _ahead(protocol: str, means: pd.Series, what: str) -> list[Finding]:
    order = means.groupby("criterion", sort=False).mean().sort_values(ascending=False, kind="stable").index
    found = []
    for other in order[1:]:
        difference = paired_difference(means[order[0]], means[other])
        figures = f"{100 * difference.mean:+.1f} points{difference.interval_text(100)}, {difference.count} seeds"
        text = f"{protocol}, {what}: {short(order[0])} is ahead of {short(other)}"
        found.append(Finding(text, difference.verdict, figures))
    return found


def _last_stage(last: pd.DataFrame) -> str:
    return next(stage for stage in (FINAL, TUNED, PRUNED) if (last["stage"] == stage).any())


def overview(tables: Tables, watched: str | None = None) -> list[TextTable]:
    """Accuracy after all steps, by protocol and criterion."""
    frame, base = summary(tables, watched), unpruned(tables)
    rows = [
        [
            line.protocol,
            line.criterion,
            f"{100 * line.macs:.0f} %",
            f"{100 * line.pruned:.2f}",
            f"{100 * line.tuned:.2f}",
            f"{100 * line.change:+.2f}",
            "-" if line.spread is None or line.spread != line.spread else f"{100 * line.spread:.2f}",
            f"{100 * line.balanced:.2f}",
            f"{line.watched_name} {100 * line.watched:.1f}",
        ]
        for line in frame.itertuples()
    ]
    title = f"accuracy in % after all steps (unpruned {100 * base['accuracy']:.2f}, {base['samples']:,} images)"
    head = ["protocol", "criterion", "MACs", "pruned", "fine-tuned", "change", "spread", "balanced", "recall"]
    return [TextTable(title, head, rows)]


def recovered(tables: Tables) -> list[str]:
    """What fine-tuning gives back in each protocol, mean over criteria, steps and seeds, as sentences."""
    steps, found = tables["steps"], []
    for protocol, part in steps[steps["criterion"] != UNPRUNED].groupby("protocol", sort=False):
        index = ["criterion", "seed", "step"]
        pruned = part[part["stage"] == PRUNED].set_index(index)["accuracy"]
        tuned = part[part["stage"] == TUNED].set_index(index)["accuracy"]
        if len(tuned):
            gain = mean_interval((tuned - pruned).groupby("seed").mean().to_numpy(float))
            found.append(f"{protocol}: fine-tuning gives back {100 * gain.mean:.1f} points per step on average")
    return found
