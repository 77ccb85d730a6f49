"""The table of the study."""

from __future__ import annotations

from secateur.experiments import Column, Schema

UNPRUNED_STAGE, PRUNED, LAST, TUNED = "unpruned", "pruned", "last layer", "trained"
"""When a network was measured: before all, after the cut, after the last layer's training, after that of all of it."""

_WAY = (
    Column("way", str, "what was pruned, by what; `none`: the unpruned network"),
    Column("backbone", str, "criterion that scored the backbone's units; `none`: it stays as it was"),
    Column("prunes_prototypes", bool, "whether prototypes went, before the backbone's units"),
    Column("budget", float, "share of the unpruned network's MACs that was to stay; 1: no budget"),
    Column("seed", int, "of weights, order of images, and reference samples"),
    Column(
        "stage",
        str,
        "`unpruned`; `pruned`: after the cut; `last layer`: after it was trained on similarities; `trained`: after all "
        "of the network was, and its prototypes projected anew",
    ),
)

MEASURED = Schema(
    (
        *_WAY,
        Column("prototypes", int, "that are left"),
        Column("macs", float, "share of multiply-accumulate operations that stay"),
        Column("params", float, "share of parameters that stay"),
        Column("macs_count", int, "multiply-accumulate operations per image"),
        Column("params_count", int, "parameters"),
        Column("accuracy", float, "share of right answers"),
        Column("balanced_accuracy", float, "mean over classes of the share of right answers"),
        Column("samples", int, "images that it was measured on"),
        Column(
            "purity", float, "mean share of a prototype's nearest training patches that are of its class", optional=True
        ),
        Column("seconds", float, "of the work before", "s", timed=True),
    ),
    "one network, measured",
)

STORED = {"measured": MEASURED}
