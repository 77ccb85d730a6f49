"""The report of the toy study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from secateur.experiments import Finding, Tables
from secateur.pipeline.pages import origin
from secateur.reports import RankingRow, Rankings, Report, SampleAccuracy, SampleAccuracyRow, read_rows
from secateur.studies.toy.findings import summarise
from secateur.studies.toy.ranks import CASES, rank_rows
from secateur.studies.toy.settings import ToySettings
from secateur.studies.toy.tables import orders_of

SHOWN = ("spearman", "first-1000", "last-1000")
"""Measures of agreement on the page; Kendall's τ takes a minute and is left to `secateur toy analyse`."""


def toy_page(tables: Tables, settings: ToySettings) -> Report:
    """Accuracy against reference samples, and how alike the rankings are."""
    summary = summarise(tables["results"])
    rows = rank_rows(orders_of(tables["orders"]), SHOWN) if settings.output.ranks else []
    return analysis_page(summary, rows, (), settings=settings)


def analysis_page(
    summary: pd.DataFrame,
    rows: Sequence[dict[str, Any]],
    found: Sequence[Finding],
    *,
    settings: ToySettings | None = None,
    command: str = "",
    shown: Sequence[str] = SHOWN,
) -> Report:
    """The same from figures that are at hand.

    Args:
        summary: from `secateur.studies.toy.summarise`.
        rows: from `secateur.studies.toy.rank_rows`.
        found: the claims.
        settings: of the study, where they are known.
        command: what to type to get it again.
        shown: measures of agreement on the page.
    """
    made = origin(settings, command)
    made["notes"] = [*(f"{str(f)[0].upper()}{str(f)[1:]}." for f in found), *made["notes"]]
    return Report(
        title="2-D toy study: accuracy and rankings",
        subtitle=f"{len(summary)} means of {int(summary['runs'].max())} runs",
        sections=[
            SampleAccuracy(read_rows(SampleAccuracyRow, summary)),
            Rankings(read_rows(RankingRow, [row for row in rows if row["measure"] in shown])),
        ],
        **made,
    )


def pictured(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Agreement over seeds, and between criteria at the fewest samples from which relevance ranks well."""
    counts = sorted({row["samples_per_class"] for row in rows if row["samples_per_class"] is not None})
    few = next((count for count in counts if count >= 5), counts[-1] if counts else None)
    return [
        row
        for row in rows
        if row["measure"] == "spearman"
        and (row["case"] == CASES[0] or (row["case"] == CASES[2] and row["samples_per_class"] == few))
    ]
