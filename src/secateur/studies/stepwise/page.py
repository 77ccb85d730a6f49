"""The report of the study, and its figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import torch

from secateur import reports as rp
from secateur.core.devices import choose_device
from secateur.experiments import Tables
from secateur.pipeline.pages import origin
from secateur.studies.stepwise.cells import UNPRUNED
from secateur.studies.stepwise.findings import labels, recovered, summary, unpruned
from secateur.studies.stepwise.settings import StepwiseSettings
from secateur.studies.stepwise.tables import PRUNED, TUNED


def stepwise_page(tables: Tables, settings: StepwiseSettings, watched: str | None = None) -> rp.Report:
    """The report.

    Args:
        tables: assembled.
        settings: of the study.
        watched: class that the table names.
    """
    steps, made = tables["steps"], origin(settings)
    made["notes"] = [*recovered(tables), *tables["notes"]["note"], *made["notes"]]
    asked = settings.steps
    kind = {"macs": "MACs", "params": "parameters", "units": "units"}[asked.kind]
    how = f"{asked.step:.0%} of {'all' if asked.of == 'whole' else 'the remaining'} {kind} in each step"
    epochs, final = settings.finetune.epochs, settings.final_epochs
    trained = f"{epochs} epoch{'s' * (epochs != 1)} of training after each"
    trained += f" and {final} more at the end" if final else ""
    section = rp.Steps(
        rows=rp.read_rows(rp.StepRow, _plain(steps)),
        recalls=rp.read_rows(rp.RecallRow, _recalls(tables)),
        summary=summary(tables, watched) if (steps["criterion"] != UNPRUNED).any() else [],
        watched=watched if watched is not None and (tables["classes"]["class"] == watched).any() else "",
    )
    return rp.Report(
        title=f"Pruned step by step: {settings.model.name} on {Path(settings.data.source).stem}",
        subtitle=f"{how}, {len(asked.shares())} steps, {trained}, unpruned {100 * unpruned(tables)['accuracy']:.2f} %",
        sections=[section, *_heatmaps(tables)],
        conditions=_conditions(tables, settings),
        **made,
    )


def write_figure(tables: Tables, settings: StepwiseSettings, path: Path) -> Path:
    """Accuracy and MACs over the steps, as SVG."""
    return rp.save_steps(_plain(tables["steps"]), path, _conditions(tables, settings))


def _plain(steps: pd.DataFrame) -> pd.DataFrame:
    """With the names that criteria are shown by."""
    named = labels(steps)
    return steps.assign(criterion=[named[way] for way in zip(steps["protocol"], steps["criterion"], strict=True)])


def _recalls(tables: Tables) -> pd.DataFrame:
    """Of the unpruned network, and after fine-tuning, where there is some."""
    classes = tables["classes"]
    stage = TUNED if (classes["stage"] == TUNED).any() else PRUNED
    shown = classes[(classes["stage"] == stage) | (classes["step"] == 0)]
    return _plain(shown).rename(columns={"class": "class_name"})


def _heatmaps(tables: Tables) -> list[rp.Heatmaps]:
    """The same images by the unpruned network and by what is left of it."""
    pictures, named = tables["pictures"], labels(tables["steps"])
    if not len(pictures):
        return []
    before = {row["image"]: row for row in pictures[pictures["criterion"] == UNPRUNED].to_dict("records")}
    found = []
    for row in pictures[pictures["criterion"] != UNPRUNED].to_dict("records"):
        first = before.get(row["image"])
        if first is not None:
            caption = (
                f"before: {first['predicted']}, after: {row['predicted']}; cosine of the heatmaps {row['cosine']:.2f}"
            )
            name = named.get((row["protocol"], row["criterion"]), row["criterion"])
            title = f"{row['label']} (image {row['image']}): {name}, {row['protocol']}"
            found.append(rp.Heatmap(title, first["pixels"], first["relevance"], row["relevance"], caption))
    return [rp.Heatmaps(found)] if found else []


def _conditions(tables: Tables, settings: StepwiseSettings) -> rp.Conditions:
    classes = tables["classes"]
    counts = classes[classes["criterion"] == UNPRUNED].set_index("class")["samples"]
    timed: dict[str, Any] = {"latency_batch": settings.timing.batch, "latency_rounds": settings.timing.repeats}
    return rp.Conditions(
        data=Path(settings.data.source).stem,
        split=settings.measure.split,
        samples=int(unpruned(tables)["samples"]),
        class_samples={str(name): int(count) for name, count in counts.items()},
        seeds=list(settings.variants.seeds),
        device=str(choose_device(settings.device)),
        threads=torch.get_num_threads(),
        **(timed if settings.timing.repeats else {}),
    )
