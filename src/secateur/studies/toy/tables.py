"""Results and pruning orders as files that pandas and polars read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from secateur.core.errors import RequestError
from secateur.core.files import atomic_path
from secateur.studies.toy.accuracy import COLUMNS
from secateur.studies.toy.ranks import Run
from secateur.studies.toy.runs import Outcome


def write_rows(rows: Sequence[dict[str, Any]], folder: Path) -> Path:
    """Write the table as ``results.csv`` and ``results.parquet``; the path of the CSV."""
    frame = pd.DataFrame(list(rows), columns=list(COLUMNS))
    with atomic_path(folder / "results.parquet") as temporary:
        frame.to_parquet(temporary, index=False)
    return write_frame(frame, folder / "results.csv")


def add_rows(rows: Sequence[dict[str, Any]], earlier: pd.DataFrame | None, path: Path) -> Path:
    """Write a CSV of earlier rows and new ones; a new row takes the place of an earlier one of the same measurement.

    Args:
        rows: new ones.
        earlier: None: there are none.
        path: of the CSV.
    """
    frame = pd.DataFrame(list(rows), columns=list(COLUMNS))
    if earlier is not None:
        frame = pd.concat([earlier, frame], ignore_index=True)
    same = [name for name in COLUMNS if name != "accuracy"]
    return write_frame(frame.drop_duplicates(same, keep="last"), path)


def write_frame(frame: pd.DataFrame, path: Path) -> Path:
    """Write a table as CSV, atomically."""
    with atomic_path(path) as temporary:
        frame.to_csv(temporary, index=False)
    return path


def write_ranks(outcomes: Iterable[Outcome], path: Path) -> Path:
    """Write pruning orders as Parquet: the run's coordinates, and ``order``, units with the first removed first."""
    found = list(outcomes)
    table = pa.table(
        {
            "dataset": [item.run.dataset for item in found],
            "criterion": [item.run.criterion for item in found],
            "samples_per_class": [item.run.samples_per_class for item in found],
            "seed": [item.run.seed for item in found],
            "order": pa.array([item.order for item in found], pa.list_(pa.uint16())),
        }
    )
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary)
    return path


def read_ranks(path: str | Path) -> dict[Run, np.ndarray]:
    """Pruning orders by run, as a grid has written them.

    Raises:
        RequestError: when the file is missing or not such a file.
    """
    try:
        table = pq.read_table(path, columns=["dataset", "criterion", "samples_per_class", "seed", "order"])
        names = [table.column(name).to_pylist() for name in ("dataset", "criterion", "samples_per_class", "seed")]
        orders = table.column("order").combine_chunks()
        values, ends = orders.values.to_numpy(), orders.offsets.to_numpy()
    except FileNotFoundError as error:
        remedy = "run toy grid with --ranks first, or analyse with --no-ranks"
        raise RequestError(f"'{path}' does not exist; {remedy}") from error
    except (OSError, pa.ArrowException, KeyError, AttributeError) as error:
        raise RequestError(f"'{path}' does not hold pruning orders ({error}); run grid again") from error
    runs = [Run(*items) for items in zip(*names, strict=True)]
    return {run: values[ends[i] : ends[i + 1]] for i, run in enumerate(runs)}
