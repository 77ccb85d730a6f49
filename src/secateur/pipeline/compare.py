"""Criteria side by side under the same strategy, budgets and seeds: one tidy row per measurement."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from secateur.core.files import atomic_path, read_json, write_json
from secateur.core.progress import track
from secateur.core.randomness import numpy_generator
from secateur.criteria import Criterion, get, parse
from secateur.data import ImageData, ReferenceSet, loader
from secateur.evaluation import Evaluation, evaluate, measure_latency
from secateur.pipeline.compress import Compressed, PruneSettings, prune_to_budgets
from secateur.selection import Budget
from secateur.structure import Structure, trace
from secateur.training import TrainSettings, fit

COLUMNS = (
    "model",
    "dataset",
    "criterion",
    "strategy",
    "seed",
    "budget_kind",
    "budget",
    "units",
    "params",
    "macs",
    "accuracy",
    "balanced_accuracy",
    "loss",
    "latency_ms",
    "latency_share",
    "size_bytes",
    "finetuned",
)


class CompareSettings(BaseModel):
    """What to compare.

    ``criteria`` are names, with parameters behind a colon: ``lrp:composite=epsilon-plus,reduce=abs``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    criteria: tuple[str, ...] = (
        "lrp",
        "lrp:composite=epsilon-plus",
        "taylor",
        "grad",
        "activation",
        "weight",
        "random",
    )
    budgets: tuple[float, ...] = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
    kind: Literal["macs", "params", "units"] = "macs"
    seeds: tuple[int, ...] = (0, 1, 2)
    per_class: int = Field(default=10, ge=1, description="reference samples of each class")
    published: bool = Field(default=True, description="also one-shot, global, uncompensated, as in published studies")
    split: Literal["val", "test"] = "test"
    limit: int | None = Field(
        default=None, ge=1, description="measure on this many images of the split, drawn by chance"
    )
    latency_repeats: int = Field(default=5, ge=0, description="0: do not time")
    latency_batch: int = Field(default=64, ge=1)


def compare(
    model: nn.Module,
    data: ImageData,
    settings: CompareSettings,
    prune_settings: PruneSettings,
    *,
    model_name: str = "model",
    finetune: TrainSettings | None = None,
    folder: str | Path | None = None,
    keep: dict[str, Compressed] | None = None,
) -> list[dict[str, Any]]:
    """Prune by every criterion to every budget for every seed, and measure.

    Args:
        model: trained network; untouched.
        data: reference samples come from its training split.
        settings: what to compare.
        prune_settings: the strategy all criteria share.
        model_name: for the table.
        finetune: also measure after this training, when it has epochs.
        folder: finished parts are kept there and found again after an interruption.
        keep: when given, filled with the last seed's pruned network of each criterion at the smallest budget (after
            fine-tuning, if any); such parts are always computed.

    Returns:
        Rows with the keys of `COLUMNS`, first one for the unpruned network (budget 1).
    """
    for text in settings.criteria:
        name, parameters = parse(text)
        get(name, **parameters)
    evaluated = getattr(data, settings.split)
    if settings.limit is not None and settings.limit < len(evaluated):
        drawn = numpy_generator(0, "compare", settings.split).permutation(len(evaluated))[: settings.limit]
        evaluated = evaluated.subset(np.sort(drawn))
    example = data.test.batch([0])[0].to(next(model.parameters()).device)
    structure = trace(model, example)
    identity = _identity(model, data, settings, prune_settings, finetune)
    variants = [PruneSettings.published(batch_size=prune_settings.batch_size)] if settings.published else []
    variants.append(prune_settings)
    baseline = evaluate(model, loader(evaluated), class_names=data.class_names)
    probe = evaluated.batch(range(min(settings.latency_batch, len(evaluated))))[0]
    common = {"model": model_name, "dataset": data.name}
    before_ms = (
        measure_latency([model], probe, repeats=settings.latency_repeats)[0].median_ms
        if settings.latency_repeats
        else None
    )
    rows = [
        _row(
            common,
            "none",
            "unpruned",
            0,
            settings.kind,
            1.0,
            {"units": 1.0, "params": 1.0, "macs": 1.0},
            baseline,
            before_ms,
            None if before_ms is None else 1.0,
            False,
        )
    ]
    jobs = [(v, c, s) for v in variants for s in settings.seeds for c in settings.criteria]
    for variant, text, seed in track(jobs, "comparing"):
        part = None
        if folder is not None:
            key = hashlib.sha256(f"{identity}/{variant.model_dump_json()}/{text}/{seed}".encode()).hexdigest()[:16]
            part = Path(folder) / f"{key}.json"
        if part is not None and part.exists() and keep is None:
            rows += read_json(part)
            continue
        found = list(
            _part(model, data, structure, settings, variant, text, seed, finetune, common, evaluated, probe, keep)
        )
        if part is not None:
            write_json(part, found)
        rows += found
    return rows


def _part(
    model: nn.Module,
    data: ImageData,
    structure: Structure,
    settings: CompareSettings,
    variant: PruneSettings,
    text: str,
    seed: int,
    finetune: TrainSettings | None,
    common: dict[str, Any],
    evaluated: Any,
    probe: torch.Tensor,
    keep: dict[str, Compressed] | None,
) -> Iterator[dict[str, Any]]:
    name, parameters = parse(text)
    criterion: Criterion = get(name, **({"seed": seed} | parameters if name == "random" else parameters))
    reference = ReferenceSet.sample(data.train, settings.per_class, seed)
    budgets = [Budget.of(settings.kind, share) for share in settings.budgets]
    for budget, result in zip(
        sorted(budgets, key=lambda b: -b.share),
        prune_to_budgets(
            model,
            reference,
            budgets,
            criterion,
            variant,
            structure=structure,
            train=data.train,
            val=data.val,
            finetune=finetune,
        ),
        strict=True,
    ):
        latency, share = None, None
        if settings.latency_repeats:
            before, after = measure_latency([model, result.model], probe, repeats=settings.latency_repeats)
            latency, share = after.median_ms, after.median_ms / before.median_ms
        stages = [(result.model, False)]
        if finetune is not None and finetune.epochs and variant.schedule != "iterative":
            tuned = copy.deepcopy(result.model)
            fit(tuned, data.train, data.val, finetune.model_copy(update={"seed": seed}))
            stages.append((tuned, True))
        for network, tuned_flag in stages:
            found = evaluate(network, loader(evaluated), class_names=data.class_names)
            yield _row(
                common,
                text,
                variant.label,
                seed,
                settings.kind,
                budget.share,
                result.plan.achieved,
                found,
                latency,
                share,
                tuned_flag,
            )
        if keep is not None:
            keep[text] = Compressed(stages[-1][0], result.plan, result.history)


def _row(
    common: dict[str, Any],
    criterion: str,
    strategy: str,
    seed: int,
    kind: str,
    budget: float,
    achieved: dict[str, float] | Any,
    found: Evaluation,
    latency: float | None,
    share: float | None,
    finetuned: bool,
) -> dict[str, Any]:
    row = {
        **common,
        "criterion": criterion,
        "strategy": strategy,
        "seed": seed,
        "budget_kind": kind,
        "budget": budget,
        **{k: float(achieved[k]) for k in ("units", "params", "macs")},
        "accuracy": found.accuracy,
        "balanced_accuracy": found.balanced_accuracy,
        "loss": found.loss,
        "latency_ms": latency,
        "latency_share": share,
        "size_bytes": found.size_bytes,
        "finetuned": finetuned,
    }
    return {column: row[column] for column in COLUMNS}


def _identity(
    model: nn.Module, data: ImageData, settings: CompareSettings, prune: PruneSettings, finetune: TrainSettings | None
) -> str:
    """Hash of everything that a part's result depends on, but the part's own coordinates."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    for split in (data.train, data.val, data.test):
        digest.update(split.labels.tobytes())
        digest.update(split.replace(augmentation=None).batch(range(min(16, len(split))))[0].numpy().tobytes())
    digest.update(version("secateur").encode())
    own = settings.model_dump(exclude={"criteria", "seeds", "published"})
    tuned = finetune.model_dump(mode="json") if finetune is not None and finetune.epochs else None
    digest.update(json.dumps([own, tuned, asdict(data.normalisation), data.name], sort_keys=True).encode())
    return digest.hexdigest()


def write_table(rows: Sequence[dict[str, Any]], folder: str | Path, name: str = "compare") -> list[Path]:
    """Write rows as CSV, Parquet and JSON, each atomically."""
    frame = pd.DataFrame(list(rows), columns=list(COLUMNS))
    paths = [Path(folder) / f"{name}.{suffix}" for suffix in ("csv", "parquet")]
    with atomic_path(paths[0]) as temporary:
        frame.to_csv(temporary, index=False)
    with atomic_path(paths[1]) as temporary:
        frame.to_parquet(temporary, index=False)
    return [*paths, write_json(Path(folder) / f"{name}.json", list(rows))]
