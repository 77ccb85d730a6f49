"""What a comparison is asked for, its parts, and the rows of its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from secateur.core.files import atomic_path, write_json
from secateur.core.timing import column_names
from secateur.pipeline.compare_settings import WHOLE, CompareSettings
from secateur.pipeline.settings import PruneSettings

Row = dict[str, Any]

COLUMNS = (
    "model",
    "dataset",
    "subset",
    "classes",
    "criterion",
    "scored_on",
    "structured",
    "strategy",
    "seed",
    "budget_kind",
    "budget",
    "units",
    "params",
    "macs",
    "weights",
    "accuracy",
    "balanced_accuracy",
    "loss",
    "samples",
    *column_names("latency"),
    *column_names("onnx"),
    "latency_note",
    "size_bytes",
    "finetuned",
    "scoring_s",
    "surgery_s",
    "evaluation_s",
    "retraining_s",
)
"""Of the main table. ``scored_on``: the subset's images, or those of ``all`` classes (class-blind). ``structured``:
False for masked weights, which make nothing faster; ``weights``: the share of weights that are not masked;
``samples``: how many images accuracy was measured on.
``latency_share``: median ratio to the unpruned network's time, in turn within one run, with an interval at 95 %
confidence; ``latency_ms`` is that share of the unpruned row's milliseconds; ``latency_spread``: interquartile range of
the unpruned network's times over their median.
``scoring_s`` is shared by all budgets of a criterion, subset and seed."""

KEYS = ("subset", "criterion", "scored_on", "strategy", "seed", "budget_kind", "budget", "finetuned")
"""That the tables of classes and layers share with the main one."""


@dataclass(frozen=True)
class Part:
    """What is worked out, stored and found again as a whole.

    Attributes:
        variant: how to prune; None: nothing is removed.
        subset: name.
        criterion: text, or name of a weight mask.
        seed: of the reference samples.
        scored_on: ``subset`` or ``all``.
        structured: False for masks of single weights.
        published: whether the variant is the published protocol.
    """

    variant: PruneSettings | None
    subset: str
    criterion: str
    seed: int
    scored_on: Literal["subset", "all"] = "subset"
    structured: bool = True
    published: bool = False

    @property
    def strategy(self) -> str:
        """For the table."""
        if self.variant is not None:
            return self.variant.label
        return "unpruned" if self.structured else "masked weights"

    def key(self, settings: CompareSettings) -> str:
        """Text that tells it from all other parts."""
        variant = "" if self.variant is None else self.variant.model_dump_json()
        classes = "".join(s.model_dump_json() for s in settings.subsets if s.name == self.subset)
        return f"{variant}/{classes}/{self.criterion}/{self.seed}/{self.scored_on}/{self.structured}"


def parts_of(settings: CompareSettings, prune: PruneSettings) -> list[Part]:
    """All parts, in the order of the table."""
    variants = [(PruneSettings.published(**_carried(prune)), True)] if settings.published else []
    variants += [(prune, False)] if settings.default and prune not in [v for v, _ in variants] else []
    subsets = [subset.name for subset in settings.subsets] or [WHOLE]
    found = []
    for subset in subsets:
        for variant, published in variants:
            for seed in settings.seeds:
                found += [Part(variant, subset, c, seed, published=published) for c in settings.criteria]
                found += [Part(variant, subset, c, seed, "all", published=published) for c in settings.blind]
        for seed in settings.seeds:
            found += [Part(None, subset, name, seed, structured=False) for name in settings.unstructured]
    return found


def _carried(prune: PruneSettings) -> dict[str, Any]:
    """What the published protocol takes over: which layers are left alone, and the size of a pass."""
    names = ("batch_size", "protect", "skip_first_layers", "spare_block_outputs", "min_keep")
    return {name: getattr(prune, name) for name in names}


def write_table(rows: Sequence[Row], folder: str | Path, name: str = "compare") -> list[Path]:
    """Write rows as CSV, Parquet and JSON, each atomically.

    Beside the main table (columns: `COLUMNS`) go ``NAME-classes.csv``, accuracy by class, and ``NAME-layers.csv``, kept
    channels by layer, where there are several subsets or rows have them; the JSON file holds all of it.
    """
    import pandas as pd

    paths = []
    for frame, stem in (
        (pd.DataFrame(list(rows), columns=list(COLUMNS)), name),
        (pd.DataFrame(class_rows(rows)), f"{name}-classes"),
        (pd.DataFrame(layer_rows(rows)), f"{name}-layers"),
    ):
        if not len(frame.columns):
            continue
        for suffix, write in (("csv", frame.to_csv), ("parquet", frame.to_parquet)):
            paths.append(Path(folder) / f"{stem}.{suffix}")
            with atomic_path(paths[-1]) as temporary:
                write(temporary, index=False)
    return [*paths, write_json(Path(folder) / f"{name}.json", list(rows))]


def class_rows(rows: Sequence[Row]) -> list[Row]:
    """One row per measurement and class: accuracy."""
    return [
        {key: row[key] for key in KEYS} | {"class": name, "accuracy": value}
        for row in rows
        for name, value in row.get("per_class", {}).items()
    ]


def layer_rows(rows: Sequence[Row]) -> list[Row]:
    """One row per pruned network and layer: channels kept and removed."""
    return [
        {key: row[key] for key in KEYS} | {"layer": name, "kept": kept, "removed": total - kept, "total": total}
        for row in rows
        if row["structured"] and not row["finetuned"] and row["criterion"] != "none"
        for name, kept, total in row.get("layers", ())
    ]


def row_of(part: Part, values: Mapping[str, Any]) -> Row:
    """A row of the main table from a part's coordinates and what was measured; the rest follows behind."""
    own = {
        "subset": part.subset,
        "criterion": part.criterion,
        "scored_on": part.scored_on,
        "structured": part.structured,
        "strategy": part.strategy,
        "seed": part.seed,
        "weights": None,
        "samples": None,
        **dict.fromkeys((*column_names("latency"), *column_names("onnx"))),
        "latency_note": "",
        "scoring_s": None,
        "surgery_s": None,
        "retraining_s": None,
        **values,
    }
    return {column: own.pop(column) for column in COLUMNS} | own
