"""Results and pruning orders as files that pandas and polars read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from secateur.core.errors import RequestError
from secateur.core.files import atomic_path
from secateur.experiments import Row, Tables, write_table
from secateur.studies.toy.findings import COLUMNS
from secateur.studies.toy.ranks import Run


def write_tables(tables: Tables, folder: Path, *, ranks: bool) -> dict[str, Path]:
    """Write ``results.csv``, ``results.parquet`` and, where wanted, ``ranks.parquet``; an older one goes."""
    written = {"table": write_table(tables["results"], folder / "results.csv")}
    path = folder / "ranks.parquet"
    path.unlink(missing_ok=True)  # an earlier grid's must not lie beside this one's table
    if ranks:
        written["ranks"] = write_ranks(tables["orders"], path)
    return written


def add_rows(rows: Sequence[Row], earlier: pd.DataFrame | None, path: Path) -> Path:
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


def write_ranks(orders: pd.DataFrame, path: Path) -> Path:
    """Write pruning orders as Parquet: the run's coordinates, and ``order``, units with the first removed first.

    Args:
        orders: rows of the study's table ``orders``.
        path: of the file.
    """
    units = [np.frombuffer(order, "<u2") for order in orders["order"]]
    columns = {name: list(orders[name]) for name in ("dataset", "criterion", "samples_per_class", "seed")}
    table = pa.table(columns | {"order": pa.array(units, pa.list_(pa.uint16()))})
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary)
    return path


def orders_of(frame: pd.DataFrame) -> dict[Run, np.ndarray]:
    """Pruning orders by run, of the study's table ``orders``."""
    names = ("dataset", "criterion", "samples_per_class", "seed")
    runs = zip(*(frame[name] for name in names), strict=True)
    return {
        Run(str(dataset), str(criterion), int(count), int(seed)): np.frombuffer(order, "<u2")
        for (dataset, criterion, count, seed), order in zip(runs, frame["order"], strict=True)
    }


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
