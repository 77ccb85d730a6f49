"""Statistics of a study's tables: against SciPy and brute force, and by the command on a store."""

from __future__ import annotations

import itertools
from typing import Annotated

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from secateur.cli.main import run as command
from secateur.core.comparisons import bonferroni, compare_pairs, friedman_ranks, holm
from secateur.core.errors import RequestError
from secateur.core.files import write_text
from secateur.core.statistics import mean_interval
from secateur.experiments import (
    Cell,
    Column,
    Condition,
    Effect,
    Question,
    Result,
    Schema,
    Section,
    Study,
    StudySettings,
    opened_store,
    register_study,
    run,
    study_statistics,
)
from secateur.experiments.writing import html, latex, write_table
from secateur.reports import Report
from secateur.studies.catalogue import PACKAGED, study_class
from secateur.studies.compare.findings import compare_findings
from secateur.studies.compare.tables import COMPARE

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=8)


@given(P_VALUES)
def test_holm_by_its_definition(p_values):
    """The largest of the steps so far: (m - j + 1) p_(j), at most 1."""
    found = holm(p_values)
    for p, corrected in zip(p_values, found, strict=True):
        steps = [min(1.0, sum(other >= q for other in p_values) * q) for q in p_values if q <= p]
        # of equal ones the first step counts, which multiplies by all that are not smaller
        assert corrected == pytest.approx(max(steps))


@given(st.lists(st.tuples(*[st.floats(-5, 5).map(lambda v: round(v, 3))] * 3), min_size=3, max_size=9))
@settings(deadline=None)
def test_paired_comparisons_are_the_t_test(rows):
    values = pd.DataFrame(rows, columns=["a", "b", "c"])
    found = compare_pairs(values)
    assert [(each.one, each.other) for each in found] == [("a", "b"), ("a", "c"), ("b", "c")]
    told = [each for each in found if each.p_value is not None]
    for each in told:
        numbers = values[each.one] - values[each.other]
        assert each.difference.mean == pytest.approx(numbers.mean(), abs=1e-12)
        if np.ptp(numbers) > 1e-6:
            assert each.p_value == pytest.approx(stats.ttest_rel(values[each.one], values[each.other]).pvalue)
            held = each.difference.low <= 0 <= each.difference.high
            assert held == (each.p_value >= 0.05) or abs(each.p_value - 0.05) < 1e-9
    p_values = [each.p_value for each in told]
    assert [each.corrected for each in told] == bonferroni(p_values)
    for each in told:
        together = each.simultaneous
        assert (together.mean, together.comparisons) == (each.difference.mean, len(told))
        assert each.verdict == together.verdict or abs(each.corrected - 0.05) < 1e-9, "claim and interval are one"
    stepped = compare_pairs(values, correction="holm")
    assert [each.corrected for each in stepped if each.p_value is not None] == holm(p_values)
    assert all(each.simultaneous is None for each in stepped)
    against = compare_pairs(values, "b")
    assert [(each.one, each.other) for each in against] == [("b", "a"), ("b", "c")]


def test_simultaneous_intervals_hold_together_and_single_ones_do_not():
    """Ten independent means that are all 0, of five values: drawn 4,000 times."""
    generator = np.random.default_rng(0)
    values = generator.normal(size=(4000, 10, 5))
    means, errors = values.mean(2), values.std(2, ddof=1) / np.sqrt(5)
    for comparisons, expected in ((1, 0.95**10), (10, 0.995**10)):
        found = mean_interval(values[0, 0], comparisons)
        times = (found.high - found.mean) / errors[0, 0]
        assert times == pytest.approx(stats.t.ppf(1 - 0.025 / comparisons, 4))
        covered = (np.abs(means) <= times * errors).all(1).mean()
        assert covered == pytest.approx(expected, abs=0.03)


def test_the_best_of_several_is_ahead_only_after_correction():
    """The 95 % interval of a pair leaves out 0, that of three comparisons does not."""
    noise = np.array([-0.02, -0.01, 0.0, 0.01, 0.02])
    values = pd.DataFrame({"lrp": 0.93 + noise, "weight": 0.9 - 0.1 * noise, "taylor": 0.91 - noise})
    first = compare_pairs(values)[0]
    assert (first.difference.verdict, first.simultaneous.verdict, first.verdict) == (True, None, None)
    assert first.p_value < 0.05 < first.corrected
    rows = [
        {
            "criterion": name, "accuracy": value, "seed": seed, "structured": True, "finetuned": False,
            "strategy": "one-shot", "scored_on": "subset", "subset": "all",
        }
        for name, column in values.items()
        for seed, value in enumerate(column)
    ]  # fmt: skip
    found = [str(each) for each in compare_findings({"compare": pd.DataFrame(rows)})]
    assert found[-1].startswith("cannot be told: one-shot: lrp is ahead of weight")
    assert found[-1].endswith("(simultaneous, 3 comparisons), 5 pairs)")


@given(st.integers(3, 5), st.integers(2, 8), st.randoms(use_true_random=False), st.booleans())
@settings(max_examples=50, deadline=None)
def test_ranks_by_brute_force(candidates, blocks, random, higher):
    numbers = [[random.choice([0.0, 0.5, 1.0, 2.0]) for _ in range(candidates)] for _ in range(blocks)]
    names = [f"c{index}" for index in range(candidates)]
    found = friedman_ranks(pd.DataFrame(numbers, columns=names), higher)
    for index, name in enumerate(names):
        ranks = []
        for row in numbers:
            ahead = sum(other > row[index] if higher else other < row[index] for other in row)
            ranks.append(ahead + (row.count(row[index]) + 1) / 2)
        assert found.average[name] == pytest.approx(np.mean(ranks))
    assert list(found.average.values()) == sorted(found.average.values())
    assert sum(found.average.values()) == pytest.approx(candidates * (candidates + 1) / 2)
    if any(len(set(row)) > 1 for row in numbers):
        whole = stats.friedmanchisquare(*zip(*numbers, strict=True))
        assert (found.statistic, found.p_value) == pytest.approx((whole.statistic, whole.pvalue))
    else:
        assert found.p_value == 1
    named = found.groups()
    limit = found.critical_difference if found.differ else np.inf
    for one, other in itertools.combinations(names, 2):
        together = any({one, other} <= set(group) for group in named)
        assert together == (abs(found.average[one] - found.average[other]) <= limit)


def test_the_critical_difference_is_that_of_the_paper():
    """Demšar 2006, table 5a: q of 0.05 for 2 to 10 classifiers; the example has 4 on 14 data sets."""
    published = [2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]
    generator = np.random.default_rng(0)
    for candidates, q in enumerate(published, 3):
        names = [str(index) for index in range(candidates)]
        found = friedman_ranks(pd.DataFrame(generator.normal(size=(14, candidates)), columns=names))
        expected = q * np.sqrt(candidates * (candidates + 1) / (6 * 14))
        assert found.critical_difference == pytest.approx(expected, abs=1.5e-3)


def test_the_example_of_the_paper():
    """Demšar 2006, table 6: AUC of four variants of C4.5 on 14 data sets; χ² = 9.28, F = 3.69."""
    rows = """0.763 0.768 0.771 0.798  0.599 0.591 0.590 0.569  0.954 0.971 0.968 0.967  0.628 0.661 0.654 0.657
    0.882 0.888 0.886 0.898  0.936 0.931 0.916 0.931  0.661 0.668 0.609 0.685  0.583 0.583 0.563 0.625
    0.775 0.838 0.866 0.875  1.000 1.000 1.000 1.000  0.940 0.962 0.965 0.962  0.619 0.666 0.614 0.669
    0.972 0.981 0.9751 0.975  0.957 0.978 0.946 0.970"""
    numbers = np.asarray(rows.split(), float).reshape(14, 4)
    found = friedman_ranks(pd.DataFrame(numbers, columns=["C4.5", "m", "cf", "m+cf"]))
    assert found.average["C4.5"] == pytest.approx(3.143, abs=1e-3)
    assert found.average["m"] == pytest.approx(2.000, abs=1e-3)
    assert found.average["cf"] == pytest.approx(2.893, abs=1e-3)
    assert found.average["m+cf"] == pytest.approx(1.964, abs=1e-3)
    assert found.critical_difference == pytest.approx(1.25, abs=0.01)
    assert found.differ


# a study's table


def table(criteria=("lrp", "weight", "random"), seeds=range(4), datasets=range(6), budgets=(0.2, 0.5)):
    """Accuracies that say lrp > weight > random in each block."""
    generator = np.random.default_rng(0)
    rows = [
        {
            "criterion": criterion,
            "seed": seed,
            "dataset": f"d{dataset}",
            "budget": budget,
            "stage": stage,
            "accuracy": 0.9 - 0.1 * index - 0.01 * dataset + 0.1 * budget + 0.004 * generator.normal(),
        }
        for index, criterion in enumerate(criteria)
        for seed in seeds
        for dataset in datasets
        for budget in budgets
        for stage in ("pre", "post")
    ]
    return pd.DataFrame(rows)


POST = (Condition("stage", "post"),)
ASKED = Question("t", "accuracy", ("criterion",), blocks=("dataset",), average=("budget",), conditions=POST)


def test_a_complete_table_is_told():
    frame = table()
    found = study_statistics({"t": frame}, ASKED)
    used = frame[frame["stage"] == "post"]
    row = found.means.set_index(["candidate", "dataset", "budget"]).loc[("lrp", "d2", 0.5)]
    part = used[(used["criterion"] == "lrp") & (used["dataset"] == "d2") & (used["budget"] == 0.5)]["accuracy"]
    assert row["accuracy"] == pytest.approx(part.mean())
    ends = stats.t.interval(0.95, 3, part.mean(), stats.sem(part))
    assert (row["low"], row["high"]) == pytest.approx(ends)
    first = found.comparisons[0]
    wide = used.pivot_table(index="seed", columns="criterion", values="accuracy")
    assert first.p_value == pytest.approx(stats.ttest_rel(wide["lrp"], wide["weight"]).pvalue)
    assert [each.verdict for each in found.comparisons] == [True, True, True]
    assert list(found.ranks.average) == ["lrp", "weight", "random"]
    assert list(found.ranks.average.values()) == [1, 2, 3]
    assert (found.ranks.blocks, found.ranks.differ, found.notes) == (6, True, [])
    lower = study_statistics({"t": frame}, Question(**{**vars(ASKED), "lower_is_better": True}))
    assert list(lower.ranks.average) == ["random", "weight", "lrp"]


def test_pairs_may_be_of_several_columns():
    frame = table(datasets=range(2))
    asked = Question("t", "accuracy", ("criterion",), ("seed", "dataset", "budget"), conditions=POST)
    found = study_statistics({"t": frame}, asked)
    used = frame[frame["stage"] == "post"]
    wide = used.pivot(index=["seed", "dataset", "budget"], columns="criterion", values="accuracy")
    assert found.comparisons[1].p_value == pytest.approx(stats.ttest_rel(wide["lrp"], wide["random"]).pvalue)
    assert found.comparisons[1].difference.count == 16


def test_incomplete_and_few_values_claim_nothing():
    frame = table()
    gone = (frame["criterion"] == "weight") & (frame["seed"] == 1) & (frame["dataset"] == "d3")
    found = study_statistics({"t": frame[~gone]}, ASKED)
    told = {(each.one, each.other): each for each in found.comparisons}
    assert told["lrp", "random"].verdict is True
    assert told["lrp", "weight"].p_value is None
    assert told["lrp", "weight"].verdict is None
    assert found.ranks is None
    assert any("weight: 2 of 48 values are missing" in note for note in found.notes)
    assert any("1 of 6 blocks (dataset) are incomplete" in note for note in found.notes)
    nowhere = study_statistics({"t": frame[~((frame["seed"] == 1) & (frame["dataset"] == "d3"))]}, ASKED)
    assert all(each.p_value is None for each in nowhere.comparisons), "seed 1 is a mean of other data sets"
    few = study_statistics({"t": table(seeds=(0, 1), datasets=range(3))}, ASKED)
    assert all(each.verdict is None for each in few.comparisons)
    assert few.ranks is None
    assert any("2 pairs are too few" in note for note in few.notes)
    assert any("3 blocks (dataset) are too few" in note for note in few.notes)
    same = table(seeds=(0,))
    copies = pd.concat([same.assign(seed=seed) for seed in range(4)])
    assert all("no repetitions" in each.reason for each in study_statistics({"t": copies}, ASKED).comparisons), (
        "values that no seed changes are not told apart by seeds"
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"table": "u"}, "no table 'u'; it has: t"),
        ({"measure": "accurcy"}, "no column 'accurcy'; it has: criterion"),
        ({"measure": "stage"}, "holds no numbers"),
        ({"average": ()}, "2 rows for candidate=lrp.*they differ in budget: choose by --where"),
        ({"conditions": ()}, "they differ in stage"),
        ({"conditions": (Condition("stage", "x"),)}, r"no row of table 't' is left \(stage=x\)"),
        ({"compare": ("dataset",), "blocks": ()}, "they differ in criterion"),
        ({"blocks": ("dataset", "seed")}, "'seed' is named twice"),
        ({"conditions": (*POST, Condition("criterion", "lrp"))}, "only one candidate, 'lrp'"),
    ],
)
def test_wrong_questions(changed, message):
    with pytest.raises(RequestError, match=message):
        study_statistics({"t": table()}, Question(**{**vars(ASKED), **changed}))


def test_conditions():
    assert Condition.parse("budget=0.50").holds(0.5)
    assert not Condition.parse("criterion!=none").holds("none")
    assert Condition.parse("finetuned=false").holds(np.bool_(False))
    with pytest.raises(RequestError, match="'budget' is no condition"):
        Condition.parse("budget")


AWKWARD = pd.DataFrame({"a_b": ["50 %", "<b>&\\x$#{}~^", None], "n": [1.23456, np.nan, 2.0], "raw": [b"1", b"2", b"3"]})


def test_tables_are_escaped(tmp_path):
    text = latex(AWKWARD)
    assert r"a\_b & n \\" in text
    assert r"50 \% & 1.235 \\" in text
    assert r"<b>\&\textbackslash x\$\#\{\}\textasciitilde \textasciicircum & " in text.replace("  ", " ")
    assert "raw" not in text
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == 1
    page = html(AWKWARD)
    assert "&lt;b&gt;&amp;" in page
    assert "<b>" not in page
    write_table(AWKWARD, tmp_path / "t.csv", ["csv", "parquet", "latex", "html"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.csv", "t.html", "t.parquet", "t.tex"]
    assert pd.read_parquet(tmp_path / "t.parquet")["raw"].tolist() == [b"1", b"2", b"3"]
    with pytest.raises(RequestError, match="unknown format 'xml'; known: csv, parquet, latex, html"):
        write_table(AWKWARD, tmp_path / "u.csv", ["csv", "xml"])


@pytest.mark.parametrize("name", list(PACKAGED))
def test_the_questions_of_studies_fit_their_tables(name):
    kind = study_class(name)
    asked = kind.question
    tables = {**kind.tables, "compare": COMPARE}
    names = set(tables[asked.table].names)
    assert names >= {asked.measure, *asked.columns, *(each.column for each in asked.conditions)}
    measured = next(each for each in tables[asked.table].columns if each.name == asked.measure)
    assert measured.kind in (int, float)


# the command


class Plots(Section):
    fertilisers: tuple[str, ...] = ("none", "a_1", "b")
    fields: int = 6
    years: int = 4


class HarvestSettings(StudySettings):
    plots: Annotated[Plots, Effect.CELLS] = Plots()


class Plot(Cell):
    fertiliser: str
    field: int
    year: int


@register_study
class Harvest(Study[HarvestSettings, Plot]):
    name = "harvest"
    version = 1
    summary = "Fields."
    settings_type = HarvestSettings
    tables = {
        "yields": Schema(
            (
                Column("fertiliser", str, "put"), Column("field", int, "where"), Column("year", int, "when"),
                Column("grain", float, "yield", "t"),
            )
        )
    }  # fmt: skip

    def cells(self):
        asked = self.settings.plots
        return [
            Plot(fertiliser=fertiliser, field=field, year=year)
            for fertiliser in asked.fertilisers
            for field in range(asked.fields)
            for year in range(asked.years)
        ]

    def work(self, cell, resources, earlier):
        index = ("none", "a_1", "b").index(cell.fertiliser)
        noise = np.random.default_rng([index, cell.field, cell.year]).normal()
        row = {**cell.coordinates, "grain": 5 + index + 0.3 * cell.field + 0.1 * noise}
        return Result({"yields": [row]})

    def page(self, tables):
        return Report("Harvest", settings={})


def typed(arguments, capsys):
    code = command(["study", *map(str, arguments)])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def harvested(folder):
    study = Harvest(HarvestSettings())
    with opened_store(folder / "cells.sqlite", study) as store:
        run(study, store)


ROLES = ["--measure", "grain", "--compare", "fertiliser", "--pairs", "year", "--blocks", "field"]


def test_the_command_tells_and_writes(tmp_path, capsys):
    harvested(tmp_path)
    begin = ["statistics", "--out", tmp_path]
    code, _, error = typed(begin, capsys)
    assert (code, "give --measure and --compare" in error) == (2, True), error
    code, text, error = typed([*begin, *ROLES, "--format", "latex", "--format", "html"], capsys)
    assert code == 0, error
    assert "ranks over 6 blocks (field): the candidates differ" in text
    assert "a_1 – b" in text
    names = ("means", "overall", "comparisons", "ranks")
    written = {path.name for path in tmp_path.glob("statistics-*")}
    assert written == {f"statistics-{n}.{e}" for n in names for e in ("csv", "tex", "html")} | {"statistics-ranks.svg"}
    frame = pd.read_csv(tmp_path / "statistics-comparisons.csv")
    assert frame["pairs"].tolist() == [4, 4, 4]
    assert (frame["p_corrected"] >= frame["p_value"]).all()
    assert (frame["simultaneous_low"] <= frame["low"]).all()
    assert (set(frame["correction"]), "simultaneous 95 % intervals" in text) == ({"bonferroni"}, True)
    assert r"a\_1" in (tmp_path / "statistics-overall.tex").read_text()
    picture = (tmp_path / "statistics-ranks.svg").read_text()
    assert all(text in picture for text in ("a_1 (2.00)", "b (1.00)", "critical difference 1.35"))
    code, text, _ = typed([*begin, *ROLES, "--where", "field=2", "--against", "b", "--to", tmp_path / "two"], capsys)
    assert (code, "no ranks: 1 block (field) is too few" in text, "a_1 – none" in text) == (0, True, False), text
    assert not (tmp_path / "two" / "statistics-ranks.csv").exists()
    code, text, _ = typed([*begin, *ROLES, "--correction", "holm", "--to", tmp_path / "holm"], capsys)
    assert (code, "p (Holm)" in text, "95 % interval of this pair" in text) == (0, True, True), text
    frame = pd.read_csv(tmp_path / "holm" / "statistics-comparisons.csv")
    assert (set(frame["correction"]), frame["simultaneous_low"].isna().all()) == ({"holm"}, True)
    code, _, error = typed([*begin, *ROLES, "--correction", "tukey"], capsys)
    assert (code, "unknown correction 'tukey'; known: bonferroni, holm" in error) == (2, True)
    code, _, error = typed([*begin, *ROLES, "--format", "xml"], capsys)
    assert (code, "unknown format 'xml'" in error) == (2, True)


def test_results_in_other_formats(tmp_path, capsys):
    harvested(tmp_path)
    to = tmp_path / "to"
    code, text, _ = typed(
        ["results", "--out", tmp_path, "--to", to, "--format", "csv,latex", "--format", "csv"], capsys
    )
    assert (code, sorted(path.name for path in to.iterdir())) == (0, ["yields.csv", "yields.tex"])
    assert text.splitlines()[:2] == [f"yields: {to / 'yields.csv'}", f"yields: {to / 'yields.tex'}"]
    assert "note: no statistics: study 'harvest' does not say what is compared" in text
    for wrong in ("csv,xml", "csv,", ""):
        code, _, error = typed(["results", "--out", tmp_path, "--to", to, "--format", wrong], capsys)
        assert (code, "unknown format '" in error) == (2, True), error
    assert len(pd.read_csv(to / "yields.csv")) == 72
    code, _, _ = typed(["results", "--out", tmp_path, "--to", tmp_path / "usual"], capsys)
    assert (code, (tmp_path / "usual" / "report.html").exists()) == (0, True)


def test_results_are_tables_statistics_and_figures(tmp_path, capsys, monkeypatch):
    harvested(tmp_path)
    to, names = tmp_path / "to", ("means", "overall", "comparisons", "ranks")
    question = Question("yields", "grain", ("fertiliser",), ("year",), ("field",))
    monkeypatch.setattr(Harvest, "question", question)
    monkeypatch.setattr(Harvest, "figures", lambda self, tables, folder: {"picture": write_text(folder / "f.svg", "")})
    code, text, error = typed(["results", "--out", tmp_path, "--to", to, "--format", "html,latex"], capsys)
    assert code == 0, error
    tables = ["yields", *(f"statistics-{name}" for name in names)]
    written = {f"{name}.{ending}" for name in tables for ending in ("html", "tex")} | {"statistics-ranks.svg", "f.svg"}
    assert {path.name for path in to.iterdir()} == written
    assert {line.partition(": ")[2] for line in text.splitlines()} == {str(to / name) for name in written}
    typed(["statistics", "--out", tmp_path, "--to", tmp_path / "own"], capsys)
    own = pd.read_csv(tmp_path / "own" / "statistics-comparisons.csv")
    typed(["results", "--out", tmp_path, "--to", to, "--format", "csv"], capsys)
    pd.testing.assert_frame_equal(pd.read_csv(to / "statistics-comparisons.csv"), own)
    monkeypatch.setattr(Harvest, "question", Question("yields", "grain", ("fertiliser",), ("year",)))
    code, text, _ = typed(["results", "--out", tmp_path, "--to", to, "--format", "csv"], capsys)
    assert (code, "note: no statistics: there are 6 rows for" in text) == (0, True), text
    code, _, _ = typed(["results", "--out", tmp_path, "--to", tmp_path / "usual"], capsys)
    assert (code, (tmp_path / "usual" / "f.svg").exists()) == (0, True)


def test_a_store_without_results_is_told(tmp_path, capsys):
    study = Harvest(HarvestSettings())
    with opened_store(tmp_path / "cells.sqlite", study) as store:
        store.start([], study.settings.model_dump(mode="json"))
    code, _, error = typed(["statistics", "--out", tmp_path, *ROLES], capsys)
    assert (code, "no cell of" in error) == (2, True), error


def test_rows_without_a_value_in_a_column_that_tells_them_apart_count():
    rows = [
        (name, seed, block, gain + 0.1 * seed * gain)
        for name, gain in (("lrp", 2.0), ("weight", 1.0))
        for seed in range(4)
        for block in (None, "animals")
    ]
    frame = pd.DataFrame(rows, columns=["criterion", "seed", "subset", "accuracy"])
    frame.loc[frame["subset"].isna(), "accuracy"] += 10
    question = Question("t", "accuracy", ("criterion",), ("seed",), ("subset",))
    found = study_statistics({"t": frame}, question)
    assert found.means["subset"].tolist() == ["missing", "animals"] * 2
    assert found.overall["accuracy"].tolist() == pytest.approx([2.3 + 5, 1.15 + 5])
    with pytest.raises(RequestError, match="there are 2 rows for candidate=lrp, seed=0, subset=missing"):
        study_statistics({"t": pd.concat([frame, frame])}, question)
    for text, blocks in (("subset=missing", ["missing"]), ("subset!=missing", ["animals"])):
        one = Question("t", "accuracy", ("criterion",), ("seed",), ("subset",), conditions=(Condition.parse(text),))
        assert study_statistics({"t": frame}, one).means["subset"].tolist() == blocks * 2
    numbers = pd.DataFrame({"budget": pd.array([1, None], "Int64"), "share": [None, 0.5]})
    assert [Condition.parse("budget=missing").holds(value) for value in numbers["budget"]] == [False, True]
    assert [Condition.parse("share=missing").holds(value) for value in numbers["share"]] == [True, False]
