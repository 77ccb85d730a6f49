"""The tables of the study."""

from __future__ import annotations

from typing import TYPE_CHECKING

from secateur.core.timing import column_names
from secateur.experiments import Column, Schema, Tables

if TYPE_CHECKING:
    import pandas as pd

UNPRUNED_STAGE, PRUNED, TUNED, FINAL = "unpruned", "pruned", "fine-tuned", "final"
"""When a network was measured: before all, after a step's cut, after its fine-tuning, after the last training."""

_WAY = (
    Column("protocol", str, "how units are scored and removed; `none`: the unpruned network"),
    Column("criterion", str, "that scores units, with its parameters; `none`: the unpruned network"),
    Column("seed", int, "of the reference samples, of chance and of fine-tuning"),
)
_KEYS = (*_WAY, Column("step", int, "of pruning; 0: the unpruned network"))
_STAGE = Column(
    "stage", str, "`unpruned`; `pruned`: after the cut; `fine-tuned`: after it; `final`: after the last training"
)

STEPS = Schema(
    (
        *_KEYS,
        _STAGE,
        Column("share", float, "of the counted measure that was to stay; 1 for the unpruned network"),
        Column("units", float, "share of removable units that stay"),
        Column("params", float, "share of parameters that stay"),
        Column("macs", float, "share of multiply-accumulate operations that stay"),
        Column("params_count", int, "parameters"),
        Column("macs_count", int, "multiply-accumulate operations per image"),
        Column("size_bytes", int, "of the stored weights", "bytes"),
        Column("accuracy", float, "share of right answers"),
        Column("balanced_accuracy", float, "mean over classes of the share of right answers"),
        Column("auc", float, "area under the ROC curve of each class against the others, mean", optional=True),
        Column("loss", float, "mean cross-entropy; empty where it is not a number", "nats", optional=True),
        Column("samples", int, "images that it was measured on"),
        Column("train_loss", float, "mean loss of the last epoch of training", "nats", optional=True),
        Column("epochs", int, "of training since the row before"),
        Column("seconds", float, "of scoring and cutting, or of training", "s", timed=True),
    ),
    "one network, measured",
)
CLASSES = Schema(
    (
        *_KEYS,
        _STAGE,
        Column("class", str, "name of the class"),
        Column("recall", float, "share of its images that are recognised"),
        Column("samples", int, "its images"),
    ),
    "one network and class",
)
PLANS = Schema((*_KEYS, Column("removed", str, "units that are gone by group, as JSON")), "one pruned network")
TIMES = Schema(
    (
        *_KEYS,
        *(
            Column(name, int if name.endswith("rounds") else float, meaning, unit, optional=True, timed=True)
            for name, (meaning, unit) in zip(
                column_names(),
                (
                    ("median time of a batch", "ms"),
                    ("median ratio to the unpruned network's time, both timed in turn", ""),
                    ("lower end of that ratio's 95 % interval", ""),
                    ("upper end", ""),
                    ("interquartile range of the unpruned network's times over their median", ""),
                    ("how often both were timed", ""),
                ),
                strict=True,
            )
        ),
        Column("memory_bytes", int, "peak memory of a forward pass of a batch, weights and batch included", "bytes"),
    ),
    "one network, timed beside the unpruned one",
)
PICTURES = Schema(
    (
        *_KEYS,
        Column("image", int, "position in the split"),
        Column("label", str, "true class"),
        Column("predicted", str, "by this network"),
        Column("pixels", str, "the image, as base64 PNG; with the unpruned network's row alone"),
        Column("relevance", str, "of the true class for each pixel, as base64 PNG"),
        Column("cosine", float, "similarity to the unpruned network's relevance"),
    ),
    "one image, explained by one network",
)

SPLITS = Schema(
    (
        Column("image_id", str, "unique name of the image"),
        Column("split", str, "`train`, `val` or `test`"),
        Column("group", str, "lesion or patient; empty where none is known"),
        Column("label", str, "its class"),
    ),
    "one image of the data set",
)
NOTES = Schema((Column("note", str, "what a reader of the results must know"),), "one sentence")

STORED = {
    "steps": STEPS,
    "classes": CLASSES,
    "plans": PLANS,
    "times": TIMES,
    "pictures": PICTURES,
    "splits": SPLITS,
    "notes": NOTES,
}
KEYS = tuple(column.name for column in _KEYS)


def assembled(tables: Tables) -> dict[str, pd.DataFrame]:
    """Times beside what was measured; all else as it is stored."""
    times = tables["times"]
    steps = tables["steps"].merge(times, how="left", on=list(KEYS), sort=False) if len(times) else tables["steps"]
    return {**tables, "steps": steps}
