"""What `secateur study statistics` prints and writes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from secateur.cli.present import show
from secateur.core.comparisons import BONFERRONI
from secateur.core.errors import RequestError
from secateur.core.statistics import MeanInterval
from secateur.experiments import Condition, Question, Statistics, Store, Study, Tables, study_statistics
from secateur.experiments.writing import FORMATS, write_table
from secateur.reports import save_rank_diagram

_MOST = 30
"""Lines of a table on the terminal; files hold all."""


def stored_tables(study: Study[Any, Any], store: Store) -> Tables:
    """The tables of a store as they are written.

    Raises:
        RequestError: when no cell is finished.
    """
    stored = store.frames()
    if stored[next(iter(study.tables))].empty:
        raise RequestError(f"no cell of '{store}' is finished: there are no results; run the study first")
    return study.assemble(stored)


def write_tables(tables: Tables, folder: Path, formats: Sequence[str]) -> list[str]:
    """Write tables in each format; lines that say where."""
    lines = []
    for name, frame in tables.items():
        write_table(frame, folder / f"{name}.csv", formats)
        lines += [f"{name}: {folder / f'{name}.{FORMATS[ending]}'}" for ending in formats]
    return lines


def write_all(study: Study[Any, Any], store: Store, folder: Path, formats: Sequence[str]) -> list[str]:
    """Write tables, the statistics of the study's own question, and figures; lines that say where.

    Raises:
        RequestError: when no cell is finished.
    """
    tables = stored_tables(study, store)
    lines = write_tables(tables, folder, formats)
    if study.question is None:
        lines.append(
            f"note: no statistics: study '{study.name}' does not say what is compared; use `secateur study statistics` "
            "with --measure and --compare"
        )
    else:
        try:
            found = study_statistics(tables, study.question)
        except RequestError as error:
            lines.append(f"note: no statistics: {error}")
        else:
            lines += [*(f"note: {note}" for note in found.notes), *write_statistics(found, folder, formats)]
    return [*lines, *(f"{what}: {path}" for what, path in study.figures(tables, folder).items())]


def write_statistics(found: Statistics, folder: Path, formats: Sequence[str]) -> list[str]:
    """Write the tables of statistics in each format, and the figure of ranks, where there is one; lines that say where.

    Ranks that an earlier question left there are removed where there are none now.
    """
    if found.ranks is None:
        for ending in (*FORMATS.values(), "svg"):
            (folder / f"statistics-ranks.{ending}").unlink(missing_ok=True)
    lines = write_tables({f"statistics-{name}": frame for name, frame in found.tables.items()}, folder, formats)
    if found.ranks is not None:
        path = folder / "statistics-ranks.svg"
        title = f"Average ranks by {found.question.measure}"
        save_rank_diagram(found.ranks.average, found.ranks.critical_difference, found.ranks.groups(), path, title)
        lines.append(f"figure: {path}")
    return lines


def question_from(
    study: Study[Any, Any],
    *,
    table: str | None,
    measure: str | None,
    columns: dict[str, tuple[str, ...]],
    conditions: Sequence[str],
    lower_is_better: bool | None,
) -> Question:
    """The study's own question with what flags say otherwise.

    Raises:
        RequestError: when the study has none, and flags do not say all of it.
    """
    first, own = next(iter(study.tables)), study.question
    if own is None or (table is not None and table != own.table):  # another table has other columns
        if measure is None or not columns.get("compare"):
            raise RequestError(
                f"study '{study.name}' does not say what is measured and compared in table '{table or first}'; give "
                "--measure and --compare"
            )
        own = Question(table or first, measure, columns["compare"])
    changed: dict[str, Any] = {name: values for name, values in columns.items() if values}
    named = {name for values in changed.values() for name in values}
    for role in ("compare", "pairs", "blocks", "average"):  # a column that a flag names is in no other role
        if role not in changed:
            changed[role] = tuple(name for name in getattr(own, role) if name not in named)
    parsed = tuple(Condition.parse(text) for text in conditions)
    others = tuple(each for each in own.conditions if each.column not in {new.column for new in parsed})
    if lower_is_better is not None:
        changed["lower_is_better"] = lower_is_better
    return dataclasses.replace(own, **changed, measure=measure or own.measure, conditions=(*others, *parsed))


def show_statistics(found: Statistics, folder: Path, formats: Sequence[str]) -> None:
    """Print means, comparisons and ranks, and write them with the figure."""
    question = found.question
    _show_means(found)
    _show_comparisons(found)
    lines = write_statistics(found, folder, list(dict.fromkeys(["csv", *formats])))
    if found.ranks is not None:
        ranks = found.ranks
        show(["candidate", "average rank"], [[name, f"{rank:.2f}"] for name, rank in ranks.average.items()], "ranks")
        said = "the candidates differ" if ranks.differ else "the candidates are not told apart"
        lines.insert(
            0,
            f"ranks over {ranks.blocks} blocks ({', '.join(question.blocks)}): {said} (Friedman p={ranks.p_value:.2g}, "
            f"Iman-Davenport p={ranks.iman_davenport:.2g}); critical difference {ranks.critical_difference:.2f}",
        )
    typer.echo("\n".join([*(f"note: {note}" for note in found.notes), *lines]))


def _show_means(found: Statistics) -> None:
    measure, frame = found.question.measure, found.means
    where = [name for name in frame.columns if name not in ("candidate", measure, "low", "high", "count")]
    varied = [name for name in where if frame[name].nunique() > 1]
    heads = ["candidate", *varied, measure, "95 % interval", "n"]
    columns = zip(*(frame[name] for name in ("candidate", *varied, measure, "low", "high", "count")), strict=True)
    rows = [[*keys, f"{mean:.4g}", _ends(low, high), count] for *keys, mean, low, high, count in list(columns)[:_MOST]]
    cut = f", the first {_MOST} of {len(frame)}" if len(frame) > _MOST else ""
    show(heads, rows, f"means over {', '.join(found.question.pairs) or 'nothing'}{cut}")


def _show_comparisons(found: Statistics) -> None:
    """With the intervals that decide together with the p-values, or else those of each pair by itself."""
    together = found.correction == BONFERRONI
    rows = []
    for each in found.comparisons[:_MOST]:
        difference = each.difference or MeanInterval(float("nan"), None, None, 0)
        interval = each.simultaneous if together else each.difference
        ends = "–" if interval is None else _ends(interval.low, interval.high)
        verdict = {True: "higher", False: "lower", None: ""}[each.verdict]
        tests = [f"{p:.2g}" if p is not None else "–" for p in (each.p_value, each.corrected)]
        rows.append([f"{each.one} – {each.other}", f"{difference.mean:+.4g}", ends, *tests, verdict])
    cut = f", the first {_MOST} of {len(found.comparisons)}" if len(found.comparisons) > _MOST else ""
    title = f"differences paired over {', '.join(found.question.pairs) or 'nothing'}{cut}"
    interval_head = "simultaneous 95 % intervals" if together else "95 % interval of this pair"
    heads = ["pair", "difference", interval_head, "p", f"p ({found.correction.title()})", "the first is"]
    show(heads, rows, title)


def _ends(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None or low != low else f"[{low:.4g}, {high:.4g}]"
