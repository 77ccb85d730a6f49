"""Studies on a Ray cluster of two nodes on this machine: the tables of one process, whatever is lost on the way."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from pandas.testing import assert_frame_equal

from secateur.core.errors import RequestError, SecateurError
from secateur.core.sections import RaySettings
from secateur.experiments import (
    Here,
    RayCluster,
    Resource,
    Resources,
    Store,
    executor_for,
    opened_store,
    ray_address,
    ray_cluster,
    run,
)
from tiny_study import Grid, TinySettings, TinyStudy, tiny

os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}  # read when Ray is imported
ray = pytest.importorskip("ray", reason="Ray comes with the ray extra")
DEADLY, BROKEN = 13, 17
KILLS = 20


def _path():
    """So that workers find the study of these tests."""
    return os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])


@contextlib.contextmanager
def two_nodes(cpus=1):
    """A cluster of two raylets on this machine, which ends with the context."""
    from ray.cluster_utils import Cluster

    logging.getLogger("ray").setLevel(logging.ERROR)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": cpus, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=cpus)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", _path())
        patch.setenv("TINY_DEADLY", str(DEADLY))  # workers have the environment of their nodes
        patch.setenv("TINY_BROKEN", str(BROKEN))
        patch.setenv("TINY_LOG", str(folder / "log.txt"))
        (folder / "log.txt").touch()
        with two_nodes() as made:
            made.log = folder / "log.txt"
            yield made


@pytest.fixture
def connected(cluster):
    with RayCluster(RaySettings(address=cluster.address, retries=1)) as executor:
        yield executor


def same(first, second):
    assert first.keys() == second.keys()
    for name, frame in first.items():
        assert_frame_equal(frame, second[name], check_exact=True)


def of_one_process(study):
    with Store("sqlite://", study.name, study.version, study.tables) as store, pytest.MonkeyPatch.context() as patch:
        for name in ("TINY_LOG", "TINY_DEADLY", "TINY_BROKEN", "TINY_SECONDS"):
            patch.delenv(name, raising=False)
        run(study, store)
        return store.frames()


def test_a_study_gives_the_tables_of_one_process(cluster, connected, tmp_path):
    study = tiny(*range(10))
    with opened_store(tmp_path / "cells.sqlite", study) as store:
        outcome = run(study, store, connected)
        assert (outcome.made, outcome.failures) == (20, [])
        same(store.frames(), of_one_process(study))
        assert run(study, store, connected).found == 20


@pytest.mark.slow
def test_equal_cells_of_another_study_have_results_of_their_own(connected, tmp_path):
    for exponent in (2.0, 3.0):
        study = tiny(1, 2, 3, exponent=exponent)
        with opened_store(tmp_path / f"{exponent}.sqlite", study) as store:
            run(study, store, connected)
            same(store.frames(), of_one_process(study))


@pytest.mark.slow
def test_a_lost_file_of_an_earlier_result_fails_the_cells_that_need_it_and_no_others(connected, tmp_path):
    path = tmp_path / "cells.sqlite"
    squares = TinyStudy(TinySettings(grid={"numbers": (1, 2, 3), "sums": False}))
    with opened_store(path, squares) as store:
        run(squares, store, connected)
    (lost,) = (file for file in path.with_suffix(".files").rglob("square.txt") if file.read_text() == "9.0")
    lost.unlink()
    with opened_store(path, tiny(1, 2, 3)) as store:
        outcome = run(tiny(1, 2, 3), store, connected)
        (failure,) = outcome.failures
        assert failure.cell == "up_to=3"
        assert "cannot be read" in failure.error


def test_all_results_that_are_there_are_taken_at_once(connected):
    references = [ray.put(number) for number in range(20)]
    assert sorted(connected._ready(references), key=str) == sorted(references, key=str)


@pytest.mark.parametrize("name", ["RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", None])
def test_a_cluster_for_one_run_gets_a_token_unless_the_environment_says_otherwise(name, monkeypatch):
    for each in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(each, "")
    if name is not None:
        monkeypatch.setenv(name, "disabled")
    else:
        with monkeypatch.context() as patch:
            patch.setattr(ray, "is_initialized", lambda: False)
            with pytest.raises(RequestError, match="Ray was imported before and has no token"):
                ray_address.require_token()
        monkeypatch.delitem(sys.modules, "ray")
    ray_address.require_token()
    if name is None:
        assert os.environ["RAY_AUTH_MODE"] == "token"
        assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    else:
        assert [os.environ[each] for each in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")].count("") == 2


def test_a_token_that_is_at_hand_is_used_whatever_the_release_does_by_itself(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "")
    monkeypatch.delenv("RAY_AUTH_MODE")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a" * 64)

    def nobody(address):
        raise OSError("nobody is there")

    monkeypatch.setattr(ray_address, "_check_reachable", nobody)
    with pytest.raises(SecateurError, match="no Ray cluster answers at '10.0.0.1:6379'"):
        ray_address.connect("10.0.0.1:6379")
    assert os.environ["RAY_AUTH_MODE"] == "token"


@pytest.mark.slow
def test_a_cluster_for_one_run_takes_no_work_from_others(tmp_path):
    other = (
        "import logging, sys, ray\n"
        "try:\n    ray.init(address=sys.argv[1], logging_level=logging.ERROR, log_to_driver=False)\n"
        "except ConnectionError:\n    sys.exit(3)\n"
    )
    code = (
        "import os, subprocess, sys\nfrom secateur.experiments import RayCluster\n"
        "with RayCluster() as cluster:\n"
        "    import ray\n"
        "    there = {n: v for n, v in os.environ.items() if not n.startswith('RAY_AUTH')} | {'HOME': sys.argv[1]}\n"
        "    address = ray.get_runtime_context().gcs_address\n"
        f"    sys.exit(subprocess.run([sys.executable, '-c', {other!r}, address], env=there, timeout=100).returncode)\n"
    )
    mine = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=mine, timeout=200).returncode == 3


@pytest.mark.slow
def test_settings_choose_the_cluster(cluster, tmp_path):
    settings = TinySettings(execution={"executor": "ray", "ray": {"address": cluster.address}})
    study = TinyStudy(settings)
    with opened_store(tmp_path / "cells.sqlite", study) as store:
        assert run(study, store).made == 6
    assert not ray.is_initialized()  # the connection has ended with the run
    with executor_for(settings.execution) as executor:
        assert isinstance(executor, RayCluster)


@pytest.mark.slow
def test_a_cell_that_always_brings_its_worker_down_is_kept_as_failed(connected, tmp_path):
    study = TinyStudy(TinySettings(grid={"numbers": (1, 2, DEADLY, 3), "sums": False}))
    with opened_store(tmp_path / "cells.sqlite", study) as store:
        outcome = run(study, store, connected)
        assert outcome.made == 3
        (failure,) = outcome.failures
        assert failure.cell == f"number={DEADLY}"
        assert (
            failure.error == "its worker was lost 2 times, the last time because the process ended (killed, or a crash "
            "of a library)"
        )
        with pytest.raises(SecateurError, match="secateur study retry --store .* --cell"):
            outcome.raise_failures(store)


@pytest.mark.slow
def test_a_wrong_request_is_not_tried_again(cluster, connected, tmp_path):
    study = TinyStudy(TinySettings(grid={"numbers": (BROKEN, 4), "sums": False}))
    before = cluster.log.read_text().count(f"square {BROKEN}\n")
    with opened_store(tmp_path / "cells.sqlite", study) as store:
        (failure,) = run(study, store, connected).failures
    assert failure.error == f"ArithmeticError: {BROKEN} is broken"
    assert cluster.log.read_text().count(f"square {BROKEN}\n") == before + 1


@dataclass(frozen=True)
class Counted(Resource[str]):
    """A resource that notes where it was made."""

    path: str

    def make(self, resources):
        with Path(self.path).open("a") as file:
            file.write(f"{os.getpid()}\n")
        return "made"

    def ready(self):
        return Path(self.path).exists()


class Sharing(TinyStudy):
    """Cells that all look at one shared resource."""

    name = "tiny"
    path = ""

    def shared(self):
        return [Counted(self.path)]

    def work(self, cell, resources, earlier):
        assert resources.get(Counted(self.path)) == "made"
        return super().work(cell, resources, earlier)

    def __reduce__(self):
        return _sharing, (self.settings, self.path)


def _sharing(settings, path):
    study = Sharing(settings)
    study.path = path
    return study


@pytest.mark.slow
def test_shared_resources_are_made_once_for_all_workers(connected, tmp_path):
    study = _sharing(TinySettings(grid={"numbers": range(1, 9)}), str(tmp_path / "made.txt"))
    with opened_store(tmp_path / "cells.sqlite", study) as store:
        outcome = run(study, store, connected, resources=Resources())
        assert (outcome.made, outcome.failures) == (16, [])
    assert (tmp_path / "made.txt").read_text().count("\n") == 1


def test_what_would_never_start_is_refused(cluster):
    for asked, message in (
        ({"cpus": 64}, r"no node of the Ray cluster has what a cell takes \(64 CPU\); the most that one has: 1 CPU"),
        ({"gpus": 1}, r"what a cell takes \(1 CPU, 1 GPU\)"),
        ({"memory": "900GiB"}, r"\(1 CPU, 900 GiB memory\).* GiB memory; lower execution.ray.cpus, gpus or memory"),
    ):
        with pytest.raises(RequestError, match=message), RayCluster(RaySettings(address=cluster.address, **asked)):
            pass
    assert not ray.is_initialized()


@pytest.mark.slow
def test_workers_with_other_versions_are_refused(cluster, monkeypatch):
    mine = ray_address.versions()
    monkeypatch.setattr(ray_cluster, "versions", lambda: mine | {"torch": "0.0.1"})
    message = "workers of the Ray cluster have torch .*, this process has 0.0.1; install the same on all nodes"
    with pytest.raises(RequestError, match=message), RayCluster(RaySettings(address=cluster.address)):
        pass


def _unlocked():
    return ray_address.versions(), False


@pytest.mark.slow
def test_a_cluster_that_others_reach_without_a_token_is_refused(cluster, monkeypatch):
    monkeypatch.setattr(ray_cluster, "inspect_worker", _unlocked)
    with pytest.raises(
        RequestError, match="takes work from anyone who reaches it; switch Ray's token authentication on"
    ):
        RayCluster(RaySettings(address=cluster.address)).__enter__()
    assert not ray.is_initialized()


def test_an_address_without_a_cluster_is_named(cluster):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    with pytest.raises(SecateurError, match=f"no Ray cluster answers at '127.0.0.1:{port}'") as raised:
        RayCluster(RaySettings(address=f"127.0.0.1:{port}")).__enter__()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("address", ["ray://head:10001", "head", "head:", ":6379", "head:port"])
def test_addresses_of_another_kind_are_refused(address):
    with pytest.raises(RequestError, match="give HOST:PORT of the cluster's head, or auto"):
        ray_address.check_address(address)


def test_an_address_that_others_reach_needs_a_token(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RequestError, match="no token is set: switch Ray's token authentication on: `ray get-auth"):
        ray_address.check_address("10.0.0.5:6379")
    ray_address.check_address("127.0.0.1:6379")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    ray_address.check_address("10.0.0.5:6379")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(RequestError, match="RAY_AUTH_MODE=token on every node and here"):
        ray_address.check_address("10.0.0.5:6379")


def test_a_cell_that_takes_too_long_fails(monkeypatch, tmp_path):
    monkeypatch.setenv("TINY_SECONDS", "5")
    study = TinyStudy(TinySettings(grid=Grid(numbers=(1,), sums=False), execution={"time_limit": 0.2}))
    begin = time.monotonic()
    with opened_store(tmp_path / "cells.sqlite", study) as store:
        (failure,) = run(study, store).failures
    assert time.monotonic() - begin < 4
    assert failure.error == (
        "it took longer than execution.time_limit, 0.2 s; for more time: secateur study retry --set "
        "execution.time_limit=SECONDS (null: no limit)"
    )


DRIVER = """
import sys, tiny_study
from secateur.core.sections import RaySettings
from secateur.experiments import RayCluster, opened_store, run

if __name__ == "__main__":
    study = tiny_study.tiny(*range(int(sys.argv[3])))
    place = RaySettings(address=sys.argv[2], retries=20)
    with RayCluster(place) as executor, opened_store(sys.argv[1], study) as store:
        run(study, store, executor, progress=False)
"""


def workers():
    """Processes of Ray that work on cells, or wait for some; without its agents, whose node ends with them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes().startswith((b"ray::_work", b"ray::IDLE")):
                found.append(int(path.parent.name))
    return found


def finished(path):
    """When each finished cell was finished."""
    from test_experiments_kills import finished as read

    with contextlib.suppress(sqlite3.OperationalError):  # before its tables are made
        return read(path)
    return {}


@pytest.mark.slow
def test_drivers_workers_and_nodes_come_and_go(tmp_path, monkeypatch):
    """Kills of drivers and workers at random moments; a node is taken away, and one is added."""
    from test_experiments_kills import lines

    count, path, log, script = 300, tmp_path / "cells.sqlite", tmp_path / "log.txt", tmp_path / "driver.py"
    script.write_text(DRIVER)
    said = tmp_path / "said.txt"
    for name in ("TINY_DEADLY", "TINY_BROKEN"):  # of the other tests' cluster
        monkeypatch.delenv(name, raising=False)
    log.touch()
    for name, value in {
        "PYTHONPATH": _path(),
        "TINY_LOG": str(log), "TINY_SECONDS": "0.1", "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    draw, before, killed, gone = random.Random(0), {}, 0, False
    with two_nodes() as cluster:
        drivers = 0

        def begun():
            nonlocal drivers
            drivers += 1
            words = [sys.executable, str(script), str(path), cluster.address, str(count)]
            with said.open("ab") as file:
                return subprocess.Popen(words, stdout=file, stderr=file)

        driver = begun()
        try:
            while killed < KILLS:
                begin = len(finished(path))
                while len(finished(path)) == begin and driver.poll() is None:
                    time.sleep(0.01)
                time.sleep(draw.uniform(0, 0.3))
                if driver.poll() is not None:
                    assert gone, f"it ended before the kill: {said.read_text()[-2000:]}"
                    assert driver.returncode == 1, "the grid is too small"
                    driver = begun()  # it was connected to the node that was taken away
                    continue
                if killed % 4 == 3:
                    driver.send_signal(signal.SIGKILL)
                    assert driver.wait() == -signal.SIGKILL
                    driver = begun()
                elif some := workers():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(draw.choice(some), signal.SIGKILL)
                killed += 1
                if killed == KILLS // 3:
                    cluster.remove_node(sorted(cluster.worker_nodes, key=id)[0], allow_graceful=False)
                    gone = True
                if killed == 2 * KILLS // 3:
                    cluster.add_node(num_cpus=1)
                after = finished(path)
                assert before.items() <= after.items()  # none is lost, and none is written anew
                before = after
            assert driver.wait() == 0
        finally:
            driver.kill()
            driver.wait()
    study = tiny(*range(count))
    with opened_store(path, study) as store:
        assert store.status().total("finished") == 2 * count
        same(store.frames(), of_one_process(study))
    assert drivers >= KILLS // 4 + 1
    assert lines(log) >= 2 * count


@pytest.mark.slow
@pytest.mark.parametrize("name", ["toy", "class-aware", "search"])
def test_two_nodes_give_the_tables_of_one_process(name, cluster, tmp_path):
    """Real studies in small, to the last digit."""
    from secateur.studies.catalogue import study_class
    from test_studies import INSTANCES

    study = study_class(name)(INSTANCES[name]["settings"]())
    frames = []
    for executor in (Here(), RayCluster(RaySettings(address=cluster.address))):
        with contextlib.ExitStack() as stack:
            if isinstance(executor, RayCluster):
                stack.enter_context(executor)
            store = stack.enter_context(opened_store(tmp_path / f"{len(frames)}.sqlite", study))
            assert not run(study, store, executor).failures
            frames.append(store.frames())
    assert len(frames[0][next(iter(study.tables))])
    for table, schema in study.tables.items():
        kept = [column.name for column in schema.columns if not column.timed]
        assert_frame_equal(frames[0][table][kept], frames[1][table][kept], check_exact=True)


@pytest.mark.slow
def test_an_interruption_leaves_nothing_running(connected, tmp_path, monkeypatch):
    study = TinyStudy(TinySettings(grid={"numbers": range(20, 60), "sums": False}))
    with opened_store(tmp_path / "cells.sqlite", study) as store:
        seen = []

        def stops(identity, *rest):
            seen.append(identity)
            if len(seen) == 3:
                raise KeyboardInterrupt
            return kept(identity, *rest)

        kept = store.finish
        monkeypatch.setattr(store, "finish", stops)
        with pytest.raises(KeyboardInterrupt):
            run(study, store, connected)
        monkeypatch.undo()
        assert store.status().total("finished") == 2
        assert run(study, store, connected).made == 38
