"""Weights & Biases."""

from __future__ import annotations

import importlib
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from secateur.tracking.base import Run, Tracker, Value, metric_name
from secateur.tracking.registry import TRACKERS


@TRACKERS.register("wandb")
class Wandb(Tracker):
    """A run that stays in its folder unless ``WANDB_MODE`` or ``WANDB_API_KEY`` is set.

    A run that was sent is resumed where the server says it ended. One that was kept here cannot be: a new folder of the
    same identity takes all of it, and is the one to sync.
    """

    def __init__(self, run: Run) -> None:
        offline = not (os.environ.get("WANDB_MODE") or os.environ.get("WANDB_API_KEY"))
        offline = offline or os.environ.get("WANDB_MODE") == "offline"
        if offline:
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        os.environ.setdefault("WANDB_SILENT", "true")  # the setting of a run does not reach all that is said
        self._wandb = importlib.import_module("wandb")
        self._run = self._wandb.init(
            project=run.project,
            name=run.name,
            config=dict(run.settings),
            dir=str(run.folder),
            mode="offline" if offline else None,
            id=run.identity,
            resume="allow" if run.identity is not None and not offline else None,
            settings=self._wandb.Settings(
                console="off", silent=True, disable_git=True, save_code=False, x_disable_stats=True
            ),
        )
        self.identity = self._run.id
        if self._run.resumed:
            self.last_step = self._run.step - 1

    def log(self, values: Mapping[str, float], step: int, line: str) -> None:
        """See `Tracker.log`."""
        self._run.log({metric_name(name, line): value for name, value in values.items()}, step=step)

    def table(self, name: str, rows: Sequence[Mapping[str, Value]]) -> None:
        """See `Tracker.table`."""
        columns = list(rows[0]) if rows else []
        data = [list(row.values()) for row in rows]
        self._run.log({name: self._wandb.Table(columns=columns, data=data, allow_mixed_types=True)})

    def file(self, path: Path) -> None:
        """See `Tracker.file`."""
        self._run.save(str(path), base_path=str(path.parent), policy="now")

    def close(self, failed: bool) -> str:
        """See `Tracker.close`."""
        place, address = Path(self._run.dir).parent, None if self._run.offline else self._run.url
        self._run.finish(exit_code=int(failed))
        return str(address) if address else f"wandb sync {shlex.quote(str(place))}"
