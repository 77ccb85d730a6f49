"""The report of a search, its figure, and what is written beside it."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
import yaml

from secateur import reports as rp
from secateur.core.devices import choose_device
from secateur.core.files import atomic_path
from secateur.core.statistics import MeanInterval
from secateur.criteria import parse
from secateur.experiments import Tables, write_table
from secateur.pipeline.pages import origin
from secateur.studies.search.findings import GOALS, candidates, paired_goals, rank_correlation, rows_of
from secateur.studies.search.settings import SearchStudySettings
from secateur.studies.search.space import Space, best_of, composite_of, criterion_of, optuna_study, shown
from secateur.studies.search.tables import COMPLETE, FAILED, FOR_PEOPLE, FOR_PRUNING, PARAMETERS

if TYPE_CHECKING:
    from secateur.studies.search.space import Row

_FEWEST = 10
"""Trials below which importances are not worked out, and no best tenth is looked at."""


def search_page(tables: Tables, settings: SearchStudySettings) -> rp.Report:
    """The report."""
    trials, curves = rows_of(tables["trials"]), tables["curves"]
    units = "units" if settings.objective.units == "all" else settings.objective.units
    sections: list[Any] = [search_section(tables, settings)]
    if len(curves):
        sections.append(rp.Comparison(rp.read_rows(rp.ComparisonRow, _comparison(curves, settings))))
    sampled = _sampled(tables, settings)
    if sampled:
        sections.append(rp.SampleAccuracy(rp.read_rows(rp.SampleAccuracyRow, sampled)))
    data = Path(settings.data.source).stem
    return rp.Report(
        title=f"Attribution searched for pruning: {settings.model.name} on {data}",
        subtitle=f"{len(trials)} settings tried, {units} pruned, {len(settings.measure.seeds)} seeds",
        sections=sections,
        conditions=_conditions(tables, settings),
        **origin(settings),
    )


def search_section(tables: Tables, settings: SearchStudySettings) -> rp.Search:
    """Candidates, trials and parameters."""
    trials, goal = rows_of(tables["trials"]), settings.objective.goal
    complete = any(row["state"] == COMPLETE for row in trials)
    best = best_of(trials, goal) if complete else None
    pairs = paired_goals(trials, goal)
    correlation = ""
    if len(pairs) >= _FEWEST:
        import numpy as np

        value, low, high = rank_correlation(np.array(pairs))
        correlation = f"Rank correlation over {len(pairs)} settings: {value:+.2f} [{low:+.2f}, {high:+.2f}]."
    seeds = len(settings.search.seeds)
    return rp.Search(
        goal=GOALS[goal],
        criterion="" if best is None else criterion_of(best),
        composite="" if best is None else composite_of(best),
        trials=[
            rp.TriedSetting(row["number"], row["state"], row["estimate"], row["faithfulness"], criterion_of(row))
            for row in trials
        ],
        parameters=_parameters(trials, settings, best),
        candidates=[
            rp.SearchCandidate(
                each.name, each.figure.mean, _ends(each.figure), each.kept_rate, each.kept_rate_99,
                None if each.lead is None else each.lead.mean, None if each.lead is None else _ends(each.lead),
            )
            for each in candidates(tables, goal)
        ],
        searched=f"{settings.search.split} images and {seeds} draw{'s' * (seeds > 1)} of reference samples",
        correlation=correlation,
        pictures=_pictures(tables["heatmaps"]),
    )  # fmt: skip


def _pictures(heatmaps: pd.DataFrame) -> list[rp.SearchPicture]:
    found = []
    for _, rows in heatmaps.groupby("image", sort=True):
        maps = dict(zip(rows["setting"], rows["relevance"], strict=True))
        first = rows[rows["setting"] == FOR_PRUNING].iloc[0]
        title = first["label"] if first["label"] == first["predicted"] else f"{first['label']}, not recognised"
        found.append(rp.SearchPicture(title, first["pixels"], maps[FOR_PRUNING], maps.get(FOR_PEOPLE, "")))
    return found


def _parameters(trials: Sequence[Row], settings: SearchStudySettings, best: Row | None) -> list[rp.SearchedParameter]:
    if best is None:
        return []
    tried = [row for row in trials if row["state"] != FAILED]
    top = sorted(tried, key=lambda row: -row["estimate"])[: max(1, len(tried) // 10)]
    weights = importances(trials, settings)
    varied = [name for name in PARAMETERS if len({row[name] for row in tried}) > 1]
    found = []
    for name in varied:
        often = ""
        if len(tried) >= _FEWEST and name != "gamma":
            value, number = Counter(row[name] for row in top).most_common(1)[0]
            often = f"{value} ({100 * number / len(top):.0f} %)"
        found.append(rp.SearchedParameter(name, shown(best, name), often, weights.get(name)))
    return found


def importances(trials: Sequence[Row], settings: SearchStudySettings) -> dict[str, float]:
    """Share of each parameter in what is maximised, by PED-ANOVA (Watanabe et al., 2023), over all that were judged."""
    tried = [row for row in trials if row["state"] != FAILED]
    if len(tried) < _FEWEST:
        return {}
    import optuna

    space = _space(trials, settings)
    study = optuna_study(space, tried, ["estimate"], "importance", None)
    # of γ nothing can be said: it matters to the settings alone that have its rule
    names = [name for name in space.distributions() if name != "gamma" and len({row[name] for row in tried}) > 1]
    if not names or len({row["estimate"] for row in tried}) < 2:
        return {}
    found = optuna.importance.get_param_importances(
        study, evaluator=optuna.importance.PedAnovaImportanceEvaluator(), params=names
    )
    return {name: float(value) for name, value in found.items()}


def _space(trials: Sequence[Row], settings: SearchStudySettings) -> Space:
    return Space.of(settings.space, settings.objective, attention=len({row["softmax"] for row in trials}) > 1)


def write_results(tables: Tables, settings: SearchStudySettings, folder: Path) -> dict[str, Path]:
    """Tables, the winner, and all trials as a study of Optuna."""
    written = {name: write_table(frame, folder / f"{name}.csv") for name, frame in tables.items() if len(frame)}
    trials = rows_of(tables["trials"])
    if any(row["state"] == COMPLETE for row in trials):
        best = best_of(trials, settings.objective.goal)
        written |= _winner(best, settings, folder)
    written["trials for Optuna"] = _for_optuna(trials, settings, folder / "optuna.sqlite3")
    return written


def write_figures(tables: Tables, settings: SearchStudySettings, folder: Path) -> dict[str, Path]:
    """The curves of what was measured, and both objectives of all trials where there are two."""
    written, trials = dict[str, Path](), rows_of(tables["trials"])
    if len(tables["curves"]):
        rows = _comparison(tables["curves"], settings)
        unpruned = float(rows[rows["criterion"] == "none"]["accuracy"].mean())
        pruned = rows[rows["criterion"] != "none"]
        path = folder / "search.svg"
        written["picture"] = rp.save_curves(pruned, path, unpruned, _conditions(tables, settings), measure="units")
    if settings.objective.faithfulness and any(row["faithfulness"] is not None for row in trials):
        written["both objectives"] = rp.save_pareto(search_section(tables, settings), folder / "faithfulness.svg")
    return written


def _winner(best: Row, settings: SearchStudySettings, folder: Path) -> dict[str, Path]:
    """As a recipe for `prune` and `compare`, and as the texts that commands take."""
    criterion = criterion_of(best)
    name, parameters = parse(criterion)
    recipe = {
        "schema_version": 1,
        "data": settings.data.model_dump(mode="json", exclude_unset=True),
        "model": settings.model.model_dump(mode="json", exclude_unset=True),
        "reference": {"per_class": best["per_class"]},
        "criterion": {"name": name, "parameters": parameters},
        "compare": {
            "variants": {"criteria": [criterion, "taylor", "weight", "random"]},
            "sampling": {"per_class": best["per_class"]},
        },
    } | ({"prune": {"order": "most"}} if best["order"] == "most" else {})
    texts = {
        "best.yaml": f"# The best setting of a search, by `secateur optimise`, for prune and compare\n"
        f"{yaml.safe_dump(recipe, sort_keys=False, width=200)}",
        "criterion.txt": criterion + "\n",
        "composite.txt": composite_of(best) + "\n",
    }
    for file, text in texts.items():
        with atomic_path(folder / file) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return {"recipe of the winner": folder / "best.yaml"}


def _for_optuna(trials: Sequence[Row], settings: SearchStudySettings, path: Path) -> Path:
    """A database that optuna-dashboard opens."""
    import optuna

    goals = ["estimate"] + ["faithfulness"] * settings.objective.faithfulness
    with atomic_path(path) as temporary:
        storage = optuna.storages.RDBStorage(f"sqlite:///{temporary}")
        study = optuna_study(_space(trials, settings), trials, goals, "search", storage)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names([GOALS[settings.objective.goal], "faithfulness"][: len(goals)])
        storage.remove_session()
        storage.engine.dispose()  # or the file would stay open while it gets its name
    return path


def _comparison(curves: pd.DataFrame, settings: SearchStudySettings) -> pd.DataFrame:
    """Rows as curves take them; that of the unpruned network is the rate 0."""
    main = curves[curves["main"]]
    whole = main["rate"] == 0
    rows = main.assign(
        model=settings.model.name,
        dataset=Path(settings.data.source).stem,
        criterion=main["candidate"].where(~whole, "none"),
        strategy=f"one-shot/{settings.objective.strategy}",
        budget_kind="ratio",
        budget=main["rate"],
    )
    rows.loc[whole, "strategy"] = "unpruned"
    columns = ["model", "dataset", "criterion", "strategy", "seed", "budget_kind", "budget", "units", "params", "macs"]
    first = rows[whole].drop_duplicates("seed")
    return pd.concat([rows[~whole], first])[[*columns, "accuracy", "samples"]]


def _sampled(tables: Tables, settings: SearchStudySettings) -> list[Mapping[str, Any]]:
    """Mean and spread of what is maximised, by number of reference samples."""
    goal = settings.objective.goal
    found: list[Mapping[str, Any]] = []
    part = tables["measured"][~tables["measured"]["main"]]
    for (name, count), rows in part.groupby(["candidate", "per_class"], sort=False):
        found.append(
            {
                "dataset": f"{settings.model.name}, {GOALS[goal]}",
                "criterion": str(name),
                "samples_per_class": int(str(count)),
                "evaluated_on": f"{settings.measured.split} images",
                "stage": "post",
                "mean_accuracy_percent": 100 * float(rows[goal].mean()),
                "sd_accuracy_percent": 100 * float(rows[goal].std(ddof=1)) if len(rows) > 1 else None,
                "runs": len(rows),
            }
        )
    return found


def _conditions(tables: Tables, settings: SearchStudySettings) -> rp.Conditions:
    samples = set(tables["measured"]["samples"]) if len(tables["measured"]) else set()
    asked = settings.objective.classes
    return rp.Conditions(
        data=Path(settings.data.source).stem,
        split=settings.measured.split,
        samples=int(samples.pop()) if len(samples) == 1 else None,
        labels="" if asked is None else f"{asked} classes, drawn anew by each seed",
        seeds=list(settings.measure.seeds),
        reference_per_class=settings.measured.per_class,
        device=str(choose_device(settings.device)),
        threads=torch.get_num_threads(),
    )


def _ends(figure: MeanInterval) -> tuple[float, float] | None:
    return None if figure.low is None or figure.high is None else (figure.low, figure.high)
