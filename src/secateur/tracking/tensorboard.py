"""TensorBoard."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from secateur.tracking.base import Run, Tracker, Value
from secateur.tracking.registry import TRACKERS


@TRACKERS.register("tensorboard")
class TensorBoard(Tracker):
    """A folder of event files; each line of a chart is a run within it. Tables and names of files are texts."""

    def __init__(self, run: Run) -> None:
        self._writers = importlib.import_module("tensorboard.summary.writer.event_file_writer")
        self._protos = {name: importlib.import_module(f"tensorboard.compat.proto.{name}_pb2") for name in _PROTOS}
        self._text = importlib.import_module("tensorboard.plugins.text.metadata")
        place = run.folder / "tensorboard" / _file_name(run.project)
        self._folder = _fresh(place, _file_name(run.name)) if run.identity is None else Path(run.identity)
        self.identity = str(self._folder)
        self._resumed = run.identity is not None
        self._open: dict[str, Any] = {}
        settings = json.dumps(run.settings, indent=2)
        self._say("settings", "\n".join(f"    {line}" for line in settings.splitlines()))  # as code

    def log(self, values: Mapping[str, float], step: int, line: str) -> None:
        """See `Tracker.log`."""
        summary = self._protos["summary"]
        found = [summary.Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(line, step, found)

    def table(self, name: str, rows: Sequence[Mapping[str, Value]]) -> None:
        """See `Tracker.table`; as Markdown, the first thousand rows."""
        if not rows:
            return
        lines = [list(rows[0]), ["---"] * len(rows[0]), *([_cell(v) for v in row.values()] for row in rows[:_ROWS])]
        more = f"\n\n{len(rows) - _ROWS:,} more rows" if len(rows) > _ROWS else ""
        self._say(name, "\n".join(f"| {' | '.join(line)} |" for line in lines) + more)

    def file(self, path: Path) -> None:
        """See `Tracker.file`; where it is, as TensorBoard keeps no files."""
        self._say(f"files/{path.name}", f"`{path}`")

    def close(self, failed: bool) -> str:
        """See `Tracker.close`."""
        for writer in self._open.values():
            writer.close()
        return f"tensorboard --logdir {shlex.quote(str(self._folder))}"

    def _say(self, name: str, markdown: str) -> None:
        tensor = self._protos["tensor"].TensorProto(
            dtype=self._protos["types"].DT_STRING, string_val=[markdown.encode()]
        )
        about = self._text.create_summary_metadata(display_name=name, description="")
        value = self._protos["summary"].Summary.Value(tag=f"{name}/text_summary", metadata=about, tensor=tensor)
        self._write("", 0, [value])

    def _write(self, line: str, step: int, values: Sequence[Any]) -> None:
        event, summary = self._protos["event"], self._protos["summary"]
        if line not in self._open:
            folder = self._folder / _file_name(line) if line else self._folder
            self._open[line] = self._writers.EventFileWriter(str(folder))
            if self._resumed:  # all that earlier files hold from step 0 on is void: it comes again
                start = event.SessionLog(status=event.SessionLog.START)
                self._open[line].add_event(event.Event(wall_time=time.time(), step=0, session_log=start))
        writer = self._open[line]
        writer.add_event(event.Event(wall_time=time.time(), step=step, summary=summary.Summary(value=values)))
        writer.flush()


_PROTOS = ("event", "summary", "tensor", "types")
_ROWS = 1000


def _cell(value: Value) -> str:
    text = "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _fresh(folder: Path, name: str) -> Path:
    """A folder that is not there yet, lest two runs end in one chart."""
    return next(place for n in count(1) if not (place := folder / (name if n == 1 else f"{name}-{n}")).exists())


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.,=()-]", "_", text).strip(". ") or "_"
