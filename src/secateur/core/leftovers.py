"""Temporary names of writers, and what remains of them when a writer is killed.

A writer holds a lock (``flock``) on a file ``.NAME.TOKEN.writing`` beside its target for as long as it writes, and
makes only ``.NAME.TOKEN.part`` (the new content) and ``.NAME.TOKEN.old`` (the old folder during the exchange). The
system releases the lock when the process ends, however it ends: a lock that can be taken belongs to a dead writer, and
the next writer in the folder removes what it left, or puts an old folder back in its place. Where a file system or an
operating system has no such locks, nothing is ever removed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
    import fcntl

    _locks: Any = fcntl
except ImportError:  # Windows
    _locks = None

_LOCK = re.compile(r"\.(?P<name>.+)\.(?P<token>\w{8})\.writing", re.DOTALL)
_ATTEMPTS = 100


@dataclass(frozen=True)
class Names:
    """Temporary names of one writer.

    Attributes:
        target: what is written.
        part: the new content.
        old: folder for what was at ``target``.
    """

    target: Path
    part: Path
    old: Path

    @classmethod
    def of(cls, target: Path, token: str) -> Names:
        """The names beside ``target`` that a token gives."""
        start = f".{target.name}.{token}"
        return cls(target, target.with_name(f"{start}.part"), target.with_name(f"{start}.old"))

    def settle(self) -> bool:
        """Put an old folder back when nothing is in its place, and remove the rest; whether nothing is left."""
        if self.old.is_dir():
            for earlier in sorted(self.old.iterdir(), key=lambda path: (len(path.name), path.name), reverse=True):
                if not os.path.lexists(self.target):
                    # fails when another writer was faster: its content is newer
                    with contextlib.suppress(OSError):
                        earlier.rename(self.target)
            if os.path.lexists(self.target) or not any(self.old.iterdir()):
                shutil.rmtree(self.old, ignore_errors=True)
        if self.part.is_dir():
            shutil.rmtree(self.part, ignore_errors=True)
        else:
            self.part.unlink(missing_ok=True)
        return not (os.path.lexists(self.part) or os.path.lexists(self.old))


@contextlib.contextmanager
def claimed(target: Path) -> Iterator[Names]:
    """Temporary names for one writer; what dead writers left in the folder is removed before, its own afterwards.

    Args:
        target: file or folder that will be written; its parent exists.

    Raises:
        OSError: when nothing can be made there.
    """
    clear(target.parent)
    lock, descriptor = _locked(target)
    names = Names.of(target, lock.name[-len("12345678.writing") : -len(".writing")])
    try:
        yield names
    finally:
        try:
            if names.settle() and descriptor is not None:
                lock.unlink(missing_ok=True)
        finally:
            if descriptor is not None:
                os.close(descriptor)


def clear(folder: Path) -> None:
    """Remove what dead writers left in a folder; what cannot be removed stays for the next time."""
    if _locks is None:
        return
    try:
        entries = os.listdir(folder)  # noqa: PTH208 - names are enough, and folders may hold many
    except OSError:
        return
    for entry in entries:
        match = _LOCK.fullmatch(entry)
        if match:
            _clear(folder / entry, Names.of(folder / match["name"], match["token"]))


def _clear(lock: Path, names: Names) -> None:
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return  # another writer removed it, or it is another user's
    try:
        # a lock that is held, and a file system without locks, are OSErrors
        with contextlib.suppress(OSError):
            _locks.flock(descriptor, _locks.LOCK_EX | _locks.LOCK_NB)
            if _is_at(descriptor, lock) and names.settle():
                lock.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _locked(target: Path) -> tuple[Path, int | None]:
    """A new lock file beside ``target`` and its descriptor; without locks there is no file, and no descriptor."""
    for _ in range(_ATTEMPTS):
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".writing")
        lock = Path(name)
        try:
            if _locks is not None:
                _locks.flock(descriptor, _locks.LOCK_EX | _locks.LOCK_NB)
                if _is_at(descriptor, lock):
                    return lock, descriptor
        except BlockingIOError:
            pass  # another writer takes it for a leftover in this moment, and removes it
        except OSError:
            break
        except BaseException:
            os.close(descriptor)
            raise
        if _locks is None:
            break
        os.close(descriptor)
    else:
        raise OSError(f"no lock beside '{target}' in {_ATTEMPTS} attempts")
    os.close(descriptor)
    lock.unlink(missing_ok=True)
    return lock, None


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))  # noqa: PTH116 - the same call twice
    except FileNotFoundError:
        return False
