"""Finished runs, kept as they finish: a SQLite file, whole after any interruption."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from secateur.core.errors import RequestError, SecateurError
from secateur.core.files import ensure_folder
from secateur.studies.toy.criteria import criterion_for
from secateur.studies.toy.ranks import Run
from secateur.studies.toy.runs import Outcome

VERSION = 1


def key_of(identity: str, run: Run) -> str:
    """Name of a run: hash of all that its result depends on.

    Args:
        identity: of network and settings, see `secateur.studies.toy.grid.identity`.
        run: its coordinates.
    """
    criterion = repr(criterion_for(run.criterion, run.seed))  # all its parameters, the study's defaults too
    text = json.dumps([identity, run.dataset, run.criterion, criterion, run.samples_per_class, run.seed])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class Store:
    """Outcomes by key, in one file; as a context, it is closed at the end.

    Args:
        path: made when missing.

    Raises:
        RequestError: when the folder cannot be written, or the file is no store, or one of another version.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        ensure_folder(self.path.parent)
        with self._errors():
            self._database = sqlite3.connect(self.path, timeout=60, isolation_level=None)
        try:
            with self._transaction():
                self._begin()
        except BaseException:
            self.close()
            raise

    def _begin(self) -> None:
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        (tables,) = self._database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if version != VERSION and (version or tables):
            raise RequestError(
                f"'{self.path}' was written by another version (format {version}, this secateur has {VERSION}); "
                "choose another --out, or delete it to start anew"
            )
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS runs (key TEXT PRIMARY KEY, dataset TEXT, criterion TEXT, "
            "samples_per_class INTEGER, seed INTEGER, accuracies TEXT, ranks BLOB)"
        )
        self._database.execute(f"PRAGMA user_version = {VERSION}")

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def known(self, ranks: bool) -> set[str]:
        """Keys of finished runs; with ``ranks``, of those whose pruning order is kept."""
        with self._errors():
            rows = self._database.execute("SELECT key FROM runs" + (" WHERE ranks IS NOT NULL" if ranks else ""))
            return {key for (key,) in rows}

    def add(self, outcomes: Iterable[tuple[str, Outcome]], ranks: bool) -> None:
        """Keep finished runs, all or none; with ``ranks``, with their pruning orders."""
        rows = [
            (
                key,
                item.run.dataset,
                item.run.criterion,
                item.run.samples_per_class,
                item.run.seed,
                json.dumps(item.accuracies),
                item.order.astype("<u2").tobytes() if ranks else None,
            )
            for key, item in outcomes
        ]
        with self._transaction():
            self._database.executemany("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?, ?, ?)", rows)

    def read(self, keys: Sequence[str]) -> Iterator[Outcome]:
        """Finished runs in the order of their keys; the order is empty where it was not kept."""
        with self._errors():
            for key in keys:
                found = self._database.execute(
                    "SELECT dataset, criterion, samples_per_class, seed, accuracies, ranks FROM runs WHERE key = ?",
                    (key,),
                ).fetchone()
                if found is None:
                    raise SecateurError(f"'{self.path}' has lost a run; run grid again")
                *run, accuracies, ranks = found
                yield Outcome(
                    Run(*run), tuple(tuple(item) for item in json.loads(accuracies)), np.frombuffer(ranks or b"", "<u2")
                )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing, and nobody else writes meanwhile."""
        with self._errors():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._database.rollback()
                raise
            self._database.commit()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise SecateurError(
                f"cannot read or write '{self.path}' ({error}); what it holds is whole: free space, or wait for the "
                "other command that writes there, and run the same command again"
            ) from error
        except sqlite3.DatabaseError as error:
            raise RequestError(
                f"'{self.path}' is not a file of finished runs ({error}); choose another --out, or delete it"
            ) from error
