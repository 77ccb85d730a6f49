"""The report of the study, and its figure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from secateur import reports as rp
from secateur.core.devices import choose_device
from secateur.experiments import Tables
from secateur.pipeline.pages import origin
from secateur.studies.prototypes.cells import UNPRUNED
from secateur.studies.prototypes.findings import lines, unpruned
from secateur.studies.prototypes.settings import PrototypeStudySettings
from secateur.studies.prototypes.tables import LAST, TUNED

if TYPE_CHECKING:
    import pandas as pd


def prototype_page(tables: Tables, settings: PrototypeStudySettings) -> rp.Report:
    """The report."""
    whole, ways = unpruned(tables), lines(tables)
    base, purity = float(whole["accuracy"].mean()), float(whole["purity"].mean())
    data, backbone = Path(settings.data.source).stem, settings.network.backbone
    return rp.Report(
        title=f"Prototype networks pruned: {backbone} on {data}",
        subtitle=f"{len(settings.variants.ways)} ways, {len(whole)} trained networks, unpruned {100 * base:.2f} %",
        sections=[
            rp.JointPruning(ways, base, purity),
            rp.Comparison(rp.read_rows(rp.ComparisonRow, _curves(tables, settings))),
        ],
        conditions=_conditions(tables, settings),
        **origin(settings),
    )


def write_figure(tables: Tables, settings: PrototypeStudySettings, path: Path) -> Path | None:
    """Accuracy over MACs, as SVG; None where nothing was pruned."""
    rows = _curves(tables, settings)
    pruned = rows[rows["criterion"] != UNPRUNED]
    if not len(pruned):
        return None
    return rp.save_curves(pruned, path, float(unpruned(tables)["accuracy"].mean()), _conditions(tables, settings))


def _curves(tables: Tables, settings: PrototypeStudySettings) -> pd.DataFrame:
    """Rows as the curves take them: after the cut, and after all training."""
    measured = tables["measured"]
    shown = measured[measured["stage"] != LAST]
    pruned = shown["way"] != UNPRUNED
    columns = {"macs": shown["macs"], "params": shown["params"], "accuracy": shown["accuracy"]}
    columns |= {"balanced_accuracy": shown["balanced_accuracy"], "samples": shown["samples"], "seed": shown["seed"]}
    return shown[[]].assign(
        **columns,
        model=settings.network.backbone,
        dataset=Path(settings.data.source).stem,
        criterion=shown["way"],
        strategy=pruned.map({True: "", False: "unpruned"}),
        budget_kind="macs",
        budget=shown["budget"],
        finetuned=shown["stage"] == TUNED,
    )


def _conditions(tables: Tables, settings: PrototypeStudySettings) -> rp.Conditions:
    return rp.Conditions(
        data=Path(settings.data.source).stem,
        split=settings.measure.split,
        samples=int(unpruned(tables)["samples"].iloc[0]),
        seeds=list(settings.variants.seeds),
        reference_per_class=settings.reference.per_class,
        device=str(choose_device(settings.device)),
        threads=torch.get_num_threads(),
    )
