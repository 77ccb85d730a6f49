"""Decodes image files once into a memory-mapped array of resized images, which is kept between runs.

For each list of files (paths, sizes, modification times) and way of reading, the cache holds two files: ``KEY.npy``
with the images, and ``KEY.json`` with the files that were read and those that could not be. While images are decoded
they are appended to ``KEY.part.npy``, and ``KEY.json`` says every few hundred images how far it is, so that a run that
was killed continues from there. Images are written with plain writes, which raise an error on a full disk, where a
memory map would end the process. The part is locked as long as a process writes to it; other processes that want the
same images wait.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import PIL
from PIL import Image

from secateur.core.errors import RequestError, SecateurError
from secateur.core.files import cache_folder, ensure_folder, read_json, write_json
from secateur.core.interruption import keeping
from secateur.core.progress import announce, track
from secateur.data.images import read_pixels
from secateur.data.mapped import release
from secateur.data.settings import Resize
from secateur.data.table import PixelBox

try:
    import fcntl

    _locks: Any = fcntl
except ImportError:  # Windows
    _locks = None

T = TypeVar("T")
R = TypeVar("R")

_VERSION = 1
"""Version of how images are read and stored; with another one, all are decoded again."""

_FLUSHED = 500
"""Images after which those decoded so far are sure to be kept, and memory of those read is released."""

_NAMED = 5
"""Number of broken images that an error names in addition to the first."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """Images that were decoded from files.

    Attributes:
        images: uint8 [M, H, W, C], those that could be read, in order; opened for reading only.
        good: which of the files these are, bool [N].
        skipped: what is wrong with the others, one line each.
    """

    images: np.memmap
    good: np.ndarray
    skipped: tuple[str, ...] = ()

    def histogram(self, rows: Any) -> np.ndarray:
        """How often each value occurs in some of the images; counted in one pass, and kept.

        Args:
            rows: of ``images``, each counted as often as it is given.

        Returns:
            int64 [C, 256].
        """
        order = np.sort(np.arange(len(self.images))[rows])
        digest = hashlib.sha256(order.astype("<i8").tobytes()).hexdigest()[:16]
        file = Path(str(self.images.filename)).with_suffix(f".{digest}.json")
        with contextlib.suppress(RequestError):
            return np.array(read_json(file)["histogram"], np.int64)
        channels = self.images.shape[-1]
        counts = np.zeros((channels, 256), np.int64)
        for number, row in enumerate(track(order, "measuring images"), 1):
            picture = Image.fromarray(self.images[row, ..., 0] if channels == 1 else self.images[row])
            counts += np.reshape(picture.histogram(), counts.shape)
            if number % _FLUSHED == 0:
                release(self.images)
        with contextlib.suppress(SecateurError):  # a cache that others fill need not be writable
            write_json(file, {"images": len(order), "histogram": counts.tolist()})
        return counts


@dataclass
class _State:
    """How far decoding is: ``KEY.json``."""

    files: int
    shape: tuple[int, ...]
    source: str
    done: int = 0
    skipped: dict[int, str] = field(default_factory=dict)

    @property
    def kept(self) -> int:
        """Images that were written."""
        return self.done - len(self.skipped)

    def header(self, count: int) -> bytes:
        """What precedes the pixels of ``count`` images in the file; its length does not depend on the count."""
        header = io.BytesIO()
        written = {"descr": "|u1", "fortran_order": False, "shape": (count, *self.shape)}
        np.lib.format.write_array_header_1_0(header, written)
        return header.getvalue()

    def size(self) -> int:
        """Bytes of the file so far."""
        return len(self.header(0)) + self.kept * int(np.prod(self.shape))

    def read(self, file: Path) -> None:
        """Take over how far an earlier run has come, where that can be read."""
        with contextlib.suppress(RequestError, KeyError, TypeError, ValueError, AttributeError):
            kept = read_json(file)
            self.done, self.skipped = int(kept["done"]), {int(row): str(why) for row, why in kept["skipped"].items()}

    def write(self, file: Path) -> None:
        """Keep it."""
        counts = {"version": _VERSION, "source": self.source, "files": self.files, "done": self.done}
        write_json(file, {**counts, "images": self.kept, "shape": list(self.shape), "skipped": self.skipped})


def decoded_images(
    paths: Sequence[str | Path],
    resize: Resize,
    channels: int = 3,
    *,
    on_bad: str = "fail",
    where: Sequence[str] = (),
    window: tuple[float, float] | None = None,
    boxes: Sequence[PixelBox] | None = None,
    workers: int = 0,
) -> Decoded:
    """Image files as one memory-mapped array of resized images, decoded by the first call and stored for later ones.

    The images are those of `secateur.data.images.read_image`, byte by byte.

    Args:
        paths: of the files, [N].
        resize: size that images are given.
        channels: 1 (grey) or 3 (RGB).
        on_bad: what an unreadable file means: ``fail`` or ``skip``.
        where: what messages call each file, "table.csv row 17" say, [N]; empty: by its path alone.
        window: see `secateur.data.images.read_pixels`.
        boxes: what is cut out of each image before it is resized, [N]; None: nothing is.
        workers: threads that decode; 0: as many as there are cores.

    Returns:
        The images that could be read.

    Raises:
        RequestError: for unreadable files where ``on_bad`` is ``fail``, when no file can be read, or when the folder
            of the cache cannot be written.
        SecateurError: when the disk is full, or files change while they are read.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> folder = Path(tempfile.mkdtemp())
        >>> os.environ["SECATEUR_CACHE"] = str(folder / "cache")
        >>> Image.new("RGB", (12, 8), "red").save(folder / "red.png")
        >>> (folder / "text.png").write_text("no image")
        8
        >>> decoded = decoded_images([folder / "text.png", folder / "red.png"], Resize(size=4), on_bad="skip")
        >>> decoded.images.shape, decoded.good.tolist(), len(decoded.skipped)
        ((1, 4, 4, 3), [False, True], 1)
        >>> del os.environ["SECATEUR_CACHE"]
    """
    files = [os.path.abspath(path) for path in paths]  # noqa: PTH100 - links stay as they are
    if not files:
        raise RequestError("there are no images to decode")
    if where and len(where) != len(files):
        raise RequestError(f"{len(files)} images but {len(where)} names of their rows")
    how = f"{_VERSION} Pillow {PIL.__version__} {resize} {channels} {window}{'' if boxes is None else f' {boxes}'}"
    cut = {} if boxes is None else dict(zip(files, boxes, strict=True))
    target = cache_folder("images") / f"{_key(files, how)}.npy"
    state = _State(len(files), (resize.side, resize.side, channels), _source(files))
    images = _opened(target, state)
    if images is None:
        _decode(
            files, lambda file: read_pixels(Path(file), channels, resize, window, cut.get(file)), target, state, workers
        )
        if _key(files, how) != target.stem:
            _remove(target)
            raise SecateurError(f"image files in '{state.source}' changed while they were read; start again")
        images = _opened(target, state)
    if images is None:
        raise SecateurError(f"decoded images '{target}' were changed by something else; remove the file, start again")
    return _checked(images, state, files, where, on_bad)


def _checked(images: np.memmap, state: _State, files: Sequence[str], where: Sequence[str], on_bad: str) -> Decoded:
    """What is returned, or the refusal of broken files."""
    bad = sorted(state.skipped)
    lines = [f"{where[row]}: {state.skipped[row]}" if where else state.skipped[row] for row in bad]
    if bad and (on_bad == "fail" or not state.kept):
        more = f"; {len(bad) - 1} more of {state.files:,} images cannot be read" if len(bad) > 1 else ""
        if 1 < len(bad) <= 1 + _NAMED:
            more += ": " + ", ".join(where[row] if where else f"'{Path(files[row]).name}'" for row in bad[1:])
        raise RequestError(lines[0] + more)
    good = np.ones(state.files, bool)
    good[bad] = False
    return Decoded(images, good, tuple(lines))


def _key(files: Sequence[str], how: str) -> str:
    """Identity of what is decoded: the way, and every file's path, size and time of change."""
    digest = hashlib.sha256(how.encode())
    for file in files:
        size, changed = -1, -1
        with contextlib.suppress(OSError, ValueError):  # what cannot be read is found out when it is read
            status = os.stat(file)  # noqa: PTH116 - many of them, and paths are slow to make
            size, changed = status.st_size, status.st_mtime_ns
        digest.update(os.fsencode(file) + f"\0{size}\0{changed}\n".encode())
    return digest.hexdigest()


def _source(files: Sequence[str]) -> str:
    """The folder that holds all files, or the first of them where they lie on several drives."""
    with contextlib.suppress(ValueError):
        return os.path.commonpath(files)
    return files[0]


def _opened(target: Path, state: _State) -> np.memmap | None:
    """The images of an earlier run, all of them, with its ``state``; None: there are none, or they are damaged."""
    if not target.exists():
        return None
    state.read(target.with_suffix(".json"))
    try:
        images = np.load(target, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    whole = state.done == state.files and images.dtype == np.uint8 and images.shape == (state.kept, *state.shape)
    return images if whole else None


def _remove(target: Path) -> None:
    for file in (target, target.with_suffix(".json")):
        file.unlink(missing_ok=True)


def _decode(files: Sequence[str], read: Callable[[str], np.ndarray], target: Path, state: _State, workers: int) -> None:
    """Write the images of ``files`` to ``target``, from where an earlier run stopped."""
    ensure_folder(target.parent)
    kept = "images decoded so far are kept; the same command goes on from there"
    try:
        with _claimed(target) as part:
            if _opened(target, state) is not None:  # another process has just done it
                _closed_without_locks(part)
                Path(part.name).unlink()
                return
            journal = target.with_suffix(".json")
            state.read(journal)
            if part.seek(0, io.SEEK_END) < state.size() or state.done > state.files:
                state.done, state.skipped = 0, {}
            _check_room(state, target.parent)
            part.truncate(state.size() if state.done else 0)
            part.seek(0, io.SEEK_END)
            if not state.done:
                part.write(state.header(state.files))
            with keeping(kept), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # once for all threads, which share what is ignored
                _append(files, read, part, state, journal, workers)
            part.seek(0)
            part.write(state.header(state.kept))
            _sync(part)
            _closed_without_locks(part)
            Path(part.name).replace(target)
    except OSError as error:
        raise SecateurError(
            f"cannot write decoded images to '{target.parent}' ({error.strerror or error}); free space, or set "
            "SECATEUR_CACHE to another folder"
        ) from error


def _append(
    files: Sequence[str],
    read: Callable[[str], np.ndarray],
    part: IO[bytes],
    state: _State,
    journal: Path,
    workers: int,
) -> None:
    def pixels(file: str) -> np.ndarray | str:
        try:
            return read(file)
        except RequestError as error:
            return str(error)

    Image.init()  # by several threads at once, it lets some of them miss formats
    decoded = _in_order(pixels, files[state.done :], workers or _cores())
    for image in track(decoded, "decoding images", state.files, done=state.done):
        if isinstance(image, str):
            state.skipped[state.done] = image
        else:
            part.write(image.data)
        state.done += 1
        if state.done % _FLUSHED == 0 or state.done == state.files:
            _sync(part)
            state.write(journal)


def _in_order(function: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """Results of threads in the order of the items; few are waiting at any time."""
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 4 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def _claimed(target: Path) -> Iterator[IO[bytes]]:
    """The part of ``target``, for this process alone; without locks it is a new one, and no later run goes on."""
    path = target.with_suffix(".part.npy" if _locks is not None else f".{os.getpid()}.part.npy")
    while True:
        with open(path, "r+b", opener=_made) as part:
            if _locks is None:
                part.truncate(0)
            else:
                _lock(part)
                if not _is_at(part, path):
                    continue  # the process that was waited for has finished it
            yield part
            return


def _made(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT, 0o644)


def _lock(part: IO[bytes]) -> None:
    try:
        _locks.flock(part, _locks.LOCK_EX | _locks.LOCK_NB)
    except BlockingIOError:
        announce("waiting for another process that decodes the same images")
        _locks.flock(part, _locks.LOCK_EX)


def _closed_without_locks(part: IO[bytes]) -> None:
    if _locks is None:
        part.close()  # open files can be neither renamed nor removed there


def _is_at(part: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(part.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _sync(part: IO[bytes]) -> None:
    part.flush()
    os.fsync(part.fileno())


def _check_room(state: _State, folder: Path) -> None:
    """Refuse what will not fit, before hours of work."""
    needed = (state.files - state.done) * int(np.prod(state.shape))
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise SecateurError(
            f"{state.files:,} decoded images need {needed / 1e9:.1f} GB in '{folder}', {free / 1e9:.1f} GB are free; "
            "free space, or set SECATEUR_CACHE to another folder"
        )
