"""What export opens, writes and prints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
import typer
import yaml
from rich.console import Console
from torch import nn

from secateur.cli.export import RECORD
from secateur.cli.present import show, show_lines
from secateur.core.errors import RequestError
from secateur.core.figures import milliseconds
from secateur.core.figures import size as file_size
from secateur.core.files import atomic_folder, write_json
from secateur.core.timing import busy_warning
from secateur.exporting import ExportRow, export_networks
from secateur.exporting.conversion import TOLERANCE
from secateur.models import build, input_shape, origin_of
from secateur.models.opening import build_architecture, open_network
from secateur.models.settings import SHIPPED, ModelSettings, kind_of
from secateur.surgery import edits_of, read_bundle
from secateur.surgery.bundle import Bundle


@dataclass(frozen=True, eq=False)
class ExportJob:
    """Networks to be exported.

    Attributes:
        name: of the network, as it was asked for.
        networks: by row name, the original first.
        metadata: what each file says of its inputs.
        shape: of one sample.
    """

    name: str
    networks: dict[str, nn.Module]
    metadata: dict[str, dict[str, Any]]
    shape: tuple[int, ...]

    @classmethod
    def of(cls, asked: ModelSettings, against: str | None, shape: tuple[int, ...] | None) -> Self:
        """Open the networks."""
        model, about, bundle = _open(asked)
        networks, metadata = {"model": model}, {"model": about}
        if against is not None:
            original, record, _ = _open(asked.model_copy(update={"name": against, "weights": None}))
            networks, metadata = {"original": original, "pruned": model}, {"original": record, "pruned": about}
        elif bundle is not None and edits_of(model).cuts:
            networks, metadata = _with_original(bundle, Path(asked.name), about)
        return cls(asked.name, networks, metadata, shape or _shape(model, bundle, asked.name))

    def show_plan(self, format: str, repeats: int, out: Path) -> None:
        """What would be done."""
        size = " x ".join(map(str, self.shape))
        timed = f", timed over {repeats} rounds" if repeats else ""
        show_lines(
            [
                "the request is right; nothing was done",
                f"export {' and '.join(self.networks)} for inputs of {size} as {format}, checked in PyTorch{timed}",
                f"results: {out}",
            ]
        )

    def run(self, format: str, out: Path, *, batch: int | None, opset: int | None, repeats: int) -> None:
        """Files and their record into ``out``, tables on the terminal."""
        example = torch.randn(2, *self.shape, generator=torch.Generator().manual_seed(0))
        with atomic_folder(out) as folder:
            rows = export_networks(
                self.networks, folder, example, format, batch=batch, opset=opset, metadata=self.metadata,
                repeats=repeats,
            )  # fmt: skip
            record = {
                "version": 1,
                "model": self.name,
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
                    f"'{row.name}' gives the same outputs for all inputs, so its check says nothing; "
                    "load trained weights"
                )
        show(*_table(rows, format), title=f"{self.name} as {format}, {torch.get_num_threads()} thread(s)")
        for line in _latency(rows, format):
            typer.echo(line)
        files = "\n".join(f"{row.name}: {out / row.exported.path.name}" for row in rows)
        typer.echo(f"{files}\nrecord: {out / RECORD}")


def _with_original(
    bundle: Bundle, folder: Path, about: dict[str, Any]
) -> tuple[dict[str, nn.Module], dict[str, dict[str, Any]]]:
    """A pruned network beside the one it came from."""
    found = _original(bundle, folder)
    if found is not None:
        return {"original": found, "pruned": bundle.model}, {"original": about, "pruned": about}
    origin = bundle.architecture.get("origin")
    if origin is None:
        _note("the network before pruning is not at hand, and is left out; --against names it")
        return {"model": bundle.model}, {"model": about}
    _note(
        "the weights before pruning are not at hand, the original is exported with random ones; --against names another"
    )
    # the name says it, lest the file be taken for the trained network
    blank = "original-random-weights"
    return {blank: build(origin["name"], **origin["arguments"]), "pruned": bundle.model}, {
        blank: {**about, "weights": "random"},
        "pruned": about,
    }


def _open(asked: ModelSettings) -> tuple[nn.Module, dict[str, Any], Bundle | None]:
    if kind_of(asked.name) == "bundle":
        bundle = read_bundle(asked.name, model=build_architecture(asked))
        return bundle.model, bundle.architecture.get("data", {}), bundle
    opened = open_network(asked)
    if opened.new_head:
        _note(f"'{asked.name}' has a new head with random weights; train it first (secateur train)")
    elif not opened.trained:
        _note(f"'{asked.name}' has random weights; give --weights FILE or a bundle folder")
    recorded = ("normalisation", "resize", "class_names")
    known = {key: opened.metadata[key] for key in recorded if key in opened.metadata}
    return opened.model, known, None


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


def _shape(model: nn.Module, bundle: Bundle | None, name: str) -> tuple[int, ...]:
    """Of one sample: as the bundle was traced, or what networks of this kind usually take."""
    if bundle is None:
        return input_shape(model)
    inputs = (bundle.plan or {}).get("inputs")
    inputs = inputs[0] if isinstance(inputs, list) and len(inputs) == 1 else inputs
    if isinstance(inputs, dict) and "shape" in inputs:
        return tuple(int(n) for n in inputs["shape"][1:])
    raise RequestError(f"bundle '{name}' does not record one input shape; give --shape C,H,W")


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
