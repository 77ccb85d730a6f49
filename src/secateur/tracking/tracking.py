"""Several trackers at once, none of which can stop the work."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from secateur.core.errors import SecateurError
from secateur.core.files import ensure_folder, read_json, write_json
from secateur.tracking.base import Run, Tracker
from secateur.tracking.registry import TRACKERS, check_trackers
from secateur.tracking.settings import TrackingSettings
from secateur.tracking.values import plain

RECORD = "tracking.json"
"""File beside the results: which runs an interrupted piece of work goes on with."""


class Tracking:
    """What long work logs to: the trackers of its settings, or none.

    Runs are opened when the first thing is logged. What a tracker raises is told once, and that tracker is left out
    from then on; the work goes on. Of several processes (``torchrun``) the first one logs.

    Args:
        settings: which trackers, and under what names.
        name: of the run, where the settings give none.
        config: settings of the work, nested as they like.
        folder: where runs are kept that are not sent anywhere.
        warn: is told of trackers that fail; None: Python's warnings.

    Raises:
        RequestError: for an unknown tracker, or a missing package.

    Example:
        >>> with Tracking(TrackingSettings(), "nothing", {}, "out") as tracking:
        ...     tracking.log({"loss": 0.5}, step=0)
        >>> tracking.where
        {}
    """

    def __init__(
        self,
        settings: TrackingSettings,
        name: str,
        config: Mapping[str, Any],
        folder: str | Path,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        check_trackers(settings.trackers)
        self.settings, self.name = settings, settings.run or name
        self.config: dict[str, Any] = json.loads(json.dumps(dict(config), default=str))
        self.folder = Path(folder)
        self.where: dict[str, str] = {}
        self._warn = _python_warning if warn is None else warn
        first = os.environ.get("RANK", "0") == "0"  # launchers of PyTorch number processes
        self._waiting = list(settings.trackers) if first else []
        self._open: dict[str, Tracker] = {}
        self._resumes = False

    def resume(self) -> None:
        """Go on with the runs that an earlier process opened for this folder, where there are any.

        Whoever resumes work logs all of it again, from its beginning: of each run, steps that it has are passed over.
        It has no effect on runs that are open.
        """
        self._resumes = True

    def log(self, values: Mapping[str, float], step: int, line: str = "") -> None:
        """Log one point of several curves.

        Args:
            values: by metric; those that are not finite are left out.
            step: never lower than in the call before.
            line: which of several curves of these metrics, for instance a criterion's.
        """
        finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
        self._each(lambda tracker: tracker.log(finite, step, line) if step > tracker.last_step else None)

    def table(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Log a table; nested values are left out, and numbers that are not finite are empty cells.

        Args:
            name: of the table.
            rows: of any columns.
        """
        flat = [{str(k): plain(v) for k, v in row.items() if not isinstance(v, dict | list | tuple)} for row in rows]
        columns = list(dict.fromkeys(column for row in flat for column in row))
        full = [{column: row.get(column) for column in columns} for row in flat]
        self._each(lambda tracker: tracker.table(name, full))

    def file(self, path: str | Path) -> None:
        """Log a file, if the settings want files and it is there."""
        place = Path(path).resolve()
        if self.settings.files and place.is_file():
            self._each(lambda tracker: tracker.file(place))

    def close(self, failed: bool = False) -> None:
        """End all runs; ``where`` says where each one is.

        Args:
            failed: the work was broken off.
        """

        def end(tracker: Tracker) -> None:
            name = next(name for name, each in self._open.items() if each is tracker)
            self.where[name] = tracker.close(failed)

        self._waiting = []
        self._each(end)
        self._open = {}

    def lines(self) -> list[str]:
        """Where each run is, for people."""
        return [f"{name}: {place}" for name, place in self.where.items()]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self.close(failed=kind is not None)

    def _each(self, action: Callable[[Tracker], None]) -> None:
        """Do something with every tracker that works, after opening those that wait."""
        for name in self._waiting[:]:
            self._waiting.remove(name)
            self._guarded(name, partial(self._start, name))
        for name, tracker in list(self._open.items()):
            self._guarded(name, partial(action, tracker))

    def _guarded(self, name: str, action: Callable[[], None]) -> None:
        try:
            with warnings.catch_warnings():
                # what a tracker's own packages think of each other is no news to the user
                warnings.simplefilter("ignore", DeprecationWarning)
                warnings.simplefilter("ignore", FutureWarning)
                action()
        except Exception as error:  # noqa: BLE001 - each tracker has errors of its own
            self._open.pop(name, None)
            text = str(error) if isinstance(error, SecateurError) else f"{type(error).__name__}: {error}"
            self._warn(f"nothing more is logged to tracker '{name}' ({' '.join(text.split())[:300]})")

    def _start(self, name: str) -> None:
        run = Run(self.settings.project, self.name, self.config, ensure_folder(self.folder).resolve())
        record = self.folder / RECORD
        kept = read_json(record) if record.exists() else {}
        entry = kept.get(name)
        here = {"project": run.project, "name": run.name}
        tracker: Tracker | None = None
        if self._resumes and entry is not None and entry == {**here, "run": entry.get("run")}:
            tracker = self._reopened(name, run, entry["run"])
        if tracker is None:
            tracker = TRACKERS.factory(name)(run)
        write_json(record, {**kept, name: {**here, "run": tracker.identity}})
        self._open[name] = tracker

    @staticmethod
    def _reopened(name: str, run: Run, identity: str) -> Tracker | None:
        """An earlier run; None where it is gone: all steps are logged again, so a new one lacks nothing."""
        try:
            return TRACKERS.factory(name)(Run(run.project, run.name, run.settings, run.folder, identity))
        except Exception:  # noqa: BLE001 - each tracker has errors of its own
            return None


def _python_warning(text: str) -> None:
    warnings.warn(text, stacklevel=2)
