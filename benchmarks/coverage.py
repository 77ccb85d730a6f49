"""Which published networks can be pruned, how exactly, how fast; Torch-Pruning beside it in the same run.

    python benchmarks/coverage.py --json out/coverage.json            # all of them, an hour or so
    python benchmarks/coverage.py --json out/coverage.json --resume   # go on after an interruption
    python benchmarks/coverage.py --networks quick --no-peer
    python benchmarks/coverage.py --only swin_t,vit_b_16 --onnx
    python benchmarks/coverage.py --speed --rounds 9                  # tracing and surgery against Torch-Pruning's

Networks are as `tests/zoo_networks.py` builds them, with random weights that let everything matter. Each runs in a
process of its own under a time limit. Scores are random, the strategy is per-layer; half of the units go, then half of
the MACs. A network is *ok* when, for each plan,

* the pruned network says the same as the masked one (`sc.verify`): to 1e-5 of its largest output in single precision
  on the images, and, for the last plan, to 1e-9 in double precision on random inputs of another number as well;
* its parameters and MACs, counted on the network itself, are those that the structure foretold;

and the last pruned network, saved and loaded in a fresh process, says the same to the bit, and if asked for, its ONNX
export the same to 1e-4. MACs that cannot be halved are no failure: the reason is listed, with what is reached.

For half of the units, the table counts modules by what surgery does to their code: single calls *corrected*, attention
of PyTorch *replaced*, or written *anew* from what was traced.

Torch-Pruning runs with its default settings: magnitude importance, half of each layer, the classifier left alone. It
*works* when the network still runs, gives finite outputs of the same shapes and has fewer parameters. For ``--speed``
both sides rank at random, so that tracing and surgery are all that is timed; ours includes the copy of the network and
the check of the result, theirs works in place.
"""

from __future__ import annotations

import copy
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torchvision
import typer
from rich.console import Console
from rich.table import Table
from torch import nn

import secateur as sc
from secateur.core.files import read_json, write_json, write_text
from secateur.core.progress import track
from secateur.evaluation import count_macs, count_params

sys.path.pop(0)  # this folder, where this file would pass for the package of the same name
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import test_attribution_networks as relevance
from zoo_networks import QUICK_ZOO, ZOO, ZooNetwork, zoo_network

SHARE = 0.5
SINGLE, DOUBLE, EXPORTED = 1e-5, 1e-9, 1e-4
SPEED_NETWORKS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "densenet121")
PACKAGES = ("secateur", "torch", "torchvision", "timm", "transformers", "torch-pruning", "onnx", "onnxruntime")

Row = dict[str, Any]
Step = Callable[[str], None]


# -- one network, in a process of its own ----------------------------------------------------------------------------


def prepared(network: ZooNetwork) -> tuple[nn.Module, torch.Tensor]:
    """The network with weights that let everything matter, and images."""
    model, x = network.build(), network.inputs()
    with torch.no_grad():
        for parameter in model.parameters():
            # norms start at one and layer scales near zero, where errors would not show
            if parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all()) and parameter.any():
                parameter.uniform_(0.5, 1.5)
    momenta = {m: m.momentum for m in model.modules() if isinstance(m, relevance.NORMS)}
    relevance.lively(model, x)
    for norm, momentum in momenta.items():
        norm.momentum = momentum  # or the bundle holds a network that its name does not build
    return model.requires_grad_(False), x


def outputs(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """All tensors that a network gives."""
    with torch.no_grad():
        return list(_tensors(model(x)))


def _tensors(value: Any) -> Iterable[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)


def difference(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """Largest difference as a share of the largest output; infinity, as 1e300 for JSON, for other shapes or NaN."""
    worst = 0.0
    for a, b in zip(found, expected, strict=True):
        apart = float((a - b).abs().max() / b.abs().max()) if a.shape == b.shape else float("nan")
        worst = max(worst, apart if np.isfinite(apart) else 1e300)
    return worst


def ours(network: ZooNetwork, row: Row, step: Step, onnx: bool) -> None:
    """Everything that is measured of our own pruning, noted in ``row`` as it comes."""
    step("build")
    model, x = prepared(network)
    step("trace")
    try:
        structure, row["trace_s"] = timed(lambda: sc.trace(model, x[:1]))
    except sc.RequestError as error:
        if "stream=True" not in str(error):
            raise
        row["stream"] = True  # nothing can go unless norms run over what stays
        structure, row["trace_s"] = timed(lambda: sc.trace(model, x[:1], stream=True))
    describe(row, structure)
    step("count")
    whole = structure.cost()
    before = {"params": count_params(model), "macs": count_macs(model, x)}
    row["foretold"] = before == {"params": whole.params, "macs": whole.macs}
    scores = sc.Scores(structure, np.random.default_rng(0).random(structure.num_units), "random")
    row["plans"], plan, slim = {}, None, None
    for kind in ("units", "macs"):
        step(f"plan for {kind}")
        try:
            plan = sc.select(scores, sc.Budget.of(kind, SHARE), "per-layer")
        except sc.RequestError as error:
            row["plans"][kind] = {"unreachable": str(error)}
            continue
        found = row["plans"][kind] = {}
        step(f"prune for {kind}")
        slim, found["prune_s"] = timed(lambda plan=plan: sc.prune(model, plan))
        step(f"verify for {kind}")
        found["difference"] = worst(sc.verify(slim, model, plan, [x], random=False))
        found["modules"] = modules_by_edit(plan)
        cost = structure.cost(plan.keep(structure))
        counted = {"params": count_params(slim), "macs": count_macs(slim, x)}
        found["foretold"] = counted == {"params": cost.params, "macs": cost.macs}
        found |= {key: counted[key] / max(1, before[key]) for key in counted}
        found["units"] = cost.units / whole.units
        found["heads_removed"] = sum(
            len(plan.removed.get(g.name, ())) for g in structure.groups if kind_of(g) == "heads"
        )
    if plan is None or slim is None:
        return
    step("double precision")
    twice = copy.deepcopy(model).double()
    row["difference_double"] = worst(sc.verify(sc.prune(twice, plan), twice, plan, [x.double()]))
    step("reload")
    row["reload"] = reloaded(network, slim, plan, x)
    if onnx:
        step("onnx")
        row["onnx"] = exported(slim, x)


def worst(found: sc.Verification) -> float:
    """Largest difference as a share of the largest output; 1e300, which JSON can hold, for what cannot be compared."""
    for row in found.outputs:
        if row.problem or row.refused:
            raise RuntimeError(str(row))
    shares = [row.difference / row.scale if row.scale else row.difference for row in found.outputs]
    return max((share if np.isfinite(share) else 1e300 for share in shares), default=1e300)


def modules_by_edit(plan: sc.Plan) -> dict[str, int]:
    """How many modules surgery changes beyond their parameters, by how it does."""
    edits = plan.edits
    return {"corrected": len(edits.corrections), "replaced": len(edits.heads), "anew": len(edits.code)}


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """A result and the seconds it took."""
    begin = time.perf_counter()
    return call(), time.perf_counter() - begin


def kind_of(group: Any) -> str:
    """What its units are: channels, neurons, heads, ..."""
    return str(getattr(group, "kind", "channels"))


def describe(row: Row, structure: sc.Structure) -> None:
    """What can go and what cannot."""
    row["groups"] = len(structure.groups)
    row["units"] = structure.num_units
    row["kinds"] = dict(Counter(kind_of(group) for group in structure.groups for _ in range(group.size)))
    locked: Counter[str] = Counter()
    for item in structure.locked:
        locked[item.reason] += item.channels
    row["locked"] = dict(locked.most_common())
    row["locked_share"] = locked.total() / max(1, locked.total() + structure.num_units)


def reloaded(network: ZooNetwork, slim: nn.Module, plan: sc.Plan, x: torch.Tensor) -> float | str:
    """Difference after saving and loading in a fresh process; what it said when it could not."""
    with tempfile.TemporaryDirectory() as folder:
        sc.save(slim, Path(folder) / "bundle", plan=plan)
        torch.save({"x": x, "outputs": outputs(slim, x)}, Path(folder) / "seen.pt")
        command = [sys.executable, __file__, "reload", network.name, folder, str(torch.get_num_threads())]
        child = subprocess.run(command, capture_output=True, text=True, check=False)
        if child.returncode:
            return (child.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        said: float | str = json.loads(child.stdout.strip().splitlines()[-1])
        return said


def exported(slim: nn.Module, x: torch.Tensor) -> float:
    """Difference of the ONNX export."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "slim.onnx"
        torch.onnx.export(slim, (x,), str(file), dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        found = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        return difference([torch.from_numpy(np.asarray(value)) for value in found], outputs(slim, x))


def peer(network: ZooNetwork, row: Row, step: Step) -> None:
    """Torch-Pruning on the same network."""
    import torch_pruning as tp

    step("build")
    model, x = prepared(network)
    model.requires_grad_(True)  # it follows the graph of gradients
    before, params = outputs(model, x), count_params(model)
    step("trace")
    importance = tp.importance.MagnitudeImportance()
    pruner, row["trace_s"] = timed(lambda: peer_pruner(model, x[:1], importance, before))
    step("prune")
    _, row["prune_s"] = timed(pruner.step)
    step("run")
    after = outputs(model, x)
    if [a.shape for a in after] != [b.shape for b in before]:
        raise RuntimeError(f"its outputs have other shapes: {[tuple(a.shape) for a in after]}")
    if not all(torch.isfinite(a).all() for a in after):
        raise RuntimeError("its outputs are not finite")
    row["params"] = count_params(model) / params
    if row["params"] >= 1:
        raise RuntimeError("nothing was removed")


def peer_pruner(model: nn.Module, x: torch.Tensor, importance: Any, before: list[torch.Tensor]) -> Any:
    """Its default settings; the last layer that gives the outputs is left alone."""
    import torch_pruning as tp

    sizes = {tensor.shape[1] for tensor in before if tensor.ndim > 1}
    last = [m for m in model.modules() if getattr(m, "out_features", getattr(m, "out_channels", None)) in sizes][-1:]
    return tp.pruner.BasePruner(model, x, importance, pruning_ratio=SHARE, round_to=None, ignored_layers=last)


# -- all networks ----------------------------------------------------------------------------------------------------


def in_child(part: str, name: str, limit: float, threads: int, onnx: bool) -> Row:
    """One row, from a process that is ended after ``limit`` seconds; what it had noted until then stays."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "row.json"
        command = [sys.executable, __file__, part, name, str(file), str(threads), *(["--onnx"] if onnx else [])]
        begin = time.perf_counter()
        # a session of its own, so that its children end with it
        child = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            said = child.communicate(timeout=limit)[1]
            late = False
        except subprocess.TimeoutExpired:
            late = True
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                said = child.communicate()[1]
        row: Row = read_json(file) if file.is_file() else {"step": "start"}
        row["seconds"] = time.perf_counter() - begin
        if late:
            row["failed"] = f"over {limit:.0f} s in step '{row['step']}'"
        elif child.returncode and "failed" not in row:
            last = (said.strip().splitlines() or [""])[-1]
            row["failed"] = f"ended by {child.returncode} in step '{row['step']}': {last}"
        return row


def noted(run: Callable[[Row, Step], None], file: Path) -> None:
    """Run and write what is noted after every step, the failure too."""
    row: Row = {"step": "start"}

    def step(name: str) -> None:
        row["step"] = name
        write_json(file, row)

    try:
        run(row, step)
        row["step"] = "done"
    except Exception as error:  # noqa: BLE001 - a network may fail in any way; the reason is reported
        row["failed"] = f"{row['step']}: {reason(error)}"
    write_json(file, row)


def reason(error: Exception) -> str:
    """What went wrong, in one line."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def problems(row: Row) -> list[str]:
    """What keeps a row from being ok."""
    found = [row["failed"]] if "failed" in row else []
    if not row.get("foretold", True):
        found.append("the cost of the whole network is not what is counted")
    for kind, plan in row.get("plans", {}).items():
        if plan.get("difference", 0) > SINGLE:
            found.append(f"{kind}: differs from the masked network by {plan['difference']:.2g}")
        if not plan.get("foretold", True):
            found.append(f"{kind}: the cost is not what was foretold")
    if row.get("difference_double", 0) > DOUBLE:
        found.append(f"differs from the masked network by {row['difference_double']:.2g} in double precision")
    if row.get("reload", 0.0) != 0.0:
        found.append(f"reload: {row['reload']}")
    if row.get("onnx", 0.0) > EXPORTED:
        found.append(f"onnx: differs by {row['onnx']:.2g}")
    return found


def show(rows: dict[str, Row]) -> None:
    """Print the table and the notes."""
    table = Table(title=f"random scores, per-layer strategy, {SHARE:.0%} of the units, then of the MACs")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("network", "ok", "peer") else "right", no_wrap=True)
    for line in lines(rows):
        table.add_row(*line)
    Console(width=220).print(table)
    tell(rows)


COLUMNS = (
    "network", "ok", "groups", "units", "locked", "heads gone", "corrected", "replaced", "anew", "trace s", "prune s",
    "fp32", "fp64", "macs", "macs at 50 %", "params", "reload", "onnx", "peer", "peer s",
)  # fmt: skip


def markdown(rows: dict[str, Row]) -> str:
    """The table for a page."""
    body = ["| " + " | ".join(line) + " |" for line in lines(rows)]
    return "\n".join(["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|", *body]) + "\n"


def lines(rows: dict[str, Row]) -> Iterable[list[str]]:
    """Cells of each row."""
    for name, parts in rows.items():
        row, other = parts.get("ours", {}), parts.get("peer")
        units, macs = (row.get("plans", {}).get(kind, {}) for kind in ("units", "macs"))
        single = max((plan["difference"] for plan in (units, macs) if "difference" in plan), default=None)
        yield [
            name + (" (stream)" if row.get("stream") else ""),
            "NO" if problems(row) else "yes",
            cell(row.get("groups"), "d"),
            cell(row.get("units"), "d"),
            cell(row.get("locked_share"), ".0%"),
            cell(units.get("heads_removed") if row.get("kinds", {}).get("heads") else None, "d"),
            *(cell(units.get("modules", {}).get(key) or None, "d") for key in ("corrected", "replaced", "anew")),
            cell(row.get("trace_s"), ".1f"),
            cell(units.get("prune_s"), ".1f"),
            cell(single, ".0e"),
            cell(row.get("difference_double"), ".0e"),
            cell(units.get("macs"), ".0%"),
            "unreachable" if "unreachable" in macs else cell(macs.get("macs"), ".1%"),
            cell(units.get("params"), ".0%"),
            "cannot" if isinstance(row.get("reload"), str) else cell(row.get("reload"), ".0e"),
            cell(row.get("onnx"), ".0e"),
            "" if other is None else "fails" if "failed" in other else "works",
            "" if other is None or "failed" in other else cell(other["trace_s"] + other["prune_s"], ".1f"),
        ]


def tell(rows: dict[str, Row]) -> None:
    """What is wrong, what cannot be, and how many networks are well."""
    say = Console(soft_wrap=True, markup=False, highlight=False).print
    for name, parts in rows.items():
        for text in problems(parts.get("ours", {})):
            say(f"{name}: {text}")
    for name, parts in rows.items():
        for plan in parts.get("ours", {}).get("plans", {}).values():
            if "unreachable" in plan:
                say(f"{name}: {plan['unreachable']}")
    for name, parts in rows.items():
        if parts.get("ours", {}).get("locked"):
            say(f"{name}: locked: " + "; ".join(f"{n} {why}" for why, n in parts["ours"]["locked"].items()))
    for name, parts in rows.items():
        if "failed" in parts.get("peer", {}):
            say(f"{name}: Torch-Pruning: {parts['peer']['failed']}")
    edited = [plan["modules"] for parts in rows.values() if "modules" in (plan := halved_units(parts))]
    counts = {key: sum(modules[key] for modules in edited) for key in ("corrected", "replaced", "anew")}
    say("modules: " + ", ".join(f"{count} {key}" for key, count in counts.items()))
    good = sum("ours" in parts and not problems(parts["ours"]) for parts in rows.values())
    theirs = [parts["peer"] for parts in rows.values() if "peer" in parts]
    said = f"; Torch-Pruning works on {sum('failed' not in row for row in theirs)} of {len(theirs)}" if theirs else ""
    say(f"ok: {good} of {len(rows)} networks{said}")


def halved_units(parts: dict[str, Row]) -> Row:
    """What was measured with half of the units."""
    found: Row = parts.get("ours", {}).get("plans", {}).get("units", {})
    return found


def cell(value: Any, form: str) -> str:
    """Formatted, or nothing."""
    return "" if value is None else format(value, form)


# -- speed -----------------------------------------------------------------------------------------------------------


def speed(names: Iterable[str], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of tracing and surgery by round, both sides in turn."""
    import torch_pruning as tp

    def run_ours(model: nn.Module, x: torch.Tensor) -> tuple[float, float, float]:
        structure, trace_s = timed(lambda: sc.trace(model, x))
        scores = sc.Scores(structure, np.random.default_rng(0).random(structure.num_units), "random")
        plan, select_s = timed(lambda: sc.select(scores, sc.Budget(units=SHARE), "per-layer"))
        prune_s = timed(lambda: sc.prune(model, plan, check=False))[1]
        return trace_s, select_s + prune_s, timed(lambda: sc.prune(model, plan))[1] - prune_s

    def run_theirs(model: nn.Module, x: torch.Tensor) -> tuple[float, float, float]:
        made = copy.deepcopy(model)  # not timed: it works in place
        importance = tp.importance.RandomImportance()
        pruner, trace_s = timed(lambda: peer_pruner(made, x, importance, [torch.empty(1, 1000)]))
        return trace_s, timed(pruner.step)[1], 0.0

    found: dict[str, dict[str, list[float]]] = {}
    sides = [("ours", run_ours), ("peer", run_theirs)]
    for name in track(list(names), "networks"):
        torch.manual_seed(0)
        model, x = torchvision.models.get_model(name, weights=None).eval(), torch.randn(1, 3, 224, 224)
        times: dict[str, list[float]] = {}
        for number in range(-1, rounds):  # one round to warm up
            for side, run in sides if number % 2 else sides[::-1]:
                trace_s, prune_s, check_s = run(model, x)
                if number >= 0:
                    both = trace_s + prune_s
                    for key, value in (("trace", trace_s), ("prune", prune_s), ("both", both), ("check", check_s)):
                        times.setdefault(f"{side}_{key}", []).append(value)
        found[name] = times
    return found


def show_speed(found: dict[str, dict[str, list[float]]], rounds: int) -> None:
    """Print medians and the quartiles of the ratio."""
    table = Table(title=f"seconds, medians of {rounds} rounds, half of the units by random scores, 224 px")
    for column in ("network", "trace", "peer's", "surgery", "peer's", "both", "peer's", "peer's / ours", "our check"):
        table.add_column(column, justify="left" if column == "network" else "right", no_wrap=True)
    for name, times in found.items():
        middle = {key: float(np.median(values)) for key, values in times.items()}
        low, ratio, high = np.quantile(np.divide(times["peer_both"], times["ours_both"]), (0.25, 0.5, 0.75))
        cells = [f"{middle[f'{side}_{key}']:.2f}" for key in ("trace", "prune", "both") for side in ("ours", "peer")]
        table.add_row(name, *cells, f"{ratio:.2f} ({low:.2f}, {high:.2f})", f"{middle['ours_check']:.2f}")
    Console(width=120).print(table)


# -- command line ----------------------------------------------------------------------------------------------------

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    networks: Annotated[str, typer.Option(help="quick or all.")] = "all",
    only: Annotated[str, typer.Option(help="Names, separated by commas; goes before --networks.")] = "",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures here, row by row.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Keep the rows that the JSON file already has.")] = False,
    with_peer: Annotated[bool, typer.Option("--peer/--no-peer", help="Run Torch-Pruning too.")] = True,
    onnx: Annotated[bool, typer.Option("--onnx", help="Compare the ONNX export too.")] = False,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds for each network.")] = 240,
    peer_timeout: Annotated[float, typer.Option(min=1, help="Seconds for each network, Torch-Pruning.")] = 120,
    threads: Annotated[int, typer.Option(min=1, help="Of PyTorch.")] = 1,
    speed_mode: Annotated[bool, typer.Option("--speed", help="Time tracing and surgery instead.")] = False,
    rounds: Annotated[int, typer.Option(min=1, help="With --speed.")] = 5,
    page: Annotated[Path | None, typer.Option("--markdown", help="Write the table here as well.")] = None,
) -> None:
    """Prune published networks; a table, and what is wrong or cannot be."""
    if context.invoked_subcommand is not None:
        return
    warnings.simplefilter("ignore")  # the libraries' own
    if speed_mode:
        torch.set_num_threads(threads)
        chosen = choose(only, SPEED_NETWORKS, SPEED_NETWORKS)
        times = speed(chosen, rounds)
        show_speed(times, rounds)
        if json_file is not None:
            write_json(json_file, {"machine": machine(threads), "rounds": rounds, "speed": times})
        return
    if resume and json_file is None:
        raise typer.BadParameter("needs --json FILE to read the rows from", param_hint="--resume")
    if networks not in ("quick", "all"):
        raise typer.BadParameter(f"unknown '{networks}'; known: quick, all", param_hint="--networks")
    report: dict[str, Any] = {"machine": machine(threads), "timeout": timeout, "peer_timeout": peer_timeout, "rows": {}}
    if resume and json_file is not None and json_file.is_file():
        report["rows"] = read_json(json_file)["rows"]
    for name in track(choose(only, QUICK_ZOO if networks == "quick" else tuple(ZOO), ZOO), "networks"):
        row = report["rows"].setdefault(name, {})
        asked = [("ours", timeout, onnx), *([("peer", peer_timeout, False)] if with_peer else [])]
        for part, limit, export in asked:
            if part not in row or (export and "onnx" not in row[part] and "failed" not in row[part]):
                row[part] = in_child(part, name, limit, threads, export)
                if json_file is not None:
                    write_json(json_file, report)
    show(report["rows"])
    if page is not None:
        write_text(page, markdown(report["rows"]))


def choose(only: str, default: Iterable[str], known: Iterable[str]) -> list[str]:
    """The names in a list with commas, or the default."""
    found = [name.strip() for name in only.split(",") if name.strip()]
    for name in found:
        if name not in set(known):
            raise typer.BadParameter(f"unknown '{name}'; known: {', '.join(known)}", param_hint="--only")
    return found or list(default)


def machine(threads: int) -> dict[str, Any]:
    """Where and with what this was measured."""
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    return {"threads": threads, "cores": os.cpu_count(), "python": platform.python_version(), "packages": packages}


@app.command("ours", hidden=True)
def ours_command(name: str, file: Path, threads: int, onnx: bool = False) -> None:
    """One network, ours; the row goes to a file."""
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    noted(lambda row, step: ours(zoo_network(name), row, step, onnx), file)


@app.command("peer", hidden=True)
def peer_command(name: str, file: Path, threads: int) -> None:
    """One network, Torch-Pruning; the row goes to a file."""
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    noted(lambda row, step: peer(zoo_network(name), row, step), file)


@app.command("reload", hidden=True)
def reload_command(name: str, folder: Path, threads: int) -> None:
    """Load a bundle and write how far it is from what was saved with it, or why it cannot, to standard output."""
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    network, seen = zoo_network(name), torch.load(folder / "seen.pt", weights_only=True)
    # other weights than those that were saved
    found: float | str
    try:
        slim = sc.load(folder / "bundle", model=None if network.by_name else network.build(seed=1))
        found = difference(outputs(slim, seen["x"]), seen["outputs"])
    except Exception as error:  # noqa: BLE001 - the reason is reported
        found = reason(error)
    sys.stdout.write("\n" + json.dumps(found) + "\n")


if __name__ == "__main__":
    app()
