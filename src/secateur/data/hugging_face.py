"""Data sets of Hugging Face's package ``datasets``: saved in a folder, or from its hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secateur.core.errors import RequestError, SecateurError
from secateur.core.extras import check_installed
from secateur.core.files import atomic_folder, cache_folder
from secateur.core.progress import track
from secateur.data.manifest import column_of
from secateur.data.settings import DataSettings
from secateur.data.table import SPLIT_NAMES, Faults, LabelledTable, Row, table_of

_MARKS = ("dataset_dict.json", "state.json")


def check_hugging_face(settings: DataSettings) -> None:
    """Refuse a data set that is not there, by the names of files alone.

    Args:
        settings: with a source ``hf:PATH`` or ``hf:NAME``.

    Raises:
        RequestError: as said, or when the package is not installed.
    """
    name = settings.source.removeprefix("hf:")
    check_installed("datasets", "datasets", f"data '{settings.source}'")
    path = Path(name).expanduser()
    if not path.is_dir():
        if not settings.download:
            raise RequestError(
                f"'{name}' is no folder that datasets has saved (data '{settings.source}'); for a data set of the hub "
                "of this name set data.download=true"
            )
    elif not any((path / mark).is_file() for mark in _MARKS):
        raise RequestError(
            f"folder '{path}' was not written by datasets' save_to_disk: it has no {' or '.join(_MARKS)}"
        )


def read_hugging_face(settings: DataSettings) -> LabelledTable:
    """Read a data set of the package ``datasets``.

    The column of images and that of classes are those with features ``Image`` and ``ClassLabel``, unless
    ``data.table`` names others. The images are written as they are, once, into the cache.

    Args:
        settings: with a source ``hf:PATH`` or ``hf:NAME``.

    Raises:
        RequestError: for what is no data set of labelled images, and the first row that cannot be used, unless such
            are skipped.
        SecateurError: when the hub cannot be read.
    """
    check_hugging_face(settings)
    of, faults, notes = f"data '{settings.source}'", Faults(settings.on_bad_sample == "skip"), list[str]()
    parts = _known(_loaded(settings), of, notes)
    features = next(iter(parts.values())).features
    image = _column(of, features, settings, "path", "Image")
    label = _column(of, features, settings, "label", "ClassLabel")
    group = column_of(of, list(features), settings.table, "group", notes)
    class_names = getattr(features[label], "names", None)
    rows: list[Row] = []
    for split, part in parts.items():
        if getattr(part.features.get(label), "names", None) != class_names or image not in part.features:
            raise RequestError(f"{of} has other columns or classes in its split {split}")
        files = _written(part, image, split)
        labels = [_text(value, class_names) for value in part[label]]
        groups = [None] * len(part) if group is None else [_text(value) for value in part[group]]
        for index, (text, member) in enumerate(zip(labels, groups, strict=True)):
            where = f"{settings.source} {split} row {index}"
            if index not in files:
                faults.add(f"{where}: there is no image", f"{split}/{index:06d}")
                continue
            given = split if len(parts) > 1 else None
            rows.append(Row(f"{split}/{index:06d}", files[index], text, member, given, where))
    name = Path(settings.source.removeprefix("hf:")).expanduser().name
    return table_of(name, rows, faults, of=of, class_names=class_names, group_column=group, notes=notes)


def _known(parts: Mapping[str, Any], of: str, notes: list[str]) -> dict[str, Any]:
    """The splits whose names say what they are for; a single one is for training, whatever its name."""
    known = {split: part for split, part in parts.items() if split.lower() in SPLIT_NAMES}
    if len(parts) == 1:
        return {"train": next(iter(parts.values()))}
    if "train" not in {SPLIT_NAMES[split.lower()] for split in known}:
        raise RequestError(f"{of} has no split train; it has: {', '.join(parts)}")
    if others := [split for split in parts if split not in known]:
        notes.append(f"splits that are not used: {', '.join(others)}")
    return known


def _loaded(settings: DataSettings) -> dict[str, Any]:
    """The splits by name."""
    import datasets

    name = settings.source.removeprefix("hf:")
    path = Path(name).expanduser()
    try:
        loaded = datasets.load_from_disk(str(path)) if path.is_dir() else datasets.load_dataset(name)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        kind = RequestError if path.is_dir() or isinstance(error, ValueError) else SecateurError
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise kind(f"data '{settings.source}' cannot be read ({reason})") from error
    return dict(loaded) if isinstance(loaded, Mapping) else {"train": loaded}


def _column(of: str, features: Mapping[str, Any], settings: DataSettings, what: str, feature: str) -> str:
    """The column that is named, or the only one with a feature."""
    named: str | None = getattr(settings.table, what)
    if named is not None:
        column_of(of, list(features), settings.table, what, [])
        if what == "path" and type(features[named]).__name__ != feature:
            raise RequestError(f"{of}: column '{named}' has no feature {feature} (data.table.path)")
        return named
    fitting = [name for name, value in features.items() if type(value).__name__ == feature]
    if len(fitting) != 1:
        reason = (
            f"several columns with feature {feature}: {', '.join(fitting)}" if fitting else f"none; {_listed(features)}"
        )
        raise RequestError(f"{of} needs one column with feature {feature}, has {reason}; set data.table.{what}")
    return fitting[0]


def _listed(features: Mapping[str, Any]) -> str:
    return "columns: " + ", ".join(f"{name} ({type(value).__name__})" for name, value in features.items())


def _written(part: Any, column: str, split: str) -> dict[int, Path]:
    """Files of the images by row, with the bytes that the data set holds; written by the first call only."""
    import datasets

    folder = cache_folder("hf") / f"{part._fingerprint}-{split}"
    if not folder.is_dir():
        stored = part.select_columns([column]).cast_column(column, datasets.Image(decode=False))
        with atomic_folder(folder) as made:
            for index, row in enumerate(track(stored, f"writing images of {split}", len(part))):
                value = row[column]
                if value is None:
                    continue
                (made / f"{index:06d}{Path(value['path'] or '').suffix}").write_bytes(_content(value))
    return {int(file.stem): file for file in folder.iterdir() if file.stem.isdecimal()}


def _content(value: Mapping[str, Any]) -> bytes:
    """Bytes of an image, which a data set holds or names a file of."""
    if value["bytes"] is not None:
        return bytes(value["bytes"])
    try:
        return Path(value["path"]).read_bytes()
    except OSError as error:
        raise RequestError(f"image '{value['path']}' cannot be read ({error.strerror or error})") from error


def _text(value: object, class_names: list[str] | None = None) -> str:
    """A value as text, a class index as its name; -1 means no label."""
    if isinstance(value, int) and class_names is not None:
        return class_names[value] if 0 <= value < len(class_names) else ""
    return "" if value is None else str(value).strip()
