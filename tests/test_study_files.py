"""Files of cells at addresses that fsspec knows, and in folders."""

from __future__ import annotations

import builtins
import contextlib
import pickle
import sqlite3
import subprocess
import sys
import traceback

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from secateur.cli.main import run as command
from secateur.core.errors import RequestError, SecateurError
from secateur.experiments import Here, Result, Store, opened_store, run
from secateur.experiments.artefacts import Address, Folder, place_at
from tiny_study import SquareCell, TinyStudy, tiny

CELL = SquareCell(number=1)
ROWS = Result({"squares": [{"number": 1, "square": 1.0}]}, {"square.txt": b"1.0"})
SECRET = "hush-hush"


class Shelf(MemoryFileSystem):
    """An object store that counts what is put into it, and can be locked."""

    protocol = "shelf"
    store: dict = {}
    pseudo_dirs = [""]
    puts: list = []
    locked = False

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("shelf://", "memory://"))

    def pipe_file(self, path, value, **options):
        if type(self).locked:
            raise PermissionError(f"no access for shelf://me:{SECRET}@{path}, try {SECRET}")
        type(self).puts.append(path)
        super().pipe_file(path, value, **options)


@pytest.fixture(autouse=True)
def shelf():
    fsspec.register_implementation("shelf", Shelf, clobber=True)
    Shelf.store, Shelf.pseudo_dirs, Shelf.puts, Shelf.locked = {}, [""], [], False
    return Shelf


def small(path, files=None, **options):
    return Store(path, "tiny", 1, TinyStudy.tables, files, **options)


def kept(store):
    store.start([("abc", CELL)], {})
    store.finish("abc", ROWS, 0.0, 1.0)
    return store.artefact("abc", "square.txt")


def rows(path, query):
    with contextlib.closing(sqlite3.connect(path)) as database:
        return database.execute(query).fetchall()


@pytest.mark.parametrize(
    "address", ["shelf://bucket/some/folder", "memory://bucket/some", "{folder}", "file://{folder}"]
)
def test_files_come_back_from_any_address(tmp_path, address, monkeypatch):
    path, files = tmp_path / "cells.sqlite", address.format(folder=tmp_path / "far")
    with small(path, files) as store:
        assert kept(store) == b"1.0"
    assert not (tmp_path / "cells.files").exists()
    with small(path) as store:  # what was named is kept for later runs
        assert store.artefact("abc", "square.txt") == b"1.0"
        found = pickle.loads(pickle.dumps(store.results(["abc"])["abc"]))
        assert dict(found.artefacts) == {"square.txt": b"1.0"}
    with small(path, tmp_path / "others") as store:  # where files were is kept with each
        assert store.artefact("abc", "square.txt") == b"1.0"
        store.finish("abc", ROWS, 0.0, 1.0)
    assert rows(path, "SELECT path FROM artefacts") == [(str(tmp_path / "others/ab/abc/square.txt"),)]


def test_files_beside_a_store_are_found_when_later_ones_go_elsewhere(tmp_path):
    with small(tmp_path / "cells.sqlite") as store:
        kept(store)
    with small(tmp_path / "cells.sqlite", "shelf://bucket") as store:
        assert store.artefact("abc", "square.txt") == b"1.0"


def test_an_object_store_gets_one_put_a_file_and_damage_is_seen(tmp_path, shelf):
    with small(tmp_path / "cells.sqlite", "shelf://bucket/folder") as store:
        kept(store)
        assert shelf.puts == ["/bucket/folder/.writable", "/bucket/folder/ab/abc/square.txt"]
        system = fsspec.filesystem("shelf")
        assert system.find("/") == ["/bucket/folder/ab/abc/square.txt"]  # nothing else stays
        system.pipe_file("/bucket/folder/ab/abc/square.txt", b"2.0")
        with pytest.raises(SecateurError, match="'shelf://bucket/folder/ab/abc/square.txt' is not what was written"):
            store.artefact("abc", "square.txt")
        system.rm_file("/bucket/folder/ab/abc/square.txt")
        with pytest.raises(SecateurError, match="cannot be read .FileNotFoundError.*run cell abc again"):
            store.artefact("abc", "square.txt")


def test_an_address_that_cannot_be_written_is_refused_before_any_work(tmp_path, shelf, capsys, monkeypatch):
    shelf.locked = True
    monkeypatch.setenv("TINY_LOG", str(tmp_path / "log.txt"))
    code = command(["study", "run", "tiny", "--out", str(tmp_path / "out"), "--files", f"shelf://me:{SECRET}@bucket"])
    error = capsys.readouterr().err.splitlines()[-1]
    assert code == 2
    assert "files cannot be written to 'shelf://me:***@bucket' (PermissionError: no access for" in error
    assert SECRET not in error
    assert not (tmp_path / "log.txt").exists()
    assert not (tmp_path / "out" / "cells.sqlite").exists()
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match="cannot write to folder"):
        small(tmp_path / "cells.sqlite", tmp_path / "file" / "below")


def test_an_address_that_fails_later_stops_the_run_in_one_line(tmp_path, shelf):
    class Locking(Here):
        def work(self, study, jobs):
            for done in super().work(study, jobs):
                yield done
                shelf.locked = True

    path, study = tmp_path / "cells.sqlite", tiny()
    with opened_store(path, study, f"shelf://me:{SECRET}@bucket") as store:
        with pytest.raises(
            SecateurError, match="cannot write 'shelf://me:...@bucket/.*what is finished is kept"
        ) as raised:
            run(study, store, Locking(), progress=False)
        assert SECRET not in "".join(traceback.format_exception(raised.value))
        shelf.locked = False
        outcome = run(study, store, progress=False)
        assert (outcome.made, outcome.found) == (5, 1)


RESNET = ["--model", "resnet20", "--allow-untrained", "--set", "model.arguments={width: 2}", "--device", "cpu"]
COMMANDS = {
    "study": ["study", "run", "tiny"],
    "optimise": ["optimise", "--recipe", "search-cifar10"],
    "compare": ["compare", *RESNET, "--set", "compare.timing.repeats=0", "--criterion", "weight", "--budget", "0.5"],
    "grid": ["toy", "grid", "--dataset", "moon", "--seeds", "1"],
}
"""All that run a study in a store."""


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    file, generator = tmp_path_factory.mktemp("data") / "tiny.npz", np.random.default_rng(0)
    arrays = {}
    for split in ("train", "val", "test"):
        arrays[f"{split}_images"] = generator.integers(0, 256, (120, 8, 8, 3), np.uint8)
        arrays[f"{split}_labels"] = np.arange(120) % 10
    np.savez(file, **arrays)
    return file


def started(name, images, *more):
    """Exit code of a command."""
    data = ["--data", str(images)] if name in ("optimise", "compare") else []
    return command([*COMMANDS[name], *data, *map(str, more)])


@pytest.mark.parametrize("name", COMMANDS)
def test_a_dry_run_refuses_places_that_the_run_would(name, images, tmp_path, shelf, capsys, monkeypatch):
    pytest.importorskip("optuna")
    pytest.importorskip("sklearn")
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path / "cache"))
    out, other = tmp_path / "out", tmp_path / "other.sqlite"
    small(other).close()
    with contextlib.closing(sqlite3.connect(other)) as database, database:
        database.execute("UPDATE store SET value = 'another' WHERE key = 'study'")
    shelf.locked = True
    refused = [
        (["--files", f"shelf://me:{SECRET}@bucket"], "files cannot be written to 'shelf://me:***@bucket'"),
        (["--store", other], "holds the study 'another'"),
        (["--store", "mysql://host/name"], "a store cannot be on mysql"),
        (["--store", "/dev/null/cells.sqlite"], "cannot write to folder '/dev/null'"),
        (["--address", "127.0.0.1:1"], "add --executor ray"),
    ]
    for more, message in refused:
        for dry in (["--dry-run"], []):
            assert started(name, images, "--out", out, *more, *dry) == 2, (more, dry)
            error = capsys.readouterr().err.splitlines()[-1]
            assert (message in error or "/dev/null" in str(more), SECRET in error) == (True, False), error
    assert [path for path in out.rglob("*") if path.is_file()] == [], "nothing was worked on"


@pytest.mark.parametrize("name", ["study", "grid", "compare"])
def test_a_dry_run_makes_nothing_and_says_where_results_go(name, images, tmp_path, shelf, capsys, monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path / "cache"))
    store = tmp_path / "there" / "cells.sqlite"
    more = ["--out", tmp_path / "out", "--store", store, "--files", f"shelf://me:{SECRET}@bucket"]
    assert started(name, images, *more, "--dry-run") == 0
    expected = f"results: {tmp_path / 'out'}; store: {store}; files of cells: shelf://me:***@bucket"
    assert expected in capsys.readouterr().out.splitlines()
    assert not (tmp_path / "out").exists()
    assert not store.parent.exists()
    assert fsspec.filesystem("shelf").find("/") == [], "the file that was put to see whether one can is gone"
    started(name, images, "--out", tmp_path / "out", "--executor", "ray", "--address", "ray://head:1", "--dry-run")
    error = capsys.readouterr().err
    assert "give HOST:PORT" in error or "not installed" in error, error


@pytest.mark.slow
def test_a_comparison_is_kept_where_its_flags_say(images, tmp_path, capsys):
    store, files = tmp_path / "there" / "cells.sqlite", tmp_path / "files"
    more = ["--out", tmp_path / "out", "--store", store, "--files", files, "--set", "compare.sampling.per_class=1"]
    assert started("compare", images, *more) == 0, capsys.readouterr().err
    assert "0 found in" in capsys.readouterr().out
    assert rows(store, "SELECT value FROM store WHERE key = 'files'") == [(str(files),)]
    assert not (tmp_path / "out" / "cells.sqlite").exists()
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("nokind://bucket", "'nokind://bucket' is no kind of address that fsspec knows; give a folder"),
        ("file://host/folder", "names no folder of this machine; give file:///FOLDER"),
        ("file:///", "names no folder of this machine"),
    ],
)
def test_addresses_that_nobody_knows_are_refused(address, message, tmp_path, capsys):
    for more in ([], ["--dry-run"]):
        out = tmp_path / "out"
        code = command(["study", "run", "tiny", "--out", str(out), "--files", address, *more])
        assert code == 2
        assert message in capsys.readouterr().err
        assert not (out / "cells.sqlite").exists()


def test_a_kind_whose_package_is_missing_says_so(monkeypatch):
    whole = builtins.__import__

    def lacking(name, *arguments, **options):
        if name.partition(".")[0] == "s3fs":
            raise ImportError("No module named 's3fs'")
        return whole(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", lacking)
    with pytest.raises(RequestError, match="files at 's3://bucket' need a package that is not installed: .*s3fs"):
        place_at("s3://bucket")


def test_status_needs_no_package_for_the_kind_of_files(tmp_path, capsys):
    with opened_store(tmp_path / "cells.sqlite", tiny(), "shelf://bucket") as store:
        run(tiny(), store, progress=False)
    with contextlib.closing(sqlite3.connect(tmp_path / "cells.sqlite")) as database, database:
        database.execute("UPDATE store SET value = 'nokind://bucket' WHERE key = 'files'")
    assert command(["study", "status", "--out", str(tmp_path)]) == 0
    assert command(["study", "results", "--out", str(tmp_path)]) == 0
    capsys.readouterr()
    assert command(["study", "run", "tiny", "--out", str(tmp_path)]) == 2
    assert "'nokind://bucket' is no kind of address" in capsys.readouterr().err


def test_a_plain_folder_needs_no_fsspec(tmp_path):
    code = (
        "import sys; sys.modules['fsspec'] = None\n"
        "from secateur.experiments.artefacts import place_at\n"
        f"for name in ({str(tmp_path)!r}, {tmp_path.as_uri()!r}):\n"
        "    place = place_at(name); place.check(); place.write('a/b', b'1'); assert place.read('a/b') == b'1'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_secrets_of_addresses_are_used_and_never_kept(tmp_path, capsys, shelf):
    out, address = tmp_path / "out", f"shelf://me:{SECRET}@bucket/files"
    assert command(["study", "run", "tiny", "--out", str(out), "--files", address]) == 0
    assert f"/me:{SECRET}@bucket/files" in shelf.puts[-1]  # it came to where it was needed
    assert SECRET not in "".join(capsys.readouterr())
    written = [path for path in out.rglob("*") if path.is_file()]
    assert not [path for path in written if SECRET.encode() in path.read_bytes()]
    assert rows(out / "cells.sqlite", "SELECT value FROM store WHERE key = 'files'") == [
        ("shelf://me:***@bucket/files",)
    ]
    assert command(["study", "run", "tiny", "--out", str(out)]) == 2
    assert "whose secret is not kept; give --files" in capsys.readouterr().err
    assert command(["study", "run", "tiny", "--out", str(out), "--files", address]) == 0
    assert "0 cells worked on, 6 found" in capsys.readouterr().out
    assert SECRET not in repr(place_at(address))
    assert SECRET not in str(place_at(address))


def test_places_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert place_at("files") == Folder(tmp_path / "files")
    assert place_at("memory://files") == Address("memory://files")
