"""Files that are whole or absent: temporary name, fsync, rename.

What a killed program leaves is removed by the next write to the same folder (`secateur.core.leftovers`).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from secateur.core.errors import RequestError, SecateurError
from secateur.core.leftovers import Names, claimed

_EXCHANGES = 100  # of one folder by several writers at the same time


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is synced and renamed, else removed.

    Raises:
        SecateurError: when the disk is full or the folder cannot be written.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "a.txt"
        >>> with atomic_path(target) as temporary:
        ...     _ = temporary.write_text("whole")
        >>> target.read_text()
        'whole'
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with claimed(target) as names:
            names.part.touch(mode=0o600, exist_ok=False)
            yield names.part
            _sync_file(names.part)
            names.part.chmod(0o644)
            names.part.replace(target)
    except OSError as error:
        raise _cannot_write(target, error) from error
    _sync_folder(target.parent)


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; on success it takes its place as a whole.

    An existing folder is replaced only when the new one is complete, and put back when the exchange fails.
    Everything in it goes: callers see to it that it is theirs.

    Raises:
        RequestError: when ``path`` is a file.
        SecateurError: when the disk is full or the parent folder cannot be written.
    """
    target = Path(path)
    try:
        if target.exists() and not target.is_dir():
            raise RequestError(f"'{target}' is a file where a folder is to be written; choose another name")
        target.parent.mkdir(parents=True, exist_ok=True)
        with claimed(target) as names:
            names.part.mkdir(mode=0o700)
            yield names.part
            for entry in sorted(names.part.rglob("*")):
                if entry.is_file():
                    _sync_file(entry)
                else:
                    _sync_folder(entry)
            _sync_folder(names.part)
            names.part.chmod(0o755)
            _exchange(names)
    except OSError as error:
        raise _cannot_write(target, error) from error
    _sync_folder(target.parent)


def _exchange(names: Names) -> None:
    """Put the new folder in the place of the old one."""
    for attempt in range(_EXCHANGES):
        # a folder that is not empty cannot be renamed over, so the old one steps aside first
        if names.target.exists():
            names.old.mkdir(exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # another writer of the same folder was faster
                names.target.replace(names.old / f"was{attempt or ''}")
        try:
            names.part.replace(names.target)
            return
        except OSError as error:
            # another writer of the same folder was faster: its folder is the old one now
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or attempt == _EXCHANGES - 1:
                raise


def _cannot_write(target: Path, error: OSError) -> SecateurError:
    reason = error.strerror or str(error)
    return SecateurError(
        f"cannot write '{target}' ({reason}); nothing there was changed, free space or choose another place"
    )


def _sync_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    # makes the rename itself durable; some systems cannot sync folders, and the files are whole without it
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def ensure_folder(path: str | Path) -> Path:
    """Make a folder for results before long work begins.

    Raises:
        RequestError: when it cannot be made or written to.

    Example:
        >>> import tempfile
        >>> ensure_folder(Path(tempfile.mkdtemp()) / "out").is_dir()
        True
    """
    target = Path(path)
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target):
            return target
    except OSError as error:
        raise RequestError(
            f"cannot write to folder '{target}' ({error.strerror or error}); choose another place"
        ) from error


def check_writable(path: str | Path) -> None:
    """See that a folder for results can be made and written to; nothing is left behind.

    Raises:
        RequestError: when it cannot, or is a file.

    Example:
        >>> check_writable(Path(tempfile.gettempdir()) / "results" / "today")
    """
    target = Path(path)
    home = Path(os.path.abspath(target))  # noqa: PTH100 - links stay as they are
    while not home.exists() and home != home.parent:
        home = home.parent
    try:
        with tempfile.TemporaryFile(dir=home):
            return
    except OSError as error:
        raise RequestError(
            f"cannot write to folder '{target}' ({error.strerror or error}: '{home}'); choose another place"
        ) from error


def write_text(path: str | Path, text: str) -> Path:
    """Write a UTF-8 text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def write_json(path: str | Path, value: Any) -> Path:
    """Write JSON atomically.

    Raises:
        SecateurError: for NaN or infinity, which other readers refuse, or when the file cannot be written.
    """
    try:
        text = json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False)
    except ValueError as error:
        raise SecateurError(f"cannot write '{path}' as JSON: it holds NaN or infinity ({error})") from error
    return write_text(path, text + "\n")


def read_json(path: str | Path) -> Any:
    """Read JSON; a missing or broken file raises `RequestError` naming it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RequestError(f"'{path}' does not exist") from error
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(f"'{path}' is not readable JSON ({error})") from error


def sha256(path: str | Path) -> str:
    """Hex SHA-256 of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder(name: str) -> Path:
    """Where things that can be made again are kept between runs; made by the first write.

    ``SECATEUR_CACHE``, else ``secateur`` in the user's cache (``XDG_CACHE_HOME``, else ``~/.cache``).

    Example:
        >>> cache_folder("toy").name
        'toy'
    """
    given = os.environ.get("SECATEUR_CACHE")
    if given:
        return Path(given).expanduser() / name
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "secateur" / name
