"""Times of a comparison's networks, taken one after the other when all else is done."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from secateur.core.errors import SecateurError
from secateur.core.memory import Memory
from secateur.core.timing import BUSY
from secateur.evaluation import measure_latency, measure_memory
from secateur.experiments import Result
from secateur.exporting import OnnxSession, export, measure_onnx_memory, measure_runtime
from secateur.selection import Plan
from secateur.studies.compare.cells import UNPRUNED, TimeCell
from secateur.studies.compare.tables import TIMES, Row, coordinates_of
from secateur.studies.compare.tasks import Task
from secateur.studies.compare.work import Bench
from secateur.surgery import prune

_UNTIMED = "not timed in ONNX Runtime"


@dataclass(frozen=True, eq=False)
class Runtimes:
    """One network, ready to be timed: in PyTorch and, where it could be exported, in ONNX Runtime.

    Attributes:
        model: in PyTorch.
        session: in ONNX Runtime.
        note: why there is no session, though one was asked for.
        memory: peak memory in ONNX Runtime, measured while the exported file was there; None where it cannot be.
    """

    model: nn.Module
    session: OnnxSession | None
    note: str = ""
    memory: Memory | None = None


class Timer:
    """Times pruned networks against the unpruned one of their subset.

    Args:
        bench: what they are made from.
    """

    def __init__(self, bench: Bench) -> None:
        self.bench, self.settings = bench, bench.settings.timing
        self._whole: dict[tuple[str, bool], Runtimes] = {}

    def result(self, cell: TimeCell, measured: Result) -> Result:
        """Times of one cell's networks by budget, each taken in turn with the unpruned one.

        Args:
            cell: which.
            measured: what the cell gave whose networks these are.
        """
        whole = self._unpruned(cell)
        rows: list[tuple[float, Row]] = []
        if cell.criterion == UNPRUNED:
            rows.append((1.0, self._measured(cell, whole, None)))
        task = self.bench.tasks[cell.subset_name]
        for plan in measured.rows["plans"]:
            slim = prune(task.model, _plan(task, json.loads(plan["removed"])), check=False)
            exported = cell.exported and plan["budget"] in self.settings.onnx_budgets
            rows.append((plan["budget"], self._measured(cell, whole, self._runtimes(cell, slim, exported))))
        own = coordinates_of(cell)
        empty = dict.fromkeys(TIMES.names)
        return Result({"times": [empty | own | {"budget": budget} | columns for budget, columns in rows]})

    def _unpruned(self, cell: TimeCell) -> Runtimes:
        key = cell.subset_name, cell.exported
        if key not in self._whole:
            model = self.bench.tasks[cell.subset_name].model
            self._whole[key] = self._runtimes(cell, model, cell.exported)
        return self._whole[key]

    def _measured(self, cell: TimeCell, whole: Runtimes, other: Runtimes | None) -> Row:
        """Times and memory of a network, taken in turn with the unpruned one; None: of that one."""
        networks = [whole, *([] if other is None else [other])]
        probe = self.bench.probe(cell.subset_name, self.settings.batch)
        repeats = self.settings.repeats
        times = measure_latency([network.model for network in networks], probe, repeats=repeats)
        note = networks[-1].note or (networks[0].note if networks[-1].session else "")
        found = times[-1].columns() | {"latency_note": note}
        found |= measure_memory(networks[-1].model, probe).columns()
        if (memory := networks[-1].memory) is not None:
            found |= memory.columns("onnx_memory")
        sessions = [network.session for network in networks if network.session is not None]
        if len(sessions) == len(networks):
            try:
                runtimes = measure_runtime(sessions, probe.cpu(), repeats=repeats)
            except SecateurError as error:
                return found | {"latency_note": f"{_UNTIMED}: {error}"}
            found |= runtimes[-1].columns("onnx")
        return found

    def _runtimes(self, cell: TimeCell, model: nn.Module, exported: bool) -> Runtimes:
        if not exported:
            return Runtimes(model, None)
        probe = self.bench.probe(cell.subset_name, self.settings.batch)
        try:
            with tempfile.TemporaryDirectory() as folder:
                path = export(model, Path(folder) / "network.onnx", probe, batch=len(probe)).path
                session = OnnxSession(path, torch.get_num_threads())
                return Runtimes(model, session, memory=_memory(session, probe.cpu()))
        except SecateurError as error:
            return Runtimes(model, None, f"{_UNTIMED}: {error}")


def _memory(session: OnnxSession, probe: torch.Tensor) -> Memory | None:
    """Peak memory in ONNX Runtime; None where it cannot be measured, as on other systems than Linux."""
    try:
        return measure_onnx_memory(session, probe)
    except SecateurError:
        return None


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
