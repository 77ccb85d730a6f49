"""What the tables say: whether the winner is ahead of the others, and by how much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from secateur.attribution.composites import get as get_composite
from secateur.core.randomness import numpy_generator
from secateur.core.statistics import MeanInterval, mean_interval, paired_difference
from secateur.criteria import Mixture, parse
from secateur.experiments import Finding, Tables, TextTable
from secateur.studies.search.settings import OPTIMISED, SearchStudySettings
from secateur.studies.search.space import best_of, shown
from secateur.studies.search.tables import COMPLETE, PARAMETERS

if TYPE_CHECKING:
    import pandas as pd

    from secateur.studies.search.space import Row

GOALS = {
    "a_pr": "A_PR",
    "area_units": "mean accuracy over units",
    "area_params": "mean accuracy over parameters",
    "area_macs": "mean accuracy over MACs",
    "kept_rate": "rate that keeps 95 % of the accuracy",
}
"""What is maximised, in words."""

AHEAD = 0.03
"""By which the winner is to be ahead of the best criterion that is not LRP."""

_DRAWS = 2000


@dataclass(frozen=True)
class Candidate:
    """A criterion on images that the search has not seen, over seeds.

    Attributes:
        name: of it.
        figure: what is maximised.
        a_pr: mean accuracy over the rates.
        kept_rate: highest rate that keeps 95 % of the accuracy.
        kept_rate_99: likewise 99 %.
        lead: of the winner over it, by seed, with an interval that is simultaneous for all candidates; None: it is the
            winner, or that was not measured.
    """

    name: str
    figure: MeanInterval
    a_pr: float
    kept_rate: float
    kept_rate_99: float
    lead: MeanInterval | None


def rows_of(frame: pd.DataFrame) -> list[Row]:
    """Rows of a frame as dictionaries, missing values as None."""
    return [
        {str(key): None if value is None or value != value else value for key, value in row.items()}
        for row in frame.to_dict("records")
    ]


def candidates(tables: Tables, goal: str) -> list[Candidate]:
    """Measured candidates, the highest mean first."""
    main = tables["measured"][tables["measured"]["main"]]
    figures = {str(name): part.set_index("seed") for name, part in main.groupby("candidate", sort=False)}
    winner, others = figures.get(OPTIMISED), max(1, len(figures) - 1)
    found = [
        Candidate(
            name,
            mean_interval(part[goal].to_numpy(float)),
            float(part["a_pr"].mean()),
            float(part["kept_rate"].mean()),
            float(part["kept_rate_99"].mean()),
            None if winner is None or name == OPTIMISED else paired_difference(winner[goal], part[goal], others),
        )
        for name, part in figures.items()
    ]
    return sorted(found, key=lambda each: -each.figure.mean)


def is_relevance(criterion: str) -> bool:
    """Whether a criterion is LRP, or a mixture that has it.

    Integrated gradients and other gradient methods, which share its code, are not.
    """
    name, parameters = parse(criterion)
    if name == "mixture":
        return any(map(is_relevance, Mixture(**parameters).of))
    return name == "lrp" and get_composite(parameters.get("composite", "epsilon")).choose is not None


def search_findings(tables: Tables, settings: SearchStudySettings) -> list[Finding]:
    """Whether the winner is ahead of each other candidate, by `AHEAD` of the best that is not LRP, and more."""
    goal, every = settings.objective.goal, candidates(tables, settings.objective.goal)
    found = []
    for each in every:
        if each.lead is not None:
            text = f"{GOALS[goal]}: {OPTIMISED} is ahead of {each.name}"
            found.append(Finding(text, each.lead.verdict, _figures(each.lead)))
    others = [each for each in every if each.lead is not None and not is_relevance(each.name)]
    if others and others[0].lead is not None:
        lead = others[0].lead
        ends = [None if end is None else end - AHEAD for end in (lead.low, lead.high)]
        beyond = replace(lead, mean=lead.mean - AHEAD, low=ends[0], high=ends[1])
        text = f"{OPTIMISED} is ahead of the best criterion that is not LRP, {others[0].name}, by {AHEAD} or more"
        found.append(Finding(text, beyond.verdict, _figures(lead)))
    return [*found, *_samples(tables, goal), *_both(tables, goal)]


def _samples(tables: Tables, goal: str) -> list[Finding]:
    """For each criterion that was measured by several numbers of samples: whether the most are ahead of fewer."""
    found = []
    for name, part in tables["measured"][~tables["measured"]["main"]].groupby("candidate", sort=False):
        by_count = {int(str(count)): rows.set_index("seed")[goal] for count, rows in part.groupby("per_class")}
        most = max(by_count)
        for count in sorted(by_count)[:-1]:
            difference = paired_difference(by_count[most], by_count[count], len(by_count) - 1)
            text = f"{name}: {most} reference samples of each class are ahead of {count}"
            found.append(Finding(text, difference.verdict, _figures(difference)))
    return found


def _both(tables: Tables, goal: str) -> list[Finding]:
    """Whether settings that explain better prune better, over the settings that were tried."""
    pairs = paired_goals(rows_of(tables["trials"]), goal)
    if len(pairs) < 10:
        return []
    correlation, low, high = rank_correlation(np.array(pairs))
    verdict = None if low <= 0 <= high else low > 0
    text = "the more faithful a setting's heatmaps, the better it prunes"
    figures = f"rank correlation {correlation:+.2f} [{low:+.2f}, {high:+.2f}] over {len(pairs)} settings"
    return [Finding(text, verdict, figures)]


def paired_goals(rows: Sequence[Row], goal: str) -> list[tuple[float, float]]:
    """Both objectives of the complete trials that have them."""
    return [
        (row[goal], row["faithfulness"])
        for row in rows
        if row["state"] == COMPLETE and row["faithfulness"] is not None and row[goal] is not None
    ]


def rank_correlation(pairs_N2: np.ndarray) -> tuple[float, float, float]:
    """Spearman's rank correlation of two columns, and its 95 % interval by the bootstrap over rows."""
    from scipy import stats

    draw = numpy_generator(0, "rank correlation")
    size = len(pairs_N2)
    found = []
    for _ in range(_DRAWS):
        chosen = pairs_N2[draw.integers(size, size=size)]
        if np.ptp(chosen[:, 0]) and np.ptp(chosen[:, 1]):
            found.append(float(stats.spearmanr(chosen).statistic))
    if not found:
        return 0.0, -1.0, 1.0
    low, high = np.quantile(found, [0.025, 0.975])
    return float(stats.spearmanr(pairs_N2).statistic), float(low), float(high)


def overview(tables: Tables, settings: SearchStudySettings) -> list[TextTable]:
    """Candidates by what is maximised, and the winner."""
    goal = settings.objective.goal
    head = ("criterion", GOALS[goal], "95 % kept up to", "99 % up to", f"lead of {OPTIMISED}")
    lines = [
        (
            each.name,
            f"{each.figure.mean:.3f}",
            f"{100 * each.kept_rate:.0f} %",
            f"{100 * each.kept_rate_99:.0f} %",
            "" if each.lead is None else _figures(each.lead),
        )
        for each in candidates(tables, goal)
    ]
    found = [TextTable(f"{GOALS[goal]}, {settings.measured.split} images", head, lines)] if lines else []
    trials = rows_of(tables["trials"])
    if any(row["state"] == COMPLETE for row in trials):
        best = best_of(trials, goal)
        states = [row["state"] for row in trials]
        counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        title = f"best of {len(trials)} trials ({counts})"
        settled = [("trial", best["number"]), (GOALS[goal], f"{best[goal]:.3f}")]
        settled += [(name, shown(best, name)) for name in PARAMETERS]
        found.append(TextTable(title, ("of the winner", ""), settled))
    return found


def _figures(difference: MeanInterval) -> str:
    ends = "" if difference.low is None else f" [{difference.low:+.3f}, {difference.high:+.3f}]"
    interval = ends and ends + difference.together
    return f"{difference.mean:+.3f}{interval}, {difference.count} seeds"
