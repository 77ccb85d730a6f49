"""Writers that are killed leave the old or the new whole, and nothing that the next writer does not remove."""

from __future__ import annotations

import subprocess
import sys

import pytest

from secateur.core import leftovers
from secateur.core.files import atomic_folder, atomic_path, write_text

PREPARATION = """
import os, random, signal, sys, time
from pathlib import Path
from secateur.core.files import atomic_folder, write_text
home, rounds = Path(sys.argv[1]), int(sys.argv[2])
FILES = [f"file{n}" for n in range(4)]

def write(number):
    with atomic_folder(home / "bundle") as folder:
        for name in FILES:
            (folder / name).write_text(str(number) * 200)

def worker(work):
    pid = os.fork()
    if not pid:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return pid

def whole(folder):
    return {p.name for p in folder.iterdir()} == {*FILES} and len({(folder / n).read_text() for n in FILES}) == 1
"""

KILLED = (
    PREPARATION
    + """
def work():
    for number in range(10**6):
        write(number)
        write_text(home / "alone.txt", f"{number}" * 500)

source = random.Random(0)
write(-1)
left = 0
for number in range(rounds):
    # two write the same, and are killed at different moments
    pids = [worker(work) for _ in range(2)]
    for pid in pids:
        time.sleep(source.uniform(0.0, 0.03))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    old = [home / "bundle"] if (home / "bundle").exists() else list(home.glob(".bundle.*.old/was*"))
    assert any(map(whole, old)), sorted(p.name for p in home.iterdir())
    left += len(list(home.glob(".*")))
    if number % 2:
        write(-2 - number)
    else:
        write_text(home / "another.txt", "text")
    assert whole(home / "bundle")
    assert not [p.name for p in home.glob(".*")], sorted(p.name for p in home.iterdir())
print(left)
"""
)

TOGETHER = (
    PREPARATION
    + """
def work():
    for number in range(rounds):
        write(os.getpid())
        write_text(home / "alone.txt", "x" * 500)

pids = [worker(work) for _ in range(4)]
assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 4
assert whole(home / "bundle")
assert sorted(p.name for p in home.iterdir()) == ["alone.txt", "bundle"]
"""
)


def run(script, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


pytestmark = pytest.mark.skipif(leftovers._locks is None, reason="this system has no flock")


def test_killed_writers_lose_nothing_and_leave_nothing(tmp_path):
    assert int(run(KILLED, tmp_path, 12)) > 5  # there was something to remove


def test_writers_of_one_folder_do_not_disturb_each_other(tmp_path):
    run(TOGETHER, tmp_path, 6)


def test_what_a_live_writer_writes_stays(tmp_path):
    with atomic_folder(tmp_path / "bundle") as first:
        (first / "file").write_text("first")
        with atomic_path(tmp_path / "alone.txt") as alone:
            alone.write_text("alone")
            with atomic_folder(tmp_path / "bundle") as second:
                (second / "file").write_text("second")
            write_text(tmp_path / "other.txt", "other")
    assert (tmp_path / "bundle" / "file").read_text() == "first"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["alone.txt", "bundle", "other.txt"]


def test_an_old_folder_goes_back_to_its_place_before_anything_else(tmp_path):
    """The program died between the two renames, and the next save fails."""
    (tmp_path / ".bundle.abcdefgh.writing").touch()
    (tmp_path / ".bundle.abcdefgh.part").mkdir()
    (tmp_path / ".bundle.abcdefgh.old" / "was").mkdir(parents=True)
    (tmp_path / ".bundle.abcdefgh.old" / "was" / "file").write_text("old")

    def fails():
        with atomic_folder(tmp_path / "bundle"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fails()
    assert (tmp_path / "bundle" / "file").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_files_of_others_stay(tmp_path):
    names = [
        ".bundle.part",
        ".bundle.abc.part",
        ".bundle.abcdefgh.part",
        ".bundle.abcdefgh.old",
        ".x.writing",
        "a.writing",
    ]
    for name in names:
        (tmp_path / name).write_text("precious")
    write_text(tmp_path / "file.txt", "text")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*names, "file.txt"])


def test_without_locks_nothing_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(leftovers, "_locks", None)
    (tmp_path / ".bundle.abcdefgh.writing").touch()
    (tmp_path / ".bundle.abcdefgh.part").touch()
    write_text(tmp_path / "bundle", "text")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".bundle.abcdefgh.part", ".bundle.abcdefgh.writing", "bundle"]
