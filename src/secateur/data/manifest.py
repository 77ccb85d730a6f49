"""Reads tables of images with one row per image: CSV, TSV, semicolons, Parquet.

Light: neither PyTorch nor NumPy is loaded for text, pyarrow only for Parquet.
"""

from __future__ import annotations

import contextlib
import csv
import io
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from secateur.core.errors import RequestError
from secateur.core.names import did_you_mean
from secateur.data.image_paths import ImageFinder
from secateur.data.settings import DataSettings, TableSettings
from secateur.data.table import Faults, LabelledTable, Row, plain, table_of

SUFFIXES = (".csv", ".tsv", ".parquet")

USUAL = {
    "path": ("path", "image", "image_path", "file", "filename", "image_id"),
    "label": ("label", "class", "dx", "diagnosis", "target"),
    "group": ("group", "patient", "patient_id", "lesion", "lesion_id"),
    "split": ("split", "set", "fold"),
}
"""Names by which columns are recognised, the first that is there; case, blanks, ``-`` and ``_`` do not matter."""

SPLIT_COMMENT = "# split of images, sha256 of ids and labels: "
"""Beginning of the first line of a split file, before its header; see `secateur.data.splits`."""

_DELIMITERS = (",", ";", "\t", "|")
_WHOLE = re.compile(r"\d+\.0+")


@dataclass(frozen=True)
class Sheet:
    """A table as text.

    Attributes:
        path: of the file.
        columns: their names.
        rows: number of each row as a spreadsheet shows it (Parquet: counted from 1), and its cells.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[tuple[int, tuple[str, ...]], ...]

    def where(self, number: int) -> str:
        """What messages call a row."""
        return f"{self.path.name} row {number}"

    def records(self, *columns: str) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Where each row is, and its cells in some columns."""
        at = [self.columns.index(column) for column in columns]
        return ((self.where(number), tuple(cells[i] for i in at)) for number, cells in self.rows)


@dataclass(frozen=True)
class Columns:
    """Names of the columns that are read; None: there is none."""

    path: str
    label: str
    group: str | None
    split: str | None
    notes: tuple[str, ...] = ()


def read_header(path: Path, comment: str = "") -> tuple[str, ...]:
    """Names of the columns; of the file only the first lines are read.

    Args:
        path: of a table.
        comment: beginning of a first line that is left out.

    Raises:
        RequestError: for a file that is absent, empty, or no table.
    """
    if path.suffix.lower() == ".parquet":
        return tuple(_parquet_schema(path).names)
    with _text(path) as file, _errors_of(path):
        return _header(path, file, comment)[0]


def read_sheet(path: Path, faults: Faults, comment: str = "", *, exact: bool = False) -> Sheet:
    """The whole table.

    Args:
        path: of a table.
        faults: collects rows with more or fewer cells than the header.
        comment: beginning of a first line that is left out.
        exact: leave cells of text as they are; otherwise blanks around them go, "nan" is nothing, and "1.0" is 1.

    Raises:
        RequestError: for a file that is absent, empty, or no table.
    """
    if path.suffix.lower() == ".parquet":
        return _parquet(path)
    kept: list[tuple[int, tuple[str, ...]]] = []
    with _text(path) as file, _errors_of(path):
        columns, delimiter, first = _header(path, file, comment)
        for number, cells in enumerate(csv.reader(file, delimiter=delimiter, strict=True), first):
            if not any(cell.strip() for cell in cells):
                continue  # a blank line
            if len(cells) != len(columns):
                faults.add(f"{path.name} row {number}: {len(cells)} cells, but the header has {len(columns)}")
                continue
            kept.append((number, tuple(cells if exact else map(_cell, cells))))
    return Sheet(path, columns, tuple(kept))


def columns_of(path: Path, header: tuple[str, ...], settings: TableSettings) -> Columns:
    """Which columns are read: those that the settings name, others by their usual names.

    Args:
        path: of the table, for messages.
        header: names of its columns.
        settings: names given.

    Raises:
        RequestError: for a column that is missing or there twice.

    Example:
        >>> columns_of(Path("a.csv"), ("Image ID", "age", "dx"), TableSettings()).path
        'Image ID'
        >>> columns_of(Path("a.csv"), ("file", "malignant"), TableSettings())
        Traceback (most recent call last):
            ...
        secateur.core.errors.RequestError: a.csv has no column of labels: none of label, class, dx, diagnosis, target...
    """
    notes: list[str] = []
    columns = {what: column_of(path.name, header, settings, what, notes) for what in USUAL}
    for what, plural in (("path", "image files"), ("label", "labels")):
        if columns[what] is None:
            raise RequestError(
                f"{path.name} has no column of {plural}: none of {', '.join(USUAL[what])}; "
                f"columns: {_listed(header)}; name one with data.table.{what}"
            )
    return Columns(columns["path"] or "", columns["label"] or "", columns["group"], columns["split"], tuple(notes))


def columns_named(of: str, header: Sequence[str], names: Iterable[str], setting: str = "") -> None:
    """Refuse a table that lacks a column, or has it twice.

    Args:
        of: what messages call the table.
        header: names of its columns.
        names: of those that are needed.
        setting: in brackets, which one asks for them.

    Raises:
        RequestError: as said.
    """
    for name in names:
        if list(header).count(name) > 1:
            raise RequestError(f"{of} has several columns '{name}'; rename all but one")
        if name not in header:
            hint = did_you_mean(name, header)
            raise RequestError(f"{of} has no column '{name}'{hint}{setting}; columns: {_listed(header)}")


def read_manifest(path: Path, settings: DataSettings) -> LabelledTable:
    """Read a table of images.

    Args:
        path: of the table.
        settings: ``table`` and ``on_bad_sample`` count.

    Raises:
        RequestError: for what is no such table, and for the first row that cannot be used, unless such are skipped.
    """
    faults = Faults(settings.on_bad_sample == "skip")
    sheet = read_sheet(path, faults)
    columns = _without_folds(columns_of(path, sheet.columns, settings.table), sheet, settings.table)
    finder = ImageFinder(settings.table.root or path.parent, settings.table.extension)
    wanted = {"path": columns.path, "label": columns.label, "group": columns.group, "split": columns.split}
    used = {what: name for what, name in wanted.items() if name is not None}
    rows = []
    for where, cells in sheet.records(*used.values()):
        cell = dict(zip(used, cells, strict=True))
        try:
            image = finder.find(cell["path"])
        except RequestError as error:
            faults.add(f"{where}: {error}", finder.name_of_missing(cell["path"]))
            continue
        rows.append(Row(finder.name(image), image, cell["label"], cell.get("group"), cell.get("split"), where))
    return table_of(
        path.stem,
        rows,
        faults,
        of=path.name,
        group_column=columns.group,
        notes=columns.notes,
    )


def _without_folds(columns: Columns, sheet: Sheet, settings: TableSettings) -> Columns:
    """Numbers of folds do not say what is for training: a column of them is used only where it is named."""
    if columns.split is None or settings.split is not None:
        return columns
    values = {cells[0] for _, cells in sheet.records(columns.split)} - {""}
    if not values or not all(value.lstrip("-").isdecimal() for value in values):
        return columns
    note = f"{sheet.path.name}: column '{columns.split}' holds numbers, as of folds; it is not used as the split"
    return replace(columns, split=None, notes=(*columns.notes, note))


def column_of(of: str, header: Sequence[str], settings: TableSettings, what: str, notes: list[str]) -> str | None:
    """The column that says one thing; None where there is none, or none is wanted.

    Args:
        of: what messages call the table.
        header: names of its columns.
        settings: names given.
        what: a key of `USUAL`.
        notes: collects a note when several columns have usual names.

    Raises:
        RequestError: for a column that is named but missing, or there twice.
    """
    asked: str | None = getattr(settings, what)
    if asked == "":
        return None
    if asked is None:
        usual = [name for known in USUAL[what] for name in header if plain(name) == plain(known)]
        if len({*usual}) > 1:
            others = ", ".join(f"'{name}'" for name in dict.fromkeys(usual) if name != usual[0])
            notes.append(f"{of}: '{usual[0]}' is taken as the column of the {what}, not {others}")
        asked = usual[0] if usual else None
    if asked is not None:
        columns_named(of, header, [asked], f" (data.table.{what})")
    return asked


def _listed(header: Sequence[str]) -> str:
    more = f" ... and {len(header) - 20} more" if len(header) > 20 else ""
    return ", ".join(f"'{name}'" for name in header[:20]) + more


def _text(path: Path) -> io.TextIOWrapper:
    try:
        if path.stat().st_size == 0:
            raise RequestError(f"table '{path}' is empty (zero bytes)")
        return path.open(encoding="utf-8-sig", newline="")
    except FileNotFoundError as error:
        raise RequestError(f"table '{path}' does not exist") from error
    except OSError as error:
        raise RequestError(f"table '{path}' cannot be read ({error.strerror or error})") from error


@contextlib.contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    """Errors of reading text and CSV, with the file that they are of."""
    try:
        yield
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise RequestError(f"table '{path}' is not UTF-8 (byte 0x{byte:02x}); save it as UTF-8") from error
    except (csv.Error, OSError) as error:
        raise RequestError(f"table '{path}' cannot be read ({error})") from error


def _header(path: Path, file: io.TextIOWrapper, comment: str) -> tuple[tuple[str, ...], str, int]:
    """Names of the columns, the delimiter, and the number of the row that comes next."""
    line, number = file.readline(), 1
    while line and (not line.strip() or (comment and line.startswith(comment))):
        line, number = file.readline(), number + 1
    if not line:
        raise RequestError(f"table '{path}' has no header; its first row names the columns")
    parsed = {delimiter: next(csv.reader([line], delimiter=delimiter)) for delimiter in _DELIMITERS}
    delimiter = max(_DELIMITERS, key=lambda each: len(parsed[each]))
    names = tuple(name.strip() for name in parsed[delimiter])
    if len(names) < 2:
        raise RequestError(
            f"table '{path}' has one column only, {line.strip()[:60]!r}; columns are separated by "
            "commas, semicolons, tabs or |"
        )
    return names, delimiter, number + 1


def _cell(text: str) -> str:
    """A cell without blanks around it; whole numbers as such, what pandas writes for nothing as nothing."""
    text = text.strip()
    if text.lower() == "nan":
        return ""
    return text[: text.index(".")] if _WHOLE.fullmatch(text) else text


def _parquet_schema(path: Path) -> Any:
    import pyarrow
    from pyarrow import parquet

    if not path.is_file():
        raise RequestError(f"table '{path}' does not exist")
    try:
        return parquet.read_schema(path)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise RequestError(f"table '{path}' cannot be read as Parquet ({reason})") from error


def _parquet(path: Path) -> Sheet:
    import pyarrow
    from pyarrow import parquet

    schema = _parquet_schema(path)
    flat = [name for name, kind in zip(schema.names, schema.types, strict=True) if not pyarrow.types.is_nested(kind)]
    try:
        table = parquet.read_table(path, columns=flat)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise RequestError(f"table '{path}' cannot be read as Parquet ({reason})") from error
    columns = [[_value(value) for value in column] for column in _lists(table)]
    rows = zip(*columns, strict=True) if columns else iter(())
    return Sheet(path, tuple(flat), tuple(enumerate(rows, 1)))


def _lists(found: Any) -> Iterable[list[object]]:
    return (found.column(index).to_pylist() for index in range(found.num_columns))


def _value(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return _cell(value.decode(errors="replace") if isinstance(value, bytes) else str(value))
