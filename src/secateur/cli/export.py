"""secateur export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import typer
import yaml
from rich.console import Console
from torch import nn

from secateur.cli.options import OutOption, WeightsOption
from secateur.cli.present import show
from secateur.core.errors import RequestError
from secateur.core.figures import milliseconds
from secateur.core.figures import size as file_size
from secateur.core.files import atomic_folder, write_json
from secateur.core.timing import busy_warning
from secateur.exporting import ExportRow, export_networks
from secateur.exporting.conversion import TOLERANCE, check_format, writable_parent
from secateur.models import build, input_shape, origin_of, read_metadata
from secateur.models.building import SHIPPED, shipped_metadata
from secateur.surgery import edits_of, read_bundle
from secateur.surgery.bundle import Bundle

RECORD = "export.json"


def command(
    model: Annotated[str, typer.Argument(help="A bundle folder, resnet20-cifar10, torchvision/NAME, timm/NAME, ...")],
    format: Annotated[str, typer.Option("--format", help="onnx, openvino, torch-export, executorch.")] = "onnx",
    out: OutOption = Path("out/export"),
    against: Annotated[
        str | None, typer.Option("--against", help="The network before pruning: a name or a bundle folder.")
    ] = None,
    weights: WeightsOption = None,
    shape: Annotated[str | None, typer.Option("--shape", help="Input shape C,H,W; a bundle knows its own.")] = None,
    batch: Annotated[int | None, typer.Option("--batch", help="Take this batch size only; else any.")] = None,
    opset: Annotated[int | None, typer.Option("--opset", help="Of ONNX; else the exporter's default.")] = None,
    repeats: Annotated[int, typer.Option("--repeats", min=0, help="Timed rounds per batch size; 0: none.")] = 16,
) -> None:
    """Export a network to another runtime, checked against PyTorch and timed beside it, before and after pruning."""
    check_format(format)
    writable_parent(out)
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / RECORD).is_file())):
        raise RequestError(f"'{out}' exists and is not an export; choose another folder")
    networks, metadata = _networks(model, weights, against)
    example = torch.randn(2, *_shape(shape, model), generator=torch.Generator().manual_seed(0))
    with atomic_folder(out) as folder:
        rows = export_networks(
            networks, folder, example, format, batch=batch, opset=opset, metadata=metadata, repeats=repeats
        )  # fmt: skip
        record = {
            "version": 1,
            "model": model,
            "format": format,
            "input_shape": [batch, *example.shape[1:]],
            "tolerance": TOLERANCE,
            "threads": torch.get_num_threads(),
            "repeats": repeats,
            "networks": [row.to_json() for row in rows],
        }
        write_json(folder / RECORD, record)
    for row in rows:
        if row.exported.constant:
            _note(
                f"'{row.name}' gives the same outputs for all inputs, so its check says nothing; load trained weights"
            )
    show(*_table(rows, format), title=f"{model} as {format}, {torch.get_num_threads()} thread(s)")
    for line in _latency(rows, format):
        typer.echo(line)
    typer.echo("\n".join(f"{row.name}: {out / row.exported.path.name}" for row in rows) + f"\nrecord: {out / RECORD}")


def _networks(
    name: str, weights: Path | None, against: str | None
) -> tuple[dict[str, nn.Module], dict[str, dict[str, Any]]]:
    """The networks to export by row name, the original first, and what each file says of its inputs."""
    model, about, bundle = _open(name, weights)
    if against is not None:
        original, record, _ = _open(against, None)
        return {"original": original, "pruned": model}, {"original": record, "pruned": about}
    if bundle is None or not edits_of(model).cuts:
        return {"model": model}, {"model": about}
    found = _original(bundle, Path(name))
    if found is not None:
        return {"original": found, "pruned": model}, {"original": about, "pruned": about}
    _note("the weights before pruning are not at hand, the original is exported with random ones; "
          "--against names another")  # fmt: skip
    origin = bundle.architecture["origin"]
    # the name says it, lest the file be taken for the trained network
    blank = "original-random-weights"
    return {blank: build(origin["name"], **origin["arguments"]), "pruned": model}, {
        blank: {**about, "weights": "random"},
        "pruned": about,
    }


def _open(name: str, weights: Path | None) -> tuple[nn.Module, dict[str, Any], Bundle | None]:
    if Path(name).is_dir():
        if weights is not None:
            raise RequestError(f"'{name}' is a bundle and brings its weights; leave --weights away")
        bundle = read_bundle(name)
        return bundle.model, bundle.architecture.get("data", {}), bundle
    record = shipped_metadata(name) or (read_metadata(weights) if weights else {})
    arguments = {"num_classes": len(record["class_names"])} if weights and record.get("class_names") else {}
    known: dict[str, Any] = {key: record[key] for key in ("normalisation", "class_names") if key in record}
    model = build(name, weights, **arguments)
    if name not in SHIPPED and weights is None:
        _note(f"'{name}' has random weights; give --weights FILE or a bundle folder")
    return model, known, None


def _original(bundle: Bundle, folder: Path) -> nn.Module | None:
    """The network before pruning, with its weights, where the bundle's recipe still leads to them."""
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    settings = recipe.get("model", {}) if isinstance(recipe, dict) else {}
    name, weights, origin = settings.get("name"), settings.get("weights"), bundle.architecture["origin"]
    if not isinstance(name, str) or not (name in SHIPPED or weights or Path(name).is_dir()):
        return None
    try:
        found = read_bundle(name).model if Path(name).is_dir() else build(name, weights, **origin["arguments"])
    except RequestError as error:
        _note(f"the network before pruning cannot be loaded ({error})")
        return None
    return found if origin_of(found) == origin and not edits_of(found).cuts else None


def _shape(given: str | None, name: str) -> tuple[int, ...]:
    """Of one sample: as asked for, as the bundle was traced, or what networks of this kind usually take."""
    if given is not None:
        try:
            sizes = tuple(int(n) for n in given.split(","))
        except ValueError as error:
            raise RequestError(f"--shape should read C,H,W, got '{given}'") from error
        if min(sizes) < 1:
            raise RequestError(f"--shape should hold positive sizes, got '{given}'")
        return sizes
    if Path(name).is_dir():
        bundle = read_bundle(name)
        inputs = (bundle.plan or {}).get("inputs")
        inputs = inputs[0] if isinstance(inputs, list) and len(inputs) == 1 else inputs
        if isinstance(inputs, dict) and "shape" in inputs:
            return tuple(int(n) for n in inputs["shape"][1:])
        raise RequestError(f"bundle '{name}' does not record one input shape; give --shape C,H,W")
    return input_shape(build(name))


def _note(text: str) -> None:
    Console(stderr=True, soft_wrap=True).print(f"note: {text}", markup=False)


def _latency(rows: list[ExportRow], format: str) -> list[str]:
    """What the times say, one line each: all networks and runtimes are timed in turn."""
    lines, first = [], rows[0]
    for place, timing in enumerate(first.timings):
        where = f"latency, batch of {timing.batch_size}"
        lines.append(f"{where}: '{first.name}' in {format} against PyTorch, {timing.runtime.relative}")
        for row in rows[1:]:
            times = row.timings[place]
            for name, found in (("PyTorch", times.torch), (format, times.runtime)):
                lines.append(f"{where}: '{row.name}' against '{first.name}' in {name}, {found.relative}")
    spread = max((t.torch.spread for t in first.timings), default=None)
    warning = busy_warning(spread)
    return lines + ([f"warning: latency {warning}"] if warning else [])


def _table(rows: list[ExportRow], format: str) -> tuple[list[str], list[list[object]]]:
    """Header and rows: times per batch size, file, parity."""
    sizes = [timing.batch_size for timing in rows[0].timings]
    header = [""]
    for size in sizes:
        header += [f"PyTorch, batch {size}", format]
    lines: list[list[object]] = []
    for row in rows:
        times = [milliseconds(found.median_ms) for t in row.timings for found in (t.torch, t.runtime)]
        top = {None: "", True: ", same top class"}.get(row.exported.top1_equal, "")
        on_disk = file_size(row.exported.bytes)
        parity = "constant outputs" if row.exported.constant else f"{row.exported.difference:.0e}{top}"
        lines.append([row.name, *times, on_disk, parity])
    return [*header, "file", "parity"], lines
