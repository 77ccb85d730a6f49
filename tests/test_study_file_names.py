"""Names of cells' files: inside their place or refused, back as they were or damage is found. By hypothesis."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import fsspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from secateur.core.errors import SecateurError
from secateur.experiments import Result, Store
from secateur.experiments.artefacts import check_name
from secateur.experiments.executors import checked
from tiny_study import SquareCell, TinyStudy, tiny

CELL = SquareCell(number=1)
SEPARATORS = st.sampled_from([*"/\\.\x00~ \né日", "..", "::", "://", "%2F", "$HOME", "A" * 120])
NAMES = st.one_of(
    st.text(max_size=30),
    st.lists(st.one_of(SEPARATORS, st.text(st.characters(codec="utf-8"), max_size=5)), max_size=5).map("".join),
    st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=260),
)
WRONG = [
    "", ".", "..", "...", "/etc/passwd", "../x", "a/b", "a\\b", "C:x", "a::b", "x\x00", "\ud800", "a" * 201, "é" * 101,
    " a", "a\n",
]  # fmt: skip


def files_below(folder):
    return {path for path in folder.rglob("*") if path.is_file()}


@contextlib.contextmanager
def places(kind):
    """A folder all of whose files are known, and the place of files in it, as it is given."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        (home / "store").mkdir()
        fsspec.filesystem("memory").store.clear()
        yield home, {"beside": None, "folder": home / "store" / "files", "memory": "memory://bucket/files"}[kind]


def kept_at(home, kind):
    """Files that were kept, by what is below their place; all others are the store's own."""
    if kind == "memory":
        found = {Path(path) for path in fsspec.filesystem("memory").find("/")}
        return {path.relative_to("/bucket/files") for path in found}
    place = home / "store" / ("cells.files" if kind == "beside" else "files")
    outside = [path for path in files_below(home) - files_below(place) if not path.name.startswith("cells.sqlite")]
    assert not outside, "nothing is written outside of the place"
    return {path.relative_to(place) for path in files_below(place)}


@pytest.mark.parametrize("kind", ["beside", "folder", "memory"])
@given(NAMES, st.binary(max_size=50), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
@example("..", b"", 0)
@example("", b"", 0)
@example("plot ε.svg", b"x", 0)
@example("-rf", b"x", 0)
@example("CON", b"x", 0)
def test_any_name_stays_inside_or_is_refused(kind, name, data, at):
    result = Result({"squares": [{"number": 1, "square": 1.0}]}, {name: data})
    with contextlib.ExitStack() as stack:
        home, files = stack.enter_context(places(kind))
        store = stack.enter_context(Store(home / "store" / "cells.sqlite", "tiny", 1, TinyStudy.tables, files))
        store.start([("abc", CELL)], {})
        try:
            checked(tiny(), result)
        except SecateurError:
            with pytest.raises(SecateurError):
                store.finish("abc", result, 0.0, 1.0)
            assert kept_at(home, kind) == set()
            return
        store.finish("abc", result, 0.0, 1.0)
        (path,) = kept_at(home, kind)
        assert path == Path("ab", "abc", name)
        assert store.artefact("abc", name) == data
        assert dict(store.results(["abc"])["abc"].artefacts) == {name: data}
        with Store(home / "store" / "cells.sqlite", "tiny", 1, TinyStudy.tables, reading=True) as again:
            assert again.artefact("abc", name) == data, "found by what the store has of it"
        for damaged in (data[: at % len(data)] if data else b"1", data + b"\0", flipped(data, at)):
            damage(home, kind, path, damaged)
            with pytest.raises(SecateurError, match="is not what was written"):
                store.artefact("abc", name)


def flipped(data, at):
    """With one bit changed."""
    changed = bytearray(data or b"1")
    if data:
        changed[at % len(changed)] ^= 1 << at % 8
    return bytes(changed)


def damage(home, kind, path, data):
    if kind == "memory":
        fsspec.filesystem("memory").pipe_file(f"/bucket/files/{path}", data)
    else:
        (home / "store" / ("cells.files" if kind == "beside" else "files") / path).write_bytes(data)


@pytest.mark.parametrize("name", WRONG)
def test_names_that_no_file_can_have_everywhere(name):
    with pytest.raises(
        SecateurError, match="^the work gave a file '.*'; give a name without a folder, of 200"
    ) as raised:
        check_name(name)
    assert str(raised.value).isprintable(), "in one line that every terminal takes"


@pytest.mark.parametrize("name", ["a", "a.b.c", ".hidden", "a" * 200, "日本", "map (1), ε=0.1.npz", "a+b@c~", "a b"])
def test_names_that_files_can_have(name):
    check_name(name)
