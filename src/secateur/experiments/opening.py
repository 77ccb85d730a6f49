"""Opening the store of a study, and the study of a store."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pydantic import ValidationError

from secateur.core.errors import RequestError
from secateur.core.files import check_writable
from secateur.experiments.artefacts import check_files
from secateur.experiments.database import META, OPENING, Database, file_of, shown, store_url
from secateur.experiments.store import Store
from secateur.experiments.study import Study


@contextlib.contextmanager
def opened_store(
    location: str | Path, study: Any, files: str | Path | None = None, *, reading: bool = False
) -> Iterator[Store]:
    """The store of a study, closed at the end; see `Store`."""
    with Store(location, study.name, study.version, study.tables, files, reading=reading) as store:
        yield store


def check_store(location: str | Path, study: Study[Any, Any], files: str | Path | None = None) -> None:
    """Refuse what `opened_store` would, without making or changing a store.

    Raises:
        RequestError: for a place that cannot be written, a file that is no store, or another study's.
        SecateurError: for a database that cannot be reached.
    """
    if files is not None:
        check_files(files)
    url = store_url(location)
    file = file_of(url)
    if url.get_backend_name() == "sqlite" and (file is None or not file.exists()):
        check_writable(Path() if file is None else file.parent)
        return
    with closing(Database(url, reading=True)) as database:
        begun = database.read(lambda connection: META in sa.inspect(connection).get_table_names(), OPENING)
    if begun:
        with opened_store(location, study, reading=True):
            pass


def stored_study(store: Store, kind: type[Study[Any, Any]]) -> Study[Any, Any]:
    """A study with the settings of the last run that a store has.

    Raises:
        RequestError: when there was none, or its settings are none of this version.
    """
    try:
        return kind(kind.settings_type.model_validate(store.settings()))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise RequestError(
            f"'{store}' was written by another version of secateur: it has settings that this one does not take "
            f"({where}: {first['msg']}); run the study again into another store"
        ) from error


@contextlib.contextmanager
def opened_cells(location: str | Path) -> Iterator[Store]:
    """The store of any study, without its tables: how far it is and what failed can be read without the study.

    Raises:
        RequestError: when there is no store.
        SecateurError: when its database cannot be reached.
    """
    name, version = _held(location)
    with Store(location, name, version, {}, reading=True) as store:
        yield store


def study_of(location: str | Path) -> str:
    """The name of the study that a store holds.

    Raises:
        RequestError: when there is no store.
        SecateurError: when its database cannot be reached.
    """
    return _held(location)[0]


def _held(location: str | Path) -> tuple[str, int]:
    """Name and version of the study that a store holds."""
    url = store_url(location)
    file = file_of(url)
    if url.get_backend_name() == "sqlite" and not (file and file.is_file()):
        raise RequestError(
            f"there is no store '{file or shown(url)}'; give the folder of a study (--out) or its --store"
        )
    meta = sa.table(META, sa.column("key"), sa.column("value"))

    def read(connection: sa.Connection) -> tuple[str, int]:
        if META not in sa.inspect(connection).get_table_names():
            raise RequestError(f"'{database}' is a database, but no store of studies; give another one")
        held = {str(key): str(value) for key, value in connection.execute(sa.select(meta.c.key, meta.c.value))}
        if not held.get("study version", "").isdecimal():
            raise RequestError(f"'{database}' is an unfinished store; delete it, and run the study again")
        return held["study"], int(held["study version"])

    with closing(Database(url, reading=True)) as database:
        return database.read(read, OPENING)
