"""trackio."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from secateur.core.errors import SecateurError
from secateur.tracking.base import Run, Tracker, Value, metric_name
from secateur.tracking.registry import TRACKERS


@TRACKERS.register("trackio")
class Trackio(Tracker):
    """A run in the folder ``trackio``, or at ``TRACKIO_SPACE_ID`` or ``TRACKIO_SERVER_URL``."""

    def __init__(self, run: Run) -> None:
        # trackio reads its folder once, when it is imported
        os.environ.setdefault("TRACKIO_DIR", str(run.folder / "trackio"))
        self._project = run.project
        with _silent():
            self._trackio = importlib.import_module("trackio")
            self._run = self._trackio.init(
                project=run.project,
                name=run.name,
                config=dict(run.settings),
                resume="never" if run.identity is None else "must",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        self.identity = self._run.id
        if run.identity is not None:
            if self.identity != run.identity:
                raise SecateurError(f"the latest run '{run.name}' of trackio is another one")
            self.last_step = self._run._next_step - 1

    def log(self, values: Mapping[str, float], step: int, line: str) -> None:
        """See `Tracker.log`."""
        with _silent():
            self._run.log({metric_name(name, line): value for name, value in values.items()}, step=step)

    def table(self, name: str, rows: Sequence[Mapping[str, Value]]) -> None:
        """See `Tracker.table`."""
        pandas = importlib.import_module("pandas")
        with _silent():
            self._run.log({name: self._trackio.Table(dataframe=pandas.DataFrame(list(rows)))})

    def file(self, path: Path) -> None:
        """See `Tracker.file`."""
        with _silent():
            self._run.log_artifact(path, type="result")

    def close(self, failed: bool) -> str:
        """See `Tracker.close`."""
        with _silent():
            self._trackio.finish()
        address = os.environ.get("TRACKIO_SPACE_ID") or os.environ.get("TRACKIO_SERVER_URL")
        place = importlib.import_module("trackio.utils").TRACKIO_DIR
        return address or f"TRACKIO_DIR={shlex.quote(str(place))} trackio show --project {shlex.quote(self._project)}"


def _silent() -> contextlib.redirect_stdout[io.StringIO]:
    """It speaks on standard output."""
    return contextlib.redirect_stdout(io.StringIO())
