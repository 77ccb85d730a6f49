"""The tables of a comparison: what is stored for each cell, and what becomes of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.core.files import write_json
from secateur.core.timing import column_names
from secateur.experiments import Column, Schema, Tables, write_table
from secateur.studies.compare.cells import UNPRUNED, CompareCell

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]

_KEYS = (
    Column("subset", str, "name of the classes that the network is for; `all`: no subset"),
    Column("criterion", str, "that scores units or weights, with its parameters; `none`: the unpruned network"),
    Column("scored_on", str, "`subset`: images of its classes; `all`: of all classes (class-blind)"),
    Column("strategy", str, "schedule and strategy, and what is done besides"),
    Column("seed", int, "of the reference samples, and of criteria that draw"),
    Column("budget_kind", str, "`macs`, `params`, `units`: a share that stays; `ratio`: the nominal share that goes"),
    Column("budget", float, "the share that was asked for; 1 for the unpruned network"),
)
_FINETUNED = Column("finetuned", bool, "whether it was measured after retraining")

KEYS = (*(column.name for column in _KEYS), _FINETUNED.name)
"""That the tables of classes and layers share with the main one."""

_TIMED = ("subset", "criterion", "scored_on", "strategy", "seed", "budget")
"""Of a network that is timed once, before it is retrained."""


def _time_columns(prefix: str, where: str) -> tuple[Column, ...]:
    meanings: dict[str, tuple[Any, str, str]] = {
        "ms": (float, f"median time of a batch in {where}: the share of the unpruned row's milliseconds", "ms"),
        "share": (float, "median ratio to the unpruned network's time, both timed in turn", ""),
        "interval_low": (float, "lower end of that ratio's 95 % interval", ""),
        "interval_high": (float, "upper end", ""),
        "spread": (float, "interquartile range of the unpruned network's times over their median", ""),
        "rounds": (int, "how often both were timed", ""),
    }
    names = {name.removeprefix(f"{prefix}_"): name for name in column_names(prefix)}
    return tuple(
        Column(names[short], kind, meaning, unit, optional=True, timed=kind is float)
        for short, (kind, meaning, unit) in meanings.items()
    )


_TIMES = (
    *_time_columns("latency", "PyTorch"),
    *_time_columns("onnx", "ONNX Runtime"),
    Column("latency_note", str, "why a network was not timed in ONNX Runtime"),
    Column("memory_bytes", int, "peak memory of one forward pass of a batch in PyTorch, weights and batch included",
           "bytes", optional=True),
    Column("onnx_memory_bytes", int, "likewise in ONNX Runtime", "bytes", optional=True, timed=True),
)  # fmt: skip

COMPARE = Schema(
    (
        Column("model", str, "the network"),
        Column("dataset", str, "the data"),
        *_KEYS[:1],
        Column("classes", str, "of the subset, with semicolons; empty: all"),
        *_KEYS[1:3],
        Column("structured", bool, "false: single weights are masked, which makes nothing faster"),
        *_KEYS[3:],
        Column("units", float, "share of removable units that stay"),
        Column("params", float, "share of parameters that stay"),
        Column("macs", float, "share of multiply-accumulate operations that stay"),
        Column("weights", float, "share of weights that are not masked", optional=True),
        Column("accuracy", float, "share of right answers"),
        Column("balanced_accuracy", float, "mean over classes of the share of right answers", optional=True),
        Column("loss", float, "mean cross-entropy; empty where it is not a number", "nats", optional=True),
        Column("samples", int, "images that it was measured on", optional=True),
        *_TIMES[:-2],
        Column("size_bytes", int, "of the stored weights", "bytes"),
        _FINETUNED,
        Column("scoring_s", float, "time of scoring, shared by all budgets of a cell", "s", optional=True, timed=True),
        Column("surgery_s", float, "time of choosing, cutting and repairing", "s", optional=True, timed=True),
        Column("evaluation_s", float, "time of measuring", "s", timed=True),
        Column("retraining_s", float, "time of retraining", "s", optional=True, timed=True),
        *_TIMES[-2:],
    ),
    "one network, measured",
)

COLUMNS = COMPARE.names
"""Of the main table, in order."""

_LATER = {"model", *(column.name for column in _TIMES)}

MEASURED = Schema(
    (
        *(column for column in COMPARE.columns if column.name not in _LATER),
        Column("part_s", float, "time of the whole cell without retraining", "s", optional=True, timed=True),
    ),
    "one network, measured",
)
TIMES = Schema(
    (*(column for column in _KEYS if column.name in _TIMED), *_TIMES), "one network, timed beside the unpruned one"
)
CLASSES = Schema(
    (*_KEYS, _FINETUNED, Column("class", str, "name of the class"), Column("accuracy", float, "on its images")),
    "one network and class",
)
LAYERS = Schema(
    (
        *_KEYS,
        _FINETUNED,
        Column("layer", str, "name of the layer"),
        Column("kept", int, "channels that stay"),
        Column("removed", int, "channels that go"),
        Column("total", int, "both"),
    ),
    "one pruned network and layer",
)
PLANS = Schema(
    (*_KEYS, Column("removed", str, "units that go by group, as JSON")),
    "one pruned network",
)

STORED = {"measured": MEASURED, "times": TIMES, "classes": CLASSES, "layers": LAYERS, "plans": PLANS}


def coordinates_of(cell: CompareCell) -> Row:
    """The columns that follow from a cell."""
    return {
        "subset": cell.subset_name,
        "criterion": cell.criterion,
        "scored_on": cell.scored_on,
        "strategy": cell.strategy,
        "seed": cell.seed,
    }


def assembled(tables: Tables, model: str) -> dict[str, pd.DataFrame]:
    """The tables as they are written: times beside what was measured, classes, layers.

    Milliseconds of a pruned network are its share of those in the unpruned one's row: each pair is timed in turn, and
    each time the unpruned network takes a little more or less; of one table the quotients are to be the shares that
    were measured.
    """
    frame = tables["measured"].merge(tables["times"], how="left", on=list(_TIMED), sort=False)
    unpruned = frame["criterion"] == UNPRUNED
    for prefix in ("latency", "onnx"):
        whole = frame[unpruned].set_index("subset")[f"{prefix}_ms"]
        share = frame[f"{prefix}_share"]
        known = ~unpruned & share.notna()
        frame.loc[known, f"{prefix}_ms"] = share[known] * frame.loc[known, "subset"].map(whole)
    frame["latency_note"] = frame["latency_note"].fillna("")
    frame.insert(0, "model", model)
    seconds = frame["part_s"]
    main = COMPARE.frame([list(row.values()) for row in _plain(frame[list(COLUMNS)])])
    main["part_s"] = seconds
    return {
        "compare": main,
        "compare-classes": tables["classes"],
        "compare-layers": tables["layers"],
        "plans": tables["plans"],
    }


def write_frames(tables: Tables, folder: Path) -> dict[str, Path]:
    """Write assembled tables as CSV and Parquet, and all of it as ``compare.json``."""
    written = {}
    for name in ("compare", "compare-classes", "compare-layers"):
        frame = tables[name].drop(columns="part_s") if name == "compare" else tables[name]
        if len(frame):
            written[name] = write_table(frame, folder / f"{name}.csv")
    written["compare.json"] = write_json(folder / "compare.json", [_finite(row) for row in rows_of(tables)])
    return written


def write_rows(rows: Sequence[Row], folder: str | Path, name: str = "compare") -> list[Path]:
    """Write rows as CSV, Parquet and JSON, each atomically.

    Beside the main table (columns: `COLUMNS`) go ``NAME-classes.csv``, accuracy by class, and ``NAME-layers.csv``, kept
    channels by layer, where rows have them; the JSON file holds all of it.
    """
    frames = {
        name: COMPARE.frame([[row.get(column) for column in COLUMNS] for row in rows]),
        f"{name}-classes": CLASSES.frame([list(row.values()) for row in class_rows(rows)]),
        f"{name}-layers": LAYERS.frame([list(row.values()) for row in layer_rows(rows)]),
    }
    paths = []
    for stem, frame in frames.items():
        if len(frame) or stem == name:
            path = write_table(frame, Path(folder) / f"{stem}.csv")
            paths += [path, path.with_suffix(".parquet")]
    return [*paths, write_json(Path(folder) / f"{name}.json", [_finite(row) for row in rows])]


def rows_of(tables: Tables) -> list[Row]:
    """Assembled tables as rows of plain values.

    Returns:
        Rows with the keys of `COLUMNS`, and behind them ``part_s``, ``per_class`` (accuracy by class), ``layers``
        (name, kept and all channels) and ``removed`` (units by group).
    """
    classes = _grouped(tables["compare-classes"], KEYS)
    layers = _grouped(tables["compare-layers"], KEYS[:-1])
    plans = _grouped(tables["plans"], KEYS[:-1])
    rows = []
    for row in _plain(tables["compare"]):
        key = tuple(row[name] for name in KEYS)
        row["per_class"] = {item["class"]: item["accuracy"] for item in classes.get(key, ())}
        if key[:-1] in plans:
            row["layers"] = [(item["layer"], item["kept"], item["total"]) for item in layers.get(key[:-1], ())]
            row["removed"] = json.loads(plans[key[:-1]][0]["removed"])
        rows.append(row)
    return rows


def class_rows(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """One row per measurement and class: accuracy."""
    return [
        {key: row[key] for key in KEYS} | {"class": name, "accuracy": value}
        for row in rows
        for name, value in row.get("per_class", {}).items()
    ]


def layer_rows(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """One row per pruned network and layer: channels kept and removed."""
    return [
        {key: row[key] for key in KEYS} | {"layer": name, "kept": kept, "removed": total - kept, "total": total}
        for row in rows
        if row["structured"] and not row["finetuned"] and row["criterion"] != UNPRUNED
        for name, kept, total in row.get("layers", ())
    ]


def _grouped(frame: pd.DataFrame, keys: Sequence[str]) -> dict[tuple[Any, ...], list[Row]]:
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in _plain(frame):
        found.setdefault(tuple(row[name] for name in keys), []).append(row)
    return found


def _plain(frame: pd.DataFrame) -> list[Row]:
    """Rows with Python's own values; None for what is missing."""
    names = [str(name) for name in frame.columns]
    values = zip(*(frame[name].astype(object).where(frame[name].notna(), None) for name in names), strict=True)
    return [dict(zip(names, row, strict=True)) for row in values]


def _finite(value: Any) -> Any:
    """Without what JSON does not have."""
    if isinstance(value, float):
        return value if abs(value) != float("inf") and value == value else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
