"""Means, claims and rank agreement of the 2-D toy study, on tables and orders small enough to work out by hand."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.cli.toy_tables import show_summary
from secateur.core.errors import RequestError
from secateur.studies.toy.findings import COLUMNS, against, check_claims, read_published, read_rows, summarise
from secateur.studies.toy.ranks import CASES, MEASURES, Run, rank_rows

PUBLISHED = Path(__file__).parents[1] / "../shared/reference/toy/accuracy.csv"
HEADER = "dataset,criterion,samples_per_class,evaluated_on,stage,runs,mean_accuracy_percent,sd_accuracy_percent"
SEEDS, ACROSS, SAME_SEED, COUNTS_ALL, COUNTS_SAME = CASES


def row(criterion: str, accuracy: float, **changes: Any) -> dict[str, Any]:
    usual = {
        "dataset": "circle",
        "criterion": criterion,
        "samples_per_class": 5,
        "seed": 0,
        "evaluated_on": "train",
        "noise": 0.0,
        "stage": "post",
        "accuracy": accuracy,
        "network": "published",
        "removed": 1000,
    }
    return usual | changes


def table(*rows: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=list(COLUMNS))


def claims(means: dict[tuple[str, int], float], dataset: str = "circle", **changes: Any) -> dict[str, bool]:
    """What holds, for means by criterion and samples per class; claims by what tells them apart."""
    rows = [row(c, mean, dataset=dataset, samples_per_class=n, **changes) for (c, n), mean in means.items()]
    return {finding.text: finding.holds for finding in check_claims(summarise(table(*rows)))}


# accuracy


def test_means_and_population_deviations_by_group():
    found = summarise(
        table(
            row("weight", 90.0, seed=0),
            row("weight", 92.0, seed=1),
            row("weight", 97.0, seed=2),
            row("weight", 50.0, evaluated_on="noisy", noise=0.3),
            row("weight", 60.0, evaluated_on="noisy", noise=0.1),
            row("weight", 40.0, network="all-relu"),
            row("weight", 30.0, removed=500),
        )
    )
    assert found.runs.tolist() == [1, 3, 1, 1, 1]
    assert found.mean_accuracy_percent.tolist() == pytest.approx([30, 93, 60, 50, 40])
    assert found.sd_accuracy_percent.tolist() == pytest.approx([0, math.sqrt(26 / 3), 0, 0, 0])


def test_networks_of_given_points_share_a_table_and_several_of_one_data_set_do_not(capsys):
    one_each = [row("weight", 90.0, network="published-a", stage=s) for s in ("pre", "post")]
    one_each += [row("weight", 80.0, dataset="moon", network="published-b", stage=s) for s in ("pre", "post")]
    show_summary(summarise(table(*one_each)))
    printed = " ".join(capsys.readouterr().out.split())
    assert "network published-a, published-b, 1000 removed" in printed
    assert printed.count("criterion") == 1
    show_summary(summarise(table(*one_each, *(other | {"network": "all-relu"} for other in one_each))))
    assert capsys.readouterr().out.count("criterion") == 3


def test_summary_is_sorted_for_a_reader():
    keys = itertools.product(("mult", "circle"), ("weight", "lrp"), (20, 5), ("test", "train"), ("post", "pre"))
    found = summarise(
        table(*(row(c, 90.0, dataset=d, samples_per_class=n, evaluated_on=e, stage=s) for d, c, n, e, s in keys))
    )
    order = found[["dataset", "criterion", "samples_per_class", "evaluated_on", "stage"]]
    assert list(order.itertuples(index=False, name=None)) == list(
        itertools.product(("mult", "circle"), ("weight", "lrp"), (5, 20), ("train", "test"), ("pre", "post"))
    )


def test_summary_of_something_else_is_refused():
    with pytest.raises(RequestError, match="lacks columns noise, removed"):
        summarise(table(row("lrp", 90.0)).drop(columns=["noise", "removed"]))
    with pytest.raises(RequestError, match="lacks columns network"):
        check_claims(pd.DataFrame({"dataset": ["moon"]}))


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_rows_survive_their_file(tmp_path, suffix):
    rows = table(
        row("lrp", 100 / 3), row("lrp:composite=epsilon,start=one", 0.0, evaluated_on="noisy", noise=0.1, seed=7)
    )
    path = tmp_path / f"results{suffix}"
    if suffix == ".csv":
        rows.to_csv(path, index=False)
    else:
        rows.to_parquet(path, index=False)
    again = read_rows(path)
    assert again.to_dict("list") == rows.to_dict("list")
    pd.testing.assert_frame_equal(summarise(again), summarise(rows), check_dtype=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="network"), "lacks columns network.*another version"),
        (lambda t: t.assign(loss=0.1), "unknown columns loss.*another version"),
        (lambda t: t.assign(accuracy=[99.0, "good"]), "row 2: accuracy is 'good', a number from 0 to 100"),
        (lambda t: t.assign(accuracy=[99.0, math.nan]), "row 2: accuracy is ''"),
        (lambda t: t.assign(accuracy=[0.99, 100.5]), "row 2: accuracy is '100.5'"),
        (lambda t: t.assign(noise=[math.inf, 0.0]), "row 1: noise is 'inf'"),
        (lambda t: t.assign(samples_per_class=[5, 2.5]), "row 2: samples_per_class is '2.5', a whole number from 1 on"),
        (lambda t: t.assign(seed=[0, 1e300]), "row 2: seed"),
        (lambda t: t.assign(stage=["post", "during"]), "row 2: stage is 'during', one of pre, post"),
        (lambda t: t.assign(criterion=["", "lrp"]), "row 1: criterion is '', a name"),
        (lambda t: t.assign(seed=3), "row 2 repeats an earlier one.*lrp, 5, 3"),
        (lambda t: t.iloc[:0], "no rows"),
    ],
)
def test_rows_of_another_kind_are_refused(tmp_path, change, message):
    path = tmp_path / "results.csv"
    change(table(row("lrp", 99.0, seed=0), row("lrp", 98.0, seed=1))).to_csv(path, index=False)
    with pytest.raises(RequestError, match=message) as caught:
        read_rows(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["results.csv", "results.parquet"])
@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x00\xff\xfe", b"a,b\n1,2\n3,4,5,6\n"])
def test_broken_files_are_refused_in_one_line(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    for read in (read_rows, read_published):
        with pytest.raises(RequestError, match=name) as caught:
            read(path)
        assert "\n" not in str(caught.value)
        with pytest.raises(RequestError, match="does not exist"):
            read(tmp_path / "nowhere" / name)
        with pytest.raises(RequestError, match="not a readable table|lacks columns|does not exist"):
            read(tmp_path)


def test_published_table_of_another_kind_is_refused(tmp_path):
    line = "moon,lrp,5,train,post,50,99.858,0.018"
    good = write(tmp_path / "good.csv", f"{HEADER},remark\n{line},fine\n")
    assert read_published(good).to_dict("records") == [
        {
            "dataset": "moon",
            "criterion": "lrp",
            "samples_per_class": 5,
            "evaluated_on": "train",
            "stage": "post",
            "runs": 50,
            "mean_accuracy_percent": 99.858,
            "sd_accuracy_percent": 0.018,
        }
    ]
    for lines, message in [
        ([HEADER.replace("runs", "seeds"), line], "lacks columns runs"),
        ([HEADER, line, "moon,lrp,20,train,post,50,about 99,0.0"], "row 2: mean_accuracy_percent is 'about 99'"),
        ([HEADER, "moon,lrp,5,train,post,50,101,0.0"], "row 1: mean_accuracy_percent is '101'"),
        ([HEADER, "moon,lrp,5,train,post,50,50,50.1"], "row 1: sd_accuracy_percent is '50.1'"),
        ([HEADER, "moon,lrp,0,train,post,50,50,1"], "row 1: samples_per_class is '0'"),
        ([HEADER, "moon,lrp,5,val,post,50,50,1"], "row 1: evaluated_on is 'val', one of train, test"),
        ([HEADER, line, line], "row 2 repeats"),
        ([HEADER], "no rows"),
    ]:
        with pytest.raises(RequestError, match=message):
            read_published(write(tmp_path / "bad.csv", "\n".join(lines) + "\n"))


def published(tmp_path: Path, *lines: str) -> pd.DataFrame:
    return read_published(write(tmp_path / "published.csv", "\n".join((HEADER, *lines)) + "\n"))


def test_ours_beside_theirs(tmp_path):
    theirs = published(
        tmp_path,
        "circle,lrp,5,train,post,50,97.0,0.5",
        "circle,lrp,5,train,pre,50,100.0,0.0",
        "circle,taylor,5,train,post,50,80.0,2.0",
    )
    ours = summarise(
        table(
            row("lrp", 96.0, seed=0),
            row("lrp", 98.5, seed=1),
            row("lrp", 99.9, stage="pre"),
            row("lrp", 10.0, network="all-relu"),
            row("lrp", 20.0, removed=500),
            row("lrp", 30.0, evaluated_on="noisy", noise=0.3),
            row("lrp", 40.0, samples_per_class=10),
        )
    )
    found = against(ours, theirs)
    assert found.columns.tolist() == [
        *("dataset", "criterion", "samples_per_class", "evaluated_on", "stage"),
        *("ours", "ours_sd", "theirs", "theirs_sd", "difference"),
    ]
    assert found.stage.tolist() == ["pre", "post"]
    assert found.iloc[:, 5:].to_numpy() == pytest.approx(
        np.array([[99.9, 0.0, 100.0, 0.0, -0.1], [97.25, 1.25, 97.0, 0.5, 0.25]])
    )


def test_nothing_in_common_is_said(tmp_path):
    theirs = published(tmp_path, "moon,lrp,5,train,post,50,97.0,0.5")
    with pytest.raises(RequestError, match=r"ours .*data sets circle.*theirs have data sets moon, criteria lrp"):
        against(summarise(table(row("lrp", 96.0))), theirs)
    with pytest.raises(RequestError, match="nothing for that network"):
        against(summarise(table(row("lrp", 96.0, dataset="moon", network="all-relu"))), theirs)


AT_FIVE = {("lrp", 5): 99.0, ("weight", 5): 97.0, ("taylor", 5): 87.0, ("grad", 5): 82.0}
AT_ONE = {("lrp", 1): 70.0, ("weight", 1): 97.0, ("taylor", 1): 68.0, ("grad", 1): 69.0}


def test_claims_that_hold():
    for dataset in ("circle", "mult"):
        found = claims(AT_FIVE | AT_ONE, dataset)
        assert list(found.values()) == [True, True, True]
    assert len(claims(AT_FIVE | AT_ONE, "moon")) == 2


@pytest.mark.parametrize(
    ("means", "claim"),
    [
        (AT_FIVE | {("lrp", 5): 97.0}, "ahead of weight"),
        (AT_FIVE | {("taylor", 5): 97.5}, "ahead of weight"),
        (AT_FIVE | {("grad", 5): 97.0}, "ahead of weight"),
        (AT_ONE | {("grad", 1): 97.5}, "with 1 sample"),
        (AT_ONE | {("lrp", 1): 97.0}, "with 1 sample"),
        (AT_FIVE | {("lrp", 20): 96.9, ("weight", 20): 97.0}, "never behind"),
    ],
)
def test_claims_that_fail(means, claim):
    found = claims(means)
    assert [holds for text, holds in found.items() if claim in text] == [False]


def test_lrp_and_weight_may_tie():
    found = claims({("lrp", 5): 97.0, ("weight", 5): 97.0, ("lrp", 1): 1.0, ("weight", 1): 97.0})
    assert found == {"circle: LRP is never behind weight from 5 samples per class on": True}


@pytest.mark.parametrize(
    "change", [{"stage": "pre"}, {"evaluated_on": "test"}, {"network": "all-relu"}, {"removed": 9}]
)
def test_claims_are_about_the_published_setting_only(change):
    assert claims(AT_FIVE | AT_ONE, **change) == {}


def test_claims_need_all_their_numbers():
    del (means := dict(AT_FIVE | AT_ONE))["taylor", 5], means["grad", 1]
    assert list(claims(means)) == ["circle: LRP is never behind weight from 5 samples per class on"]


@pytest.mark.parametrize(("mean", "holds"), [(98.0, True), (98.01, False), (94.0, True), (93.99, False)])
def test_lrp_near_the_published_mean(tmp_path, mean, holds):
    # 1 per class is far off and 10 was not published: neither counts
    lines = [f"circle,lrp,{n},train,post,50,{their},0" for n, their in ((1, 10), (5, 96), (20, 96))]
    ours = [row("lrp", our, samples_per_class=n) for n, our in ((1, 96.0), (5, 96.0), (10, 0.0), (20, mean))]
    (finding,) = check_claims(summarise(table(*ours)), published(tmp_path, *lines))
    assert finding.text.startswith("circle: LRP is within 2 points")
    assert finding.holds is holds
    assert finding.figures == (f"5 per class: 96.00 (published 96.00), 20 per class: {mean:.2f} (published 96.00)")


def test_figures_show_what_was_judged():
    rows = [row(c, mean, samples_per_class=n) for (c, n), mean in (AT_FIVE | AT_ONE).items()]
    assert [finding.figures for finding in check_claims(summarise(table(*rows)))] == [
        "lrp 99.00, weight 97.00, taylor 87.00, grad 82.00",
        "weight 97.00, lrp 70.00, taylor 68.00, grad 69.00",
        "5 per class: lrp 99.00, weight 97.00",
    ]


def test_the_published_table_bears_out_its_own_claims():
    if not PUBLISHED.is_file():
        pytest.skip(f"the published accuracies are not at {PUBLISHED.resolve()}")
    theirs = read_published(PUBLISHED)
    assert len(theirs) == 192
    rows = [
        row(
            one["criterion"],
            one["mean_accuracy_percent"],
            **{name: one[name] for name in ("dataset", "samples_per_class", "evaluated_on", "stage")},
        )
        for one in theirs.to_dict("records")
    ]
    summary = summarise(table(*rows))
    assert against(summary, theirs).difference.abs().max() == 0
    found = check_claims(summary, theirs)
    assert len(found) == 14
    assert [finding.text for finding in found if not finding.holds] == []


# ranks

STRAIGHT, SWAPPED, REVERSED = [0, 1, 2, 3], [1, 0, 2, 3], [3, 2, 1, 0]
BY_HAND = {
    Run("moon", "lrp", 1, 0): STRAIGHT,
    Run("moon", "lrp", 1, 1): REVERSED,
    Run("moon", "lrp", 5, 0): SWAPPED,
    Run("moon", "lrp", 5, 1): STRAIGHT,
    Run("moon", "weight", 1, 0): STRAIGHT,
    Run("moon", "weight", 1, 1): STRAIGHT,
    Run("moon", "weight", 5, 0): STRAIGHT,
    Run("moon", "weight", 5, 1): STRAIGHT,
}


def as_orders(lists: dict[Run, list[int]]) -> dict[Run, np.ndarray]:
    return {run: np.array(order, np.uint16) for run, order in lists.items()}


def measured(rows: list[dict[str, Any]], measure: str) -> dict[tuple[Any, ...], tuple[int, float, float]]:
    return {
        (r["case"], r["criterion"], r["samples_per_class"], r["a"], r["b"]): (r["pairs"], r["mean"], r["sd"])
        for r in rows
        if r["measure"] == measure
    }


def test_the_five_cases_by_hand():
    rows = rank_rows(as_orders(BY_HAND), ("spearman", "kendall", "first-1", "last-2"))
    keys = ["dataset", "case", "criterion", "samples_per_class", "measure", "a", "b", "pairs", "mean", "sd"]
    assert all(list(r) == keys for r in rows)
    # two units swapped of four: Spearman 1 - 6·2/60 = 0.8, Kendall 1 - 2·1/6
    assert measured(rows, "spearman") == {
        (SEEDS, "lrp", 1, "lrp", "lrp"): pytest.approx((1, -1.0, 0.0)),
        (SEEDS, "lrp", 5, "lrp", "lrp"): pytest.approx((1, 0.8, 0.0)),
        (SEEDS, "weight", 1, "weight", "weight"): (1, 1.0, 0.0),
        (SEEDS, "weight", 5, "weight", "weight"): (1, 1.0, 0.0),
        (ACROSS, None, 1, "lrp", "weight"): pytest.approx((4, 0.0, 1.0)),
        (ACROSS, None, 5, "lrp", "weight"): pytest.approx((4, 0.9, 0.1)),
        (SAME_SEED, None, 1, "lrp", "weight"): pytest.approx((2, 0.0, 1.0)),
        (SAME_SEED, None, 5, "lrp", "weight"): pytest.approx((2, 0.9, 0.1)),
        (COUNTS_ALL, "lrp", None, "1", "5"): pytest.approx((4, 0.0, math.sqrt(0.82))),
        (COUNTS_SAME, "lrp", None, "1", "5"): pytest.approx((2, -0.1, 0.9)),
        (COUNTS_ALL, "weight", None, "1", "5"): (4, 1.0, 0.0),
        (COUNTS_SAME, "weight", None, "1", "5"): (2, 1.0, 0.0),
    }
    kendall = measured(rows, "kendall")
    assert kendall[COUNTS_SAME, "lrp", None, "1", "5"] == pytest.approx((2, -1 / 6, 5 / 6))
    assert kendall[COUNTS_ALL, "lrp", None, "1", "5"] == pytest.approx((4, 0.0, math.sqrt(13 / 18)))
    first, last = measured(rows, "first-1"), measured(rows, "last-2")
    assert first[COUNTS_ALL, "lrp", None, "1", "5"] == pytest.approx((4, 0.25, math.sqrt(3) / 4))
    assert last[COUNTS_ALL, "lrp", None, "1", "5"] == pytest.approx((4, 0.5, 0.5))
    assert last[SAME_SEED, None, 5, "lrp", "weight"] == (2, 1.0, 0.0)


def test_places_of_units_are_compared_not_their_indices():
    # places 3 0 1 2 and 2 0 3 1: differences 1 0 -2 1, 1 - 6·6/60; the indices themselves would give -0.4
    orders = {Run("moon", "lrp", 1, 0): [1, 2, 3, 0], Run("moon", "lrp", 1, 1): [1, 3, 0, 2]}
    (found,) = rank_rows(as_orders(orders), ["spearman"])
    assert found["mean"] == pytest.approx(0.4)


def test_missing_seeds_leave_out_pairs_and_rows():
    orders = {Run("moon", "lrp", 1, seed): STRAIGHT for seed in (7, 8, 9)}
    orders |= {
        Run("moon", "weight", 1, 8): REVERSED,
        Run("circle", "lrp", 1, 0): STRAIGHT,
        Run("circle", "weight", 1, 1): STRAIGHT,
    }
    rows = rank_rows(as_orders(orders), ["kendall"])
    assert [(r["dataset"], r["case"], r["a"], r["pairs"], r["mean"]) for r in rows] == [
        ("moon", SEEDS, "lrp", 3, 1.0),
        ("moon", ACROSS, "lrp", 3, -1.0),
        ("moon", SAME_SEED, "lrp", 1, -1.0),
        ("circle", ACROSS, "lrp", 1, 1.0),
    ]


def test_equal_orders_count_as_often_as_they_occur():
    lists = [STRAIGHT, SWAPPED, STRAIGHT, STRAIGHT, SWAPPED]
    orders = as_orders({Run("moon", "lrp", 1, seed): order for seed, order in enumerate(lists)})
    spearman, kendall = rank_rows(orders, ("spearman", "kendall"))
    # of ten pairs four are equal: three of straight ones, one of swapped ones
    assert (spearman["pairs"], spearman["mean"]) == (10, pytest.approx((4 + 6 * 0.8) / 10))
    assert (kendall["pairs"], kendall["mean"]) == (10, pytest.approx((4 + 6 * 2 / 3) / 10))
    (same,) = rank_rows({run: np.array(STRAIGHT) for run in orders}, ["kendall"])
    assert (same["pairs"], same["mean"], same["sd"]) == (10, 1.0, 0.0)


def test_two_units_are_the_least():
    orders = {Run("moon", "lrp", 1, 0): np.array([0, 1]), Run("moon", "lrp", 1, 1): np.array([1, 0])}
    assert [r["mean"] for r in rank_rows(orders, ("spearman", "kendall", "first-1", "first-2"))] == [-1, -1, 0, 1]


def scipy_means(orders: dict[Run, np.ndarray], found: dict[str, Any]) -> tuple[int, float, float]:
    """The same row, pair by pair, by scipy and sets."""
    stats = pytest.importorskip("scipy.stats", reason="the truth to compare with comes from scipy")

    def agreement(a: np.ndarray, b: np.ndarray) -> float:
        measure = found["measure"]
        if "-" in measure:
            end, count = measure.split("-")
            cut = slice(int(count)) if end == "first" else slice(len(a) - int(count), None)
            return len(set(a[cut]) & set(b[cut])) / int(count)
        call = {"spearman": stats.spearmanr, "kendall": stats.kendalltau}[measure]
        return float(call(np.argsort(a), np.argsort(b)).statistic)

    case, criterion, count = found["case"], found["criterion"], found["samples_per_class"]
    across_counts = case in (COUNTS_ALL, COUNTS_SAME)
    a = (criterion, int(found["a"])) if across_counts else (found["a"], count)
    b = (criterion, int(found["b"])) if across_counts else (found["b"], count)
    seeds = {
        SEEDS: lambda i, j: i < j,
        ACROSS: lambda i, j: True,
        SAME_SEED: lambda i, j: i == j,
        COUNTS_ALL: lambda i, j: True,
        COUNTS_SAME: lambda i, j: i == j,
    }[case]
    values = [
        agreement(orders[x], orders[y])
        for x, y in itertools.product(orders, orders)
        if (x.criterion, x.samples_per_class) == a and (y.criterion, y.samples_per_class) == b and seeds(x.seed, y.seed)
    ]
    return len(values), float(np.mean(values)), float(np.std(values))


def check_against_scipy(units: int, seeds: int, chance: np.random.Generator, measures: tuple[str, ...]) -> None:
    fixed = chance.permutation(units)
    orders = {
        Run("moon", criterion, count, seed): fixed if criterion == "weight" else chance.permutation(units)
        for criterion in ("lrp", "weight", "grad")
        for count in (1, 5)
        for seed in range(seeds)
    }
    rows = rank_rows(orders, measures)
    assert {r["case"] for r in rows} == set(CASES)
    assert {r["measure"] for r in rows} == set(measures)
    for found in rows:
        assert (found["pairs"], found["mean"], found["sd"]) == pytest.approx(
            scipy_means(orders, found), rel=1e-12, abs=1e-12
        ), found


@pytest.mark.slow
@given(units=st.integers(3, 70), seeds=st.integers(2, 3), seed=st.integers(0, 999), part=st.floats(0, 1))
@settings(max_examples=15, deadline=None)
def test_small_orders_against_scipy(units, seeds, seed, part):
    count = 1 + round(part * (units - 1))
    check_against_scipy(
        units, seeds, np.random.default_rng(seed), ("spearman", "kendall", f"first-{count}", f"last-{count}")
    )


@pytest.mark.parametrize("units", [400, 1001])
def test_orders_counted_in_several_parts_against_scipy(units):
    check_against_scipy(units, 2, np.random.default_rng(units), ("kendall",))


def test_wrong_requests_about_ranks():
    orders = as_orders(BY_HAND)
    with pytest.raises(RequestError, match="unknown measure 'pearson'; choose from spearman, kendall"):
        rank_rows(orders, ["pearson"])
    for name in ("first-0", "first", "last-x", "middle-3"):
        with pytest.raises(RequestError, match=f"unknown measure '{name}'"):
            rank_rows(orders, [name])
    with pytest.raises(RequestError, match="only 4 units"):
        rank_rows(orders, MEASURES)
    assert rank_rows({}) == []
    for broken in ([0, 1, 2, 2], [1, 2, 3, 4], [0, 1, 2], [[0, 1], [2, 3]], [0.0, 1.0, 2.0, 3.0]):
        with pytest.raises(RequestError, match=r"order of Run\(.*seed=9\) is not a permutation of 0..3"):
            rank_rows(orders | {Run("moon", "lrp", 1, 9): np.array(broken)})
    with pytest.raises(RequestError, match="at least two units"):
        rank_rows({Run("moon", "lrp", 1, 0): np.array([0])})
