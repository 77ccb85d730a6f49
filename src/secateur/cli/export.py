"""secateur export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.options import ArchitectureOption, DryOption, OutOption, TrustOption, WeightsOption
from secateur.core.errors import RequestError

RECORD = "export.json"


def command(
    model: Annotated[str, typer.Argument(help="A bundle folder, resnet20-cifar10, torchvision/NAME, timm/NAME, ...")],
    format: Annotated[str, typer.Option("--format", help="onnx, openvino, torch-export, executorch.")] = "onnx",
    out: OutOption = Path("out/export"),
    against: Annotated[
        str | None, typer.Option("--against", help="The network before pruning: a name or a bundle folder.")
    ] = None,
    weights: WeightsOption = None,
    architecture: ArchitectureOption = None,
    shape: Annotated[str | None, typer.Option("--shape", help="Input shape C,H,W; a bundle knows its own.")] = None,
    batch: Annotated[int | None, typer.Option("--batch", help="Take this batch size only; else any.")] = None,
    opset: Annotated[int | None, typer.Option("--opset", help="Of ONNX; else the exporter's default.")] = None,
    trust_code: TrustOption = None,
    repeats: Annotated[int, typer.Option("--repeats", min=0, help="Timed rounds per batch size; 0: none.")] = 16,
    dry_run: DryOption = False,
) -> None:
    """Export a network to another runtime.

    Checked against PyTorch and timed beside it, before and after pruning.
    """
    from secateur.core.files import check_writable
    from secateur.core.progress import announce
    from secateur.exporting.formats import check_export
    from secateur.models.settings import ModelSettings, check_model

    check_export(format, batch, opset)
    sizes = None if shape is None else _shape(shape)
    asked = ModelSettings(name=model, weights=weights, architecture=architecture, trust_code=bool(trust_code))
    check_model(asked)
    if against is not None:
        check_model(ModelSettings(name=against, trust_code=bool(trust_code)))
    check_writable(out.parent)
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / RECORD).is_file())):
        raise RequestError(f"'{out}' exists and is not an export; choose another folder")
    announce("loading PyTorch")
    from secateur.cli.exported import ExportJob

    job = ExportJob.of(asked, against, sizes)
    if dry_run:
        job.show_plan(format, repeats, out)
        return
    job.run(format, out, batch=batch, opset=opset, repeats=repeats)


def _shape(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(n) for n in text.split(","))
    except ValueError as error:
        raise RequestError(f"--shape should read C,H,W, got '{text}'") from error
    if min(sizes) < 1:
        raise RequestError(f"--shape should hold positive sizes, got '{text}'")
    return sizes
