"""Pruned networks called with every optional argument of their forward, against the masked ones.

    python benchmarks/optional_arguments.py                          # 30 of the list, drawn by chance
    python benchmarks/optional_arguments.py --seed 1 --networks 10
    python benchmarks/optional_arguments.py --only "Bert,swin" --out out/calls.csv
    python benchmarks/optional_arguments.py --networks 0             # all of them

Each network of `small_networks.py` is traced with its plain example only, and half of its units go at random, in double
precision. Then the pruned and the masked network are called with every optional argument that the signature of their
forward has (`optional_calls.py`), with other numbers of samples and other lengths, with a cache that a call of the same
network filled, and to generate text. A call is

* *exact*: all tensors of the outputs agree, to 1e-8 of the largest value of each (1e-6 where the code of the network
  itself computes in single precision, as some norms and rotations do);
* *refused*: the pruned network raises one line that is meant to be read;
* *fails too*: the network before pruning takes no such call, either;
* *wrong*: some tensor differs; *raw*: any other exception.

The exit code is 1 when anything is wrong or raw.
"""

from __future__ import annotations

import csv
import random
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.append(sys.path.pop(0))  # files of this folder pass for packages of the same name
import secateur as sc
from optional_calls import Calls, Run
from secateur.core.progress import track
from secateur.structure.calls import walk
from small_networks import BATCH, NETWORKS, Example, SmallNetwork

LIMIT, SINGLE = 1e-8, 1e-6
VERDICTS = ("exact", "refused", "fails too", "wrong", "raw")
TOO_BAD = ("wrong", "raw")


@dataclass(frozen=True)
class Result:
    """One call of one network.

    Attributes:
        network, call: which.
        verdict: one of `VERDICTS`.
        difference: largest difference of a tensor, as a share of its largest value.
        said: the message of an error, or which tensor differs.
    """

    network: str
    call: str
    verdict: str
    difference: float = 0.0
    said: str = ""


# -- one network -----------------------------------------------------------------------------------------------------


@dataclass
class Row:
    """What was measured of one network.

    Attributes:
        name: of the network; seconds: of all that was done.
        units: that can go; removed: that went.
        corrected: modules whose own code was corrected; replaced: attention modules of PyTorch that were replaced;
            attributes: modules with other integer attributes; anew: modules whose code was written anew.
        limit: largest difference that counts as exact.
        results: of the calls.
        failed: why it was not pruned.
        unknown: arguments for which no value is known.
    """

    name: str
    seconds: float = 0.0
    units: int = 0
    removed: int = 0
    corrected: int = 0
    replaced: int = 0
    attributes: int = 0
    anew: int = 0
    limit: float = LIMIT
    results: tuple[Result, ...] = ()
    failed: str = ""
    unknown: tuple[str, ...] = ()

    @property
    def counts(self) -> Counter[str]:
        """Calls by verdict."""
        return Counter(result.verdict for result in self.results)


def measured(network: SmallNetwork, seed: int) -> Row:
    """Prune a network and call it in all ways."""
    begin, row = time.perf_counter(), Row(network.name)
    model = network.build()
    try:
        pruned = halved(model, network.inputs(BATCH, None), seed, row)
    except sc.RequestError as error:
        row.failed = str(error)
    except Exception as error:  # noqa: BLE001 - whatever happens is reported
        row.results = (Result(network.name, "prune", "raw", said=line(error)),)
    else:
        calls = Calls(network, model)
        row.limit = SINGLE if computes_in_single(model, calls.plain) else LIMIT
        row.results = tuple(compared(row, call, run, model, *pruned) for call, run in calls)
        row.unknown = tuple(calls.unknown)
    row.seconds = time.perf_counter() - begin
    return row


def halved(model: nn.Module, example: Example, seed: int, row: Row) -> tuple[nn.Module, nn.Module]:
    """The pruned and the masked network."""
    try:
        structure = sc.trace(model, example)
    except sc.RequestError as error:
        if "stream=True" not in str(error):
            raise
        structure = sc.trace(model, example, stream=True)
    scores = sc.Scores(structure, np.random.default_rng(seed).random(structure.num_units), "random")
    plan = sc.select(scores, sc.Budget(units=0.5), "global")
    row.units, row.removed = structure.num_units, sum(map(len, plan.removed.values()))
    edits = plan.edits
    row.corrected, row.replaced, row.anew = len(edits.corrections), len(edits.heads), len(edits.code)
    row.attributes = len(edits.attributes)
    return sc.prune(model, plan, example), sc.mask(model, plan)


class _Types(TorchDispatchMode):
    """Notes the types of all results."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and look at its result."""
        result = func(*args, **(kwargs or {}))
        self.seen.update(tensor.dtype for _, tensor in walk(result) if tensor.ndim > 1)
        return result


def computes_in_single(model: nn.Module, example: Example) -> bool:
    """Whether a network in double precision computes in single precision all the same."""
    with torch.no_grad(), _Types() as types:
        model(**example)
    return torch.float32 in types.seen


def compared(row: Row, call: str, run: Run, model: nn.Module, slim: nn.Module, masked: nn.Module) -> Result:
    """One call of both networks."""
    name = row.name
    expected = ran(run, masked)
    if isinstance(expected, Exception):
        if isinstance(ran(run, model), Exception):
            return Result(name, call, "fails too", said=line(expected))
        return Result(name, call, "raw", said=f"the masked network: {line(expected)}")
    found = ran(run, slim)
    if isinstance(found, sc.SecateurError) and "\n" not in str(found):
        return Result(name, call, "refused", said=str(found))
    if isinstance(found, Exception):
        return Result(name, call, "raw", said=line(found))
    ours, theirs = (dict(walk(given, caches=False)) for given in (found, expected))
    if ours.keys() != theirs.keys():
        return Result(name, call, "wrong", said=f"gives {sorted(ours)}, not {sorted(theirs)}")
    worst, where = 0.0, ""
    for place, tensor in theirs.items():
        apart = difference(ours[place], tensor)
        if not apart <= worst:
            worst, where = apart, place
    if worst <= row.limit:
        return Result(name, call, "exact", worst)
    return Result(name, call, "wrong", worst, f"'{where}' differs by {worst:.1e} of its largest value")


def ran(run: Run, model: nn.Module) -> Any:
    """What a call gives, or the exception that it raises."""
    torch.manual_seed(0)
    try:
        with torch.no_grad():
            return run(model)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what is measured
        return error


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference as a share of the largest value; infinite for other shapes."""
    if found.shape != expected.shape:
        return float("inf")
    if not expected.numel():
        return 0.0
    a, b = found.double(), expected.double()
    apart = torch.where((a == b) | (a.isnan() & b.isnan()), 0.0, a - b).abs().nan_to_num(float("inf"))
    finite = b[b.isfinite()].abs()
    return float(apart.max()) / max(float(finite.max()) if finite.numel() else 0.0, 1e-12)


def line(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


# -- all of them -----------------------------------------------------------------------------------------------------


def show(rows: Iterable[Row], console: Console) -> None:
    """Print a row for each network, what is not exact, and totals."""
    rows = list(rows)
    table = Table(title="calls of pruned networks against masked ones, half of the units gone at random, float64")
    columns = ("network", "units", "gone", *VERDICTS, "corrected", "replaced", "attributes", "anew", "s")
    for column in columns:
        table.add_column(column, justify="left" if column == "network" else "right", no_wrap=True)
    for row in rows:
        counts = [str(row.counts[verdict] or "") for verdict in VERDICTS]
        edits = [str(n or "") for n in (row.corrected, row.replaced, row.attributes, row.anew)]
        name = f"{row.name} (not pruned)" if row.failed else row.name
        table.add_row(name, str(row.units), str(row.removed), *counts, *edits, f"{row.seconds:.1f}")
    console.print(table)
    plain = Console(soft_wrap=True, markup=False, highlight=False)
    for row in rows:
        if row.failed:
            plain.print(f"{row.name}: not pruned: {row.failed}")
    for verdict in ("fails too", "refused", "wrong", "raw"):
        for row in rows:
            for result in row.results:
                if result.verdict == verdict:
                    plain.print(f"{verdict}: {row.name}: {result.call}: {result.said}")
    unknown = Counter(name for row in rows for name in row.unknown)
    if unknown:
        plain.print("arguments without a value to try: " + ", ".join(f"{k} ({n})" for k, n in unknown.items()))
    total = sum((row.counts for row in rows), Counter())
    modules = [sum(getattr(row, key) for row in rows) for key in ("corrected", "replaced", "attributes", "anew")]
    plain.print(
        f"{len(rows)} networks, {sum(bool(row.failed) for row in rows)} not pruned; {total.total()} calls: "
        + ", ".join(f"{total[verdict]} {verdict}" for verdict in VERDICTS)
        + "; modules: {} corrected, {} replaced, {} with other attributes, {} written anew".format(*modules)
    )


def main(
    networks: Annotated[int, typer.Option(min=0, help="How many are drawn; 0: all.")] = 30,
    seed: Annotated[int, typer.Option(help="Of the drawing and of the scores.")] = 0,
    only: Annotated[str, typer.Option(help="Parts of names, separated by commas; nothing is drawn then.")] = "",
    out: Annotated[Path | None, typer.Option(help="Write a CSV file, a row for each call.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Of PyTorch.")] = 1,
) -> None:
    """Call pruned networks with every optional argument."""
    warnings.simplefilter("ignore")  # the libraries' own
    torch.set_num_threads(threads)
    parts = [part.strip() for part in only.split(",") if part.strip()]
    names = [name for name in NETWORKS if not parts or any(part in name for part in parts)]
    if not names:
        raise typer.BadParameter(f"no network has any of {parts} in its name", param_hint="--only")
    if not parts and networks:
        names = random.Random(seed).sample(names, min(networks, len(names)))
    rows = [measured(NETWORKS[name], seed) for name in track(names, "networks")]
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("w", newline="") as file:
            writer = csv.writer(file)
            keys = [key.name for key in fields(Result)]
            writer.writerow(keys)
            writer.writerows([getattr(result, key) for key in keys] for row in rows for result in row.results)
    show(rows, Console(width=180))
    if any(row.counts[verdict] for row in rows for verdict in TOO_BAD):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
