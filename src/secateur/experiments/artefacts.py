"""Files that cells give: in a folder, or at any address that fsspec knows, such as ``s3://bucket/folder``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit
from urllib.request import url2pathname

from secateur.core.addresses import argument_without_secrets, hidden_secrets
from secateur.core.errors import RequestError, SecateurError
from secateur.core.extras import check_installed
from secateur.core.files import atomic_path, check_writable, ensure_folder

_WITHOUT_FOLDERS = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oci", "oss", "memory"})
"""Kinds of addresses where a folder is a part of names: what looks like making one would make a bucket."""

_PROBE = ".writable"
"""Name of the file that shows that an address can be written."""


_NO_PART_OF_NAMES = frozenset('/\\:*?"<>|#%')
"""Separators of folders and of chained addresses, and what a file system or an address takes for something else."""

_LONGEST_NAME = 200
"""Bytes of UTF-8; file systems take 255, of which a temporary name needs some."""


def check_name(name: str) -> None:
    """Refuse what is no name of a file everywhere: in folders of any system, and as the end of an address.

    Raises:
        SecateurError: saying which names there can be.

    Example:
        >>> check_name("relevance map, ε.npz")
        >>> check_name("../seed.npz")
        Traceback (most recent call last):
            ...
        secateur.core.errors.SecateurError: the work gave a file '../seed.npz'; give a name without a folder, of ...
    """
    long = len(name.encode(errors="replace")) > _LONGEST_NAME
    wrong = not name.isprintable() or not _NO_PART_OF_NAMES.isdisjoint(name) or name != name.strip()
    if wrong or long or not name.strip("."):
        said = f"{name[:40]}..." if len(name) > 40 else name
        raise SecateurError(
            f"the work gave a file {said.encode(errors='backslashreplace').decode()!r}; give a name without a folder, "
            f"of {_LONGEST_NAME} bytes at most and without any of {' '.join(sorted(_NO_PART_OF_NAMES))}"
        )


class Place(Protocol):
    """Where files are."""

    def check(self) -> None:
        """Refuse a place that cannot be written, by `RequestError`."""

    def write(self, path: str, data: bytes) -> None:
        """Write a file as a whole, by its path below the place; `SecateurError` where that fails."""

    def read(self, path: str) -> bytes:
        """Read one; `OSError` where that fails."""

    def stored(self, path: str) -> str:
        """A file, or with "" the place itself, as other runs find it, without secrets."""


@dataclass(frozen=True)
class Folder:
    """A folder that this host can reach.

    Attributes:
        path: of it.
    """

    path: Path

    def check(self) -> None:
        """See `Place.check`; the folder is made."""
        ensure_folder(self.path)

    def write(self, path: str, data: bytes) -> None:
        """See `Place.write`: under a temporary name, which is then changed."""
        with atomic_path(self.path / path) as temporary:
            temporary.write_bytes(data)

    def read(self, path: str) -> bytes:
        """See `Place.read`."""
        return (self.path / path).read_bytes()

    def stored(self, path: str) -> str:
        """See `Place.stored`."""
        return str(self.path.absolute() / path)


@dataclass(frozen=True)
class Address:
    """An address that fsspec knows.

    Attributes:
        address: perhaps with a password, which is never shown or stored.
    """

    address: str = field(repr=False)

    def check(self) -> None:
        """See `Place.check`: a small file is written and deleted."""
        try:
            self._put(_PROBE, b"")
        except Exception as error:  # noqa: BLE001 - each kind of address has errors of its own
            reason, cause = self._reason(error)
            raise RequestError(
                f"files cannot be written to '{self}' ({reason}); see to its credentials, or give another --files"
            ) from cause
        try:
            system, path = self._at(_PROBE)
            system.rm_file(path)
        except Exception:  # noqa: BLE001 - who may write need not be one who may delete
            return

    def write(self, path: str, data: bytes) -> None:
        """See `Place.write`: in one call, which object stores show when it is whole."""
        try:
            self._put(path, data)
        except Exception as error:  # noqa: BLE001 - see above
            reason, cause = self._reason(error)
            raise SecateurError(
                f"cannot write '{self.stored(path)}' ({reason}); what is finished is kept, see to the address and run "
                "the same command again"
            ) from cause

    def read(self, path: str) -> bytes:
        """See `Place.read`."""
        try:
            system, whole = self._at(path)
            data: bytes = system.cat_file(whole)
        except Exception as error:  # noqa: BLE001 - see above
            reason, cause = self._reason(error)
            raise OSError(None, reason) from cause
        return data

    def stored(self, path: str) -> str:
        """See `Place.stored`."""
        address = argument_without_secrets(self.address).rstrip("/")
        return f"{address}/{path}" if path else address

    def __str__(self) -> str:
        return self.stored("")

    def _put(self, path: str, data: bytes) -> None:
        system, whole = self._at(path)
        try:
            system.pipe_file(whole, data)
        except FileNotFoundError:
            if self.address.partition("://")[0].rpartition("::")[2] in _WITHOUT_FOLDERS:
                raise
            system.makedirs(whole.rpartition("/")[0], exist_ok=True)
            system.pipe_file(whole, data)

    def _at(self, path: str) -> tuple[Any, str]:
        """The file system, and a path on it."""
        from fsspec.core import url_to_fs

        system, root = url_to_fs(self.address)
        return system, f"{root.rstrip('/')}/{path}" if path else root

    def _reason(self, error: Exception) -> tuple[str, Exception | None]:
        """In one line without secrets; and the error, unless it has some."""
        said = " ".join(str(error).split())
        reason = hidden_secrets(said, self.address)
        name = type(error).__name__
        return f"{name}: {reason}" if reason else name, error if reason == said else None


def place_at(files: str | Path) -> Place:
    """A folder, or what an address names.

    Raises:
        RequestError: for a kind of address that is not known, or whose package is not installed.

    Example:
        >>> place_at("file:///tmp/files")
        Folder(path=PosixPath('/tmp/files'))
    """
    text = str(files)
    kind, separator, _ = text.partition("://")
    if not separator:
        return Folder(Path(text).absolute())
    if kind == "file":
        parts = urlsplit(text)
        if parts.netloc not in ("", "localhost") or not parts.path.strip("/"):
            raise RequestError(
                f"'{argument_without_secrets(text)}' names no folder of this machine; give file:///FOLDER"
            )
        return Folder(Path(url2pathname(parts.path)))
    found = Address(text)
    check_installed("fsspec", "files", f"files at '{found}'")
    from fsspec import available_protocols, get_filesystem_class

    for name in kind.split("::"):
        try:
            get_filesystem_class(name)
        except ImportError as error:
            raise RequestError(f"files at '{found}' need a package that is not installed: {error}") from error
        except ValueError as error:
            kinds = "s3, gs, abfs, sftp"
            more = len(available_protocols())
            raise RequestError(
                f"'{found}' is no kind of address that fsspec knows; give a folder, or one of {more} kinds such as "
                f"{kinds}"
            ) from error
    return found


def check_files(files: str | Path) -> None:
    """Refuse a place that cannot be written, without making it.

    At an address a small file is written and deleted again; object stores have no other way to say so.

    Raises:
        RequestError: naming it.
    """
    place = place_at(files)
    if isinstance(place, Folder):
        check_writable(place.path)
    else:
        place.check()


@dataclass(frozen=True)
class KeptFile:
    """A file that a cell gave.

    Attributes:
        cell: its identity.
        place: where it is.
        path: below that.
        sha256: of its content, when it was written.
    """

    cell: str
    place: Place
    path: str
    sha256: str

    def __str__(self) -> str:
        return self.place.stored(self.path)

    def read(self) -> bytes:
        """Its content.

        Raises:
            SecateurError: when it is missing, or not what was written.
        """
        try:
            data = self.place.read(self.path)
        except OSError as error:
            raise SecateurError(
                f"'{self}' cannot be read ({error.strerror}); run cell {self.cell[:12]} again"
            ) from error
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise SecateurError(f"'{self}' is not what was written; delete it and run cell {self.cell[:12]} again")
        return data


class KeptFiles(Mapping[str, bytes]):
    """Files of a cell by name, each read when it is asked for; other processes can have them.

    Args:
        files: by name.
    """

    def __init__(self, files: Mapping[str, KeptFile]) -> None:
        self._files = dict(files)

    def __getitem__(self, name: str) -> bytes:
        return self._files[name].read()

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)
