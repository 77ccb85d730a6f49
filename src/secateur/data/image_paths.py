"""Finds image files by the names in a table, within one folder only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from secateur.core.errors import RequestError
from secateur.data.folders import SUFFIXES


class ImageFinder:
    """Finds the image files of a table; each folder is listed once.

    Args:
        root: folder of the images; files outside of it are refused, also by links.
        extension: extension of names without one, e.g. "jpg"; None: that of the only image file with the name.

    Raises:
        RequestError: when there is no such folder.
    """

    def __init__(self, root: Path, extension: str | None = None) -> None:
        self.root = Path(os.path.abspath(root.expanduser()))  # noqa: PTH100 (links stay, ".." goes)
        if not self.root.is_dir():
            raise RequestError(f"folder of the images '{self.root}' does not exist; name it with data.table.root")
        self._resolved = self.root.resolve()
        self._extension = "" if extension is None else "." + extension.lower().lstrip(".")
        self._folders: dict[Path, _Folder] = {}

    def find(self, name: str) -> Path:
        """Find a file.

        Args:
            name: path from the root, or absolute; with or without extension, in either case.

        Raises:
            RequestError: for one that does not exist, could be several, or lies outside the root.
        """
        if not name:
            raise RequestError("no image is named")
        path = Path(os.path.normpath(self.root / name.replace("\\", "/")))
        if not path.is_relative_to(self.root):
            raise RequestError(
                f"image '{name}' lies outside of '{self.root}'; set data.table.root to a folder above it"
            )
        folder = self._folder(path.parent)
        matches = [path.name] if path.name in folder.links else folder.matches(path.name, self._extension)
        if not matches:
            raise RequestError(f"image '{name}' does not exist in '{self.root}'")
        if len(matches) > 1:
            raise RequestError(f"image '{name}' could be {' or '.join(sorted(matches))}; set data.table.extension")
        file = path.parent / matches[0]
        self._check_inside(file, folder.links[matches[0]] or folder.outside)
        if not file.is_file():
            raise RequestError(f"image '{name}' is no file")
        return file

    def name(self, file: Path) -> str:
        """Unique name of a file that was found: its path from the root."""
        return file.relative_to(self.root).as_posix()

    def name_of_missing(self, text: str) -> str:
        """Name that a file that is not there would have; without extension where nothing says which.

        Args:
            text: as `find` takes it.
        """
        path = Path(os.path.normpath(self.root / text.replace("\\", "/")))
        extension = "" if path.suffix.lower() in SUFFIXES else self._extension
        return Path(os.path.relpath(path, self.root)).as_posix() + extension

    def images(self, folder: Path) -> Iterator[Path]:
        """What is named as an image in a folder, sorted; `find` says whether it is one."""
        for name in sorted(self._folder(folder).links):
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                yield folder / name

    def _check_inside(self, file: Path, suspicious: bool) -> None:
        """Refuse a link that leads out of the root; files that are none are not looked at."""
        if suspicious and not file.resolve().is_relative_to(self._resolved):
            raise RequestError(
                f"image '{self.name(file)}' is a link out of '{self.root}' (to '{file.resolve()}'); put the file "
                "itself there, or set data.table.root to a folder that holds it"
            )

    def _folder(self, path: Path) -> _Folder:
        if path not in self._folders:
            self._folders[path] = _Folder(path, not path.resolve().is_relative_to(self._resolved))
        return self._folders[path]


class _Folder:
    """What a folder holds: each name, and whether it is a link."""

    def __init__(self, path: Path, outside: bool) -> None:
        self.outside = outside
        self.links: dict[str, bool] = {}
        if path.is_dir():
            with os.scandir(path) as entries:
                self.links = {entry.name: entry.is_symlink() for entry in entries}
        self._lower: dict[str, list[str]] = {}
        for name in self.links:
            lower = Path(name.lower())
            for key in {lower.name, lower.stem} if lower.suffix in SUFFIXES else {lower.name}:
                self._lower.setdefault(key, []).append(name)

    def matches(self, name: str, extension: str) -> list[str]:
        """Names that are meant by one that is not there as it stands."""
        if Path(name).suffix.lower() in SUFFIXES:
            return [each for each in self._lower.get(name.lower(), ()) if each.lower() == name.lower()]
        alike = self._lower.get(name.lower() + extension, [])
        return [each for each in alike if Path(each).stem == name] or alike
