"""Times of a comparison's networks, taken one after the other when all else is done."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from secateur.core.errors import SecateurError
from secateur.core.timing import BUSY
from secateur.evaluation import measure_latency
from secateur.exporting import OnnxSession, export, measure_runtime
from secateur.pipeline.bench import Bench
from secateur.pipeline.comparison import Part, Row
from secateur.pipeline.tasks import Task
from secateur.selection import Plan
from secateur.surgery import prune

_UNTIMED = "not timed in ONNX Runtime"
_FORM = 2
"""Of the columns that are kept in files; times in another form are measured again."""


@dataclass(frozen=True, eq=False)
class Runtimes:
    """One network, ready to be timed: in PyTorch and, where it could be exported, in ONNX Runtime."""

    model: nn.Module
    session: OnnxSession | None
    note: str = ""


class Timer:
    """Times pruned networks against the unpruned one of their subset; which of them is the settings' to say.

    Args:
        bench: what they are made from.
        folder: for files that are not kept.
    """

    def __init__(self, bench: Bench, folder: str) -> None:
        self.bench, self.settings = bench, bench.settings
        self._folder = Path(folder)
        self._whole: dict[str, Runtimes] = {}

    def wants(self, part: Part) -> bool:
        """Whether any network of a part is to be timed."""
        settings = self.settings
        seeds = settings.seeds[: settings.latency_seeds]
        subsets = list(self.bench.tasks)[: settings.latency_subsets]
        return bool(settings.latency_repeats) and part.structured and part.seed in seeds and part.subset in subsets

    def identity(self, subset: str) -> str:
        """Short hash of how a subset's times are taken."""
        settings, place = self.settings, next(self.bench.model.parameters()).device
        how = [settings.latency_repeats, settings.latency_batch, self._exported(subset), torch.get_num_threads(), place]
        how.append(_FORM)
        return hashlib.sha256(repr(how).encode()).hexdigest()[:8]

    def whole(self, subset: str) -> dict[str, Any]:
        """Times of the unpruned network."""
        return self._measured(subset, None)

    def beside(self, columns: Mapping[str, Any], whole: Mapping[str, Any]) -> dict[str, Any]:
        """Columns of a pruned network with milliseconds that its shares make of those of the unpruned one's row.

        Each pair is timed in turn, and each time the unpruned network takes a little more or less; of one table the
        quotients are to be the shares that were measured.
        """
        found = dict(columns)
        for prefix in ("latency", "onnx"):
            share, whole_ms = found.get(f"{prefix}_share"), whole.get(f"{prefix}_ms")
            if share is not None and whole_ms is not None:
                found[f"{prefix}_ms"] = share * whole_ms
        return found

    def times(self, part: Part, rows: list[Row]) -> dict[float, dict[str, Any]]:
        """Times by budget of one part's networks; each is timed in turn with the unpruned one."""
        task = self.bench.tasks[part.subset]
        found = {}
        for row in rows:
            if not row["finetuned"]:
                slim = prune(task.model, _plan(task, row["removed"]), check=False)
                exported = row["budget"] in self._exported(part.subset)
                found[row["budget"]] = self._measured(part.subset, self._runtimes(part.subset, slim, exported))
        return found

    def _exported(self, subset: str) -> tuple[float, ...]:
        """Budgets at which a subset's networks are timed in ONNX Runtime: exporting takes seconds each."""
        return self.settings.onnx_budgets if subset == next(iter(self.bench.tasks)) else ()

    def _measured(self, subset: str, other: Runtimes | None) -> dict[str, Any]:
        """Times of a network, taken in turn with the unpruned one; None: of that one."""
        if subset not in self._whole:
            whole = self.bench.tasks[subset].model
            self._whole[subset] = self._runtimes(subset, whole, bool(self._exported(subset)))
        networks = [self._whole[subset], *([] if other is None else [other])]
        probe = self.bench.probe(subset, self.settings.latency_batch)
        repeats = self.settings.latency_repeats
        times = measure_latency([network.model for network in networks], probe, repeats=repeats)
        note = networks[-1].note or (networks[0].note if networks[-1].session else "")
        found = times[-1].columns() | {"latency_note": note}
        sessions = [network.session for network in networks if network.session is not None]
        if len(sessions) == len(networks):
            try:
                runtimes = measure_runtime(sessions, probe.cpu(), repeats=repeats)
            except SecateurError as error:
                return found | {"latency_note": f"{_UNTIMED}: {error}"}
            found |= runtimes[-1].columns("onnx")
        return found

    def _runtimes(self, subset: str, model: nn.Module, exported: bool) -> Runtimes:
        if not exported:
            return Runtimes(model, None)
        probe = self.bench.probe(subset, self.settings.latency_batch)
        try:
            with tempfile.TemporaryDirectory(dir=self._folder) as folder:
                path = export(model, Path(folder) / "network.onnx", probe, batch=len(probe)).path
                return Runtimes(model, OnnxSession(path, torch.get_num_threads()))
        except SecateurError as error:
            return Runtimes(model, None, f"{_UNTIMED}: {error}")


def busy_networks(rows: Iterable[Row]) -> str:
    """How many pruned networks of a table were timed on a busy machine, in a sentence; "" for none."""
    pruned = (row for row in rows if row["criterion"] != "none" and not row["finetuned"])
    timed = [row for row in pruned if row["latency_spread"] is not None]
    spreads = [max(row["latency_spread"], row["onnx_spread"] or 0.0) for row in timed]
    busy = [spread for spread in spreads if spread > BUSY]
    if not busy:
        return ""
    return (
        f"times of {len(busy)} of {len(timed)} networks were measured on a busy machine: "
        f"spread up to {100 * max(busy):.0f} %"
    )


def _plan(task: Task, removed: Mapping[str, list[int]]) -> Plan:
    keep = np.ones(task.structure.num_units, bool)
    for name, units in removed.items():
        keep[task.structure.group(name).first + np.array(units, np.int64)] = False
    return Plan.of(task.structure, keep, {}, "stored", "stored")
