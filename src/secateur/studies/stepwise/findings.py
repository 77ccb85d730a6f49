"""What the rows say: who is ahead, what fine-tuning recovers, how steadily, and which class pays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from secateur.core.errors import SecateurError
from secateur.core.statistics import all_pairs, mean_interval, paired_difference
from secateur.experiments import Finding, Tables, TextTable
from secateur.reports import StepSummary
from secateur.studies.stepwise.cells import UNPRUNED
from secateur.studies.stepwise.tables import FINAL, PRUNED, TUNED

if TYPE_CHECKING:
    import pandas as pd

WAY = ["protocol", "criterion"]


def labels(frame: pd.DataFrame) -> dict[tuple[str, str], str]:
    """What criteria of each protocol are called: their names, with parameters where the names alone repeat."""
    ways = [(str(protocol), str(criterion)) for protocol, criterion in frame[WAY].drop_duplicates().to_numpy()]
    names = {way: way[1].partition(":")[0] for way in ways}
    counts = Counter((protocol, names[protocol, criterion]) for protocol, criterion in ways)
    return {way: name if counts[way[0], name] == 1 else way[1] for way, name in names.items()}


def unpruned(tables: Tables) -> pd.Series[Any]:
    """Row of the unpruned network.

    Raises:
        SecateurError: where it is not measured.
    """
    rows = tables["steps"][tables["steps"]["criterion"] == UNPRUNED]
    if not len(rows):
        raise SecateurError(
            "the unpruned network is not measured: its cell failed or is not finished; `secateur study status` has the "
            "reason, `secateur study retry` repeats it"
        )
    return rows.iloc[0]


def summary(tables: Tables, watched: str | None) -> list[StepSummary]:
    """One line for each protocol and criterion, means over seeds.

    Args:
        tables: assembled.
        watched: class whose recall is wanted; None, or one that there is not: the class with the lowest.
    """
    steps, classes = tables["steps"], tables["classes"]
    whole, named = float(unpruned(tables)["accuracy"]), labels(steps)
    found = []
    for (protocol, criterion), part in steps[steps["criterion"] != UNPRUNED].groupby(WAY, sort=False):
        end = int(part["step"].max())
        last = part[part["step"] == end]
        stage = next(stage for stage in (FINAL, TUNED, PRUNED) if (last["stage"] == stage).any())
        ends, before = last[last["stage"] == stage], last[last["stage"] == PRUNED]
        tuned = part[part["stage"] == TUNED]["accuracy"].to_numpy(float)
        own = classes[(classes["protocol"] == protocol) & (classes["criterion"] == criterion)]
        own = own[(own["step"] == end) & (own["stage"] == stage)]
        recalls = {str(name): _mean(rows["recall"]) for name, rows in own.groupby("class", sort=False)}
        name = watched if watched in recalls else min(recalls, key=recalls.__getitem__)
        found.append(
            StepSummary(
                protocol=str(protocol),
                criterion=named[str(protocol), str(criterion)],
                macs=_mean(ends["macs"]),
                pruned=_mean(before["accuracy"]),
                tuned=_mean(ends["accuracy"]),
                change=_mean(ends["accuracy"]) - whole,
                spread=float(tuned.std(ddof=1)) if len(tuned) > 1 else None,
                balanced=_mean(ends["balanced_accuracy"]),
                watched=recalls[name],
                watched_name=name,
                runs=int(ends["seed"].nunique()),
            )
        )
    return found


def _mean(values: pd.Series[Any]) -> float:
    return float(values.to_numpy(float).mean())


def stepwise_findings(tables: Tables, watched: str | None = None) -> list[Finding]:
    """For each protocol: whether the criterion with the best mean is ahead of each other one; then the watched class.

    Of each seed, the mean over the steps is taken (after fine-tuning, where there is some); differences are paired by
    seed. Intervals are simultaneous for all pairs of criteria of a protocol.
    """
    found, named = [], labels(tables["steps"])
    for protocol, means in _means(tables["steps"], "accuracy").groupby("protocol", sort=False):
        found += _ahead(str(protocol), means.droplevel("protocol"), "accuracy over all steps", named)
    if watched is not None:
        classes = tables["classes"]
        recalls = _means(classes[classes["class"] == watched], "recall")
        for protocol, means in recalls.groupby("protocol", sort=False):
            found += _ahead(str(protocol), means.droplevel("protocol"), f"recall of '{watched}' over all steps", named)
    return found


def _means(frame: pd.DataFrame, column: str) -> pd.Series[Any]:
    """Mean over the steps after fine-tuning (after the cut, where there is none), by protocol, criterion, seed."""
    used = frame[frame["criterion"] != UNPRUNED]
    stage = TUNED if (used["stage"] == TUNED).any() else PRUNED
    return used[used["stage"] == stage].groupby([*WAY, "seed"], sort=False)[column].mean()


def _ahead(protocol: str, means: pd.Series[Any], what: str, named: Mapping[tuple[str, str], str]) -> list[Finding]:
    order = means.groupby("criterion", sort=False).mean().sort_values(ascending=False, kind="stable").index
    found = []
    for other in order[1:]:
        difference = paired_difference(means[order[0]], means[other], all_pairs(len(order)))
        figures = f"{100 * difference.mean:+.1f} points{difference.interval_text(100)}, {difference.count} seeds"
        text = f"{protocol}, {what}: {named[protocol, order[0]]} is ahead of {named[protocol, other]}"
        found.append(Finding(text, difference.verdict, figures))
    return found


def overview(tables: Tables, watched: str | None = None) -> list[TextTable]:
    """Accuracy after all steps, by protocol and criterion."""
    base = unpruned(tables)
    rows = [
        [
            line.protocol,
            line.criterion,
            f"{100 * line.macs:.0f} %",
            f"{100 * line.pruned:.2f}",
            f"{100 * line.tuned:.2f}",
            f"{100 * line.change:+.2f}",
            "-" if line.spread is None else f"{100 * line.spread:.2f}",
            f"{100 * line.balanced:.2f}",
            f"{line.watched_name} {100 * line.watched:.1f}",
        ]
        for line in summary(tables, watched)
    ]
    title = f"accuracy in % after all steps (unpruned {100 * base['accuracy']:.2f}, {base['samples']:,} images)"
    head = ["protocol", "criterion", "MACs", "last cut", "at the end", "change", "spread", "balanced", "recall"]
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
