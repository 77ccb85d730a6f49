"""Accuracy after pruning: means over seeds, beside the published ones, and what the study claims from them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from secateur.core.errors import RequestError
from secateur.experiments import Finding

PUBLISHED_REMOVED = 1000
"""Of 3000 hidden neurons, in the published runs."""

_EVALUATED_ON = ("train", "test", "noisy")
_STAGES = ("pre", "post")


@dataclass(frozen=True)
class _Numbers:
    low: float
    high: float = math.inf
    whole: bool = False

    def __str__(self) -> str:
        limits = f"from {self.low:g} on" if self.high == math.inf else f"from {self.low:g} to {self.high:g}"
        return f"a {'whole ' if self.whole else ''}number {limits}"


_Allowed = Mapping[str, _Numbers | tuple[str, ...] | None]
"""What a column may hold: numbers in a range, one of some words, or (None) any text."""

_ROWS: _Allowed = {
    "dataset": None,
    "criterion": None,
    "samples_per_class": _Numbers(1, whole=True),
    "seed": _Numbers(0, whole=True),
    "evaluated_on": _EVALUATED_ON,
    "noise": _Numbers(0),
    "stage": _STAGES,
    "accuracy": _Numbers(0, 100),
    "network": None,
    "removed": _Numbers(0, whole=True),
}

_PUBLISHED: _Allowed = {
    "dataset": None,
    "criterion": None,
    "samples_per_class": _Numbers(1, whole=True),
    "evaluated_on": ("train", "test"),
    "stage": _STAGES,
    "runs": _Numbers(1, whole=True),
    "mean_accuracy_percent": _Numbers(0, 100),
    # no numbers between 0 and 100 have a larger population standard deviation
    "sd_accuracy_percent": _Numbers(0, 50),
}

COLUMNS = tuple(_ROWS)
"""Of the study's table, one row per measurement; `accuracy` is in %, `noise` is sigma, 0 for `train` and `test`."""

_GROUP = ["network", "removed", "dataset", "criterion", "samples_per_class", "evaluated_on", "noise", "stage"]
_SHARED = ["dataset", "criterion", "samples_per_class", "evaluated_on", "stage"]


def read_rows(path: str | Path) -> pd.DataFrame:
    r"""Read the study's table of measurements from a ``.csv`` or ``.parquet`` file.

    Returns:
        The columns of `COLUMNS`, in that order.

    Raises:
        RequestError: when the file is missing or unreadable, or its columns or values are not those of this version.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "results.csv"
        >>> _ = path.write_text(",".join(COLUMNS) + "\nmoon,lrp,5,0,train,0.0,post,99.5,published,1000\n")
        >>> read_rows(path).accuracy.tolist()
        [99.5]
    """
    remedy = "it is damaged or was written by another version; run toy grid again"
    frame = _read(path, remedy)
    unknown = [str(column) for column in frame.columns if column not in _ROWS]
    if unknown:
        raise RequestError(f"'{path}' has unknown columns {', '.join(unknown)}: {remedy}")
    return _checked(frame, path, _ROWS, [name for name in _ROWS if name != "accuracy"], remedy)


def read_published(path: str | Path) -> pd.DataFrame:
    """Read published means: a CSV with ``mean_accuracy_percent`` and ``sd_accuracy_percent`` over ``runs``.

    The other columns are dataset, criterion, samples_per_class, evaluated_on (train | test) and stage (pre | post);
    more are left out.

    Raises:
        RequestError: when the file is missing or unreadable, lacks columns, or holds values out of range.
    """
    remedy = "give a table like the published accuracy.csv"
    return _checked(_read(path, remedy), path, _PUBLISHED, _SHARED, remedy)


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean and population standard deviation of the accuracy over seeds, in %.

    Args:
        rows: one measurement each, with the columns of `COLUMNS`.

    Returns:
        One row per network, removed, dataset, criterion, samples_per_class, evaluated_on, noise and stage, sorted by
        these: networks, data sets and criteria by first appearance, ``train, test, noisy``, ``pre, post``, numbers
        ascending. Further columns: ``runs``, ``mean_accuracy_percent``, ``sd_accuracy_percent``.

    Raises:
        RequestError: when a column is missing.

    Example:
        >>> rows = pd.DataFrame([("moon", "lrp", 5, seed, "train", 0.0, "post", accuracy, "published", 1000)
        ...     for seed, accuracy in enumerate((99.0, 100.0))], columns=COLUMNS)
        >>> summarise(rows)[["runs", "mean_accuracy_percent", "sd_accuracy_percent"]].values.tolist()
        [[2.0, 99.5, 0.5]]
    """
    _require(rows, COLUMNS, "the table of measurements")
    groups = rows.groupby(_GROUP, sort=False, dropna=False)["accuracy"]
    found = pd.DataFrame(
        {"runs": groups.size(), "mean_accuracy_percent": groups.mean(), "sd_accuracy_percent": groups.std(ddof=0)}
    ).reset_index()
    places: dict[str, list[str]] = {
        "evaluated_on": list(_EVALUATED_ON),
        "stage": list(_STAGES),
        **{name: list(dict.fromkeys(rows[name])) for name in ("network", "dataset", "criterion")},
    }

    def place(column: pd.Series) -> pd.Series:
        order = places.get(str(column.name))
        return column if order is None else column.map(order.index)

    return found.sort_values(_GROUP, key=place, ignore_index=True)


def against(summary: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Our means beside the published ones, where both have a figure.

    Compared is what was published: the network ``published`` with `PUBLISHED_REMOVED` neurons removed; other networks
    and numbers in ``summary`` are left out.

    Args:
        summary: from `summarise`.
        published: from `read_published`.

    Returns:
        One row per dataset, criterion, samples_per_class, evaluated_on and stage, in the order of ``summary``;
        ``ours``, ``ours_sd``, ``theirs``, ``theirs_sd`` and ``difference``, ours - theirs, in percentage points.

    Raises:
        RequestError: when nothing is in common, or a column is missing.
    """
    _require(published, tuple(_PUBLISHED), "the published table")
    mine = _as_published(summary)
    both = mine.merge(published, on=_SHARED, suffixes=("", "_theirs"))
    if both.empty:
        ours = _contents(mine) if len(mine) else "nothing for that network"
        raise RequestError(
            f"nothing to compare with the published figures: ours (network 'published', {PUBLISHED_REMOVED} removed) "
            f"have {ours}; theirs have {_contents(published)}; run the study where both have figures"
        )
    table = both[_SHARED].copy()
    table["ours"], table["ours_sd"] = both["mean_accuracy_percent"], both["sd_accuracy_percent"]
    table["theirs"], table["theirs_sd"] = both["mean_accuracy_percent_theirs"], both["sd_accuracy_percent_theirs"]
    table["difference"] = table["ours"] - table["theirs"]
    return table


def check_claims(summary: pd.DataFrame, published: pd.DataFrame | None = None) -> list[Finding]:
    """Check the study's claims on our means after pruning: the published network and number removed, training data.

    - LRP is within 2 points of the published mean at every common count from 5 samples per class on, on the training
      data and on the reference samples (only with ``published``);
    - with 5 samples per class on circle and mult: LRP > weight, and weight > Taylor and gradient;
    - with 1 sample per class weight is ahead of LRP, Taylor and gradient;
    - from 5 samples per class on LRP is never behind weight.

    A claim whose numbers are not all there is left out.

    Args:
        summary: from `summarise`.
        published: from `read_published`.

    Source:
        Yeom et al., "Pruning by explaining", Pattern Recognition 2021, toy study.

    Example:
        >>> accuracies = {"lrp": 70.0, "weight": 97.1, "taylor": 68.4, "grad": 69.2}
        >>> rows = pd.DataFrame([("circle", criterion, 1, 0, "train", 0.0, "post", accuracy, "published", 1000)
        ...     for criterion, accuracy in accuracies.items()], columns=COLUMNS)
        >>> for finding in check_claims(summarise(rows)):
        ...     print(finding.holds, finding.text, finding.figures, sep="; ")
        True; circle: with 1 sample per class weight is ahead of LRP, Taylor and gradient;
        weight 97.10, lrp 70.00, taylor 68.40, grad 69.20
    """
    ours = _means(_as_published(summary))
    found: list[Finding] = []
    for dataset in dict.fromkeys(name for name, _, _ in ours):
        if published is not None:
            for place, words in (("train", ""), ("test", ", on the reference samples,")):
                mine, theirs = (_means(table, place) for table in (_as_published(summary), published))
                found += _near_published(dataset, words, mine, theirs)
        found += _order_at_five(dataset, ours)
        found += _weight_at_one(dataset, ours)
        found += _lrp_from_five(dataset, ours)
    return found


_Means = dict[tuple[str, str, int], float]
"""Accuracy in % by data set, criterion and samples per class."""


def _near_published(dataset: str, words: str, ours: _Means, theirs: _Means) -> list[Finding]:
    pairs = [(n, ours[dataset, "lrp", n], theirs[dataset, "lrp", n]) for n in _common(dataset, ["lrp"], ours, theirs)]
    if not pairs:
        return []
    figures = ", ".join(f"{n} per class: {our:.2f} (published {their:.2f})" for n, our, their in pairs)
    text = f"{dataset}: LRP{words} is within 2 points of the published mean from 5 samples per class on"
    return [Finding(text, all(round(abs(our - their), 6) <= 2 for _, our, their in pairs), figures)]


def _order_at_five(dataset: str, ours: _Means) -> list[Finding]:
    means = _four(dataset, 5, ours)
    if means is None or dataset not in ("circle", "mult"):
        return []
    holds = means["lrp"] > means["weight"] > max(means["taylor"], means["grad"])
    text = f"{dataset}: with 5 samples per class LRP is ahead of weight, and weight of Taylor and gradient"
    return [Finding(text, holds, _listed(means, ["lrp", "weight", "taylor", "grad"]))]


def _weight_at_one(dataset: str, ours: _Means) -> list[Finding]:
    means = _four(dataset, 1, ours)
    if means is None:
        return []
    holds = means["weight"] > max(means["lrp"], means["taylor"], means["grad"])
    text = f"{dataset}: with 1 sample per class weight is ahead of LRP, Taylor and gradient"
    return [Finding(text, holds, _listed(means, ["weight", "lrp", "taylor", "grad"]))]


def _lrp_from_five(dataset: str, ours: _Means) -> list[Finding]:
    pairs = [
        (n, ours[dataset, "lrp", n], ours[dataset, "weight", n]) for n in _common(dataset, ["lrp", "weight"], ours)
    ]
    if not pairs:
        return []
    figures = ", ".join(f"{n} per class: lrp {lrp:.2f}, weight {weight:.2f}" for n, lrp, weight in pairs)
    text = f"{dataset}: LRP is never behind weight from 5 samples per class on"
    return [Finding(text, all(lrp >= weight for _, lrp, weight in pairs), figures)]


def _common(dataset: str, criteria: Sequence[str], *tables: _Means) -> list[int]:
    """Counts from 5 per class on at which every table has every criterion."""
    counts = sorted({n for name, _, n in tables[0] if name == dataset and n >= 5})
    return [n for n in counts if all((dataset, criterion, n) in table for table in tables for criterion in criteria)]


def _four(dataset: str, count: int, ours: _Means) -> dict[str, float] | None:
    keys = {criterion: (dataset, criterion, count) for criterion in ("lrp", "weight", "taylor", "grad")}
    if any(key not in ours for key in keys.values()):
        return None
    return {criterion: ours[key] for criterion, key in keys.items()}


def _listed(means: Mapping[str, float], criteria: Sequence[str]) -> str:
    return ", ".join(f"{criterion} {means[criterion]:.2f}" for criterion in criteria)


def _means(frame: pd.DataFrame, evaluated_on: str = "train") -> _Means:
    used = frame[(frame["evaluated_on"] == evaluated_on) & (frame["stage"] == "post")]
    columns = (used[name] for name in ("dataset", "criterion", "samples_per_class", "mean_accuracy_percent"))
    # means of equal accuracies may differ in their last bits: that is no lead
    return {(str(d), str(c), int(n)): round(float(mean), 6) for d, c, n, mean in zip(*columns, strict=True)}


def _as_published(summary: pd.DataFrame) -> pd.DataFrame:
    _require(summary, [*_GROUP, "mean_accuracy_percent", "sd_accuracy_percent"], "the summary")
    return summary[(summary["network"] == "published") & (summary["removed"] == PUBLISHED_REMOVED)]


def _contents(frame: pd.DataFrame) -> str:
    names = {
        "data sets": "dataset",
        "criteria": "criterion",
        "samples per class": "samples_per_class",
        "evaluated on": "evaluated_on",
        "stages": "stage",
    }
    return ", ".join(f"{text} {'/'.join(map(str, frame[name].unique()))}" for text, name in names.items())


def _require(frame: pd.DataFrame, columns: Sequence[str], what: str) -> None:
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise RequestError(f"{what} lacks columns {', '.join(missing)}; it needs {', '.join(columns)}")


def _read(path: str | Path, remedy: str) -> pd.DataFrame:
    path = Path(path)
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        return pd.read_csv(path, keep_default_na=False)
    except FileNotFoundError as error:
        raise RequestError(f"'{path}' does not exist; give the path of a table") from error
    except (OSError, ValueError) as error:
        reason = re.sub(r"\s+", " ", str(error)).strip()
        raise RequestError(f"'{path}' is not a readable table ({reason}); {remedy}") from error


def _checked(
    frame: pd.DataFrame, path: str | Path, allowed: _Allowed, identity: Sequence[str], remedy: str
) -> pd.DataFrame:
    """Only the allowed columns, in their types; no value outside what is allowed, no measurement twice."""
    missing = [name for name in allowed if name not in frame.columns]
    if missing:
        raise RequestError(f"'{path}' lacks columns {', '.join(missing)}: {remedy}")
    if frame.empty:
        raise RequestError(f"'{path}' holds no rows: {remedy}")
    checked = pd.DataFrame({name: _column(frame[name], path, what, remedy) for name, what in allowed.items()})
    twice = checked.duplicated(list(identity))
    if twice.any():
        row = int(twice.argmax())
        same = ", ".join(str(checked[name].iloc[row]) for name in identity)
        raise RequestError(f"'{path}', row {row + 1} repeats an earlier one ({same}): {remedy}")
    return checked


def _column(column: pd.Series, path: str | Path, what: _Numbers | tuple[str, ...] | None, remedy: str) -> pd.Series:
    if isinstance(what, _Numbers):
        numbers = pd.to_numeric(column, errors="coerce").astype(float)
        good = numbers.between(what.low, what.high) & (numbers != math.inf)
        if what.whole:
            good &= (numbers % 1 == 0) & (numbers <= 2**53)
        _check_all(good, column, path, f"{what} is expected: {remedy}")
        return numbers.astype(int) if what.whole else numbers
    words = column.astype(str)
    if what is None:
        _check_all(column.notna() & (words != ""), column, path, f"a name is expected: {remedy}")
    else:
        _check_all(words.isin(what), column, path, f"one of {', '.join(what)} is expected: {remedy}")
    return words


def _check_all(good: pd.Series[bool], column: pd.Series, path: str | Path, otherwise: str) -> None:
    if not good.all():
        row = int((~good).argmax())
        raise RequestError(f"'{path}', row {row + 1}: {column.name} is '{column.iloc[row]}', {otherwise}")
