"""Tables of the study."""

from __future__ import annotations

from secateur.experiments import Column, Schema

COMPLETE, STOPPED, FAILED = "complete", "stopped", "failed"
"""States of a trial."""

PARAMETERS = (
    "low", "middle", "high", "classifier", "gamma", "first", "softmax", "start", "reduce", "normalise", "at", "order",
    "per_class",
)  # fmt: skip
"""Columns that a setting consists of."""

_AREAS = (
    Column("a_pr", float, "mean accuracy over all rates", optional=True),
    Column("area_units", float, "mean accuracy over the share of units that is gone", optional=True),
    Column("area_params", float, "likewise of parameters", optional=True),
    Column("area_macs", float, "likewise of multiply-accumulate operations", optional=True),
    Column("kept_rate", float, "highest rate up to which 95 % of the accuracy stay", optional=True),
    Column("kept_rate_99", float, "likewise 99 % of the accuracy", optional=True),
)

TRIALS = Schema(
    (
        Column("number", int, "of the trial"),
        Column(
            "state",
            str,
            "`complete`; `stopped`: its coarse curve was below the median of the earlier ones; `failed`: see `reason`",
        ),
        Column("reason", str, "why it failed", optional=True),
        Column("low", str, "rule of the first quarter of the layers"),
        Column("middle", str, "rule of the middle half"),
        Column("high", str, "rule of the last quarter"),
        Column("classifier", str, "rule of the classifier"),
        Column("gamma", float, "of the γ-rule, where one is chosen"),
        Column("first", str, "rule of the layer that reads the input; `none`: as the others"),
        Column("softmax", str, "rule of attention"),
        Column("start", str, "relevance at the logit"),
        Column("reduce", str, "over samples"),
        Column("normalise", str, "per layer"),
        Column("at", str, "layers that a unit's relevance is summed over"),
        Column("order", str, "which units go first"),
        Column("per_class", int, "reference samples of each class"),
        Column("estimate", float, "of the objective, by the rates that were measured", optional=True),
        *_AREAS,
        Column("deletion", float, "area under the flipping curve, most relevant patches first", optional=True),
        Column("insertion", float, "likewise, least relevant patches first", optional=True),
        Column("faithfulness", float, "insertion less deletion", optional=True),
        Column("conservation_gap", float, "mean of |ΣR - start| / |start| of the heatmaps", optional=True),
        Column("seconds", float, "that the trial took", "s", timed=True),
    ),
    "one setting that was tried",
)

_POINT = (
    Column("rate", float, "nominal share of the units that go"),
    Column("accuracy", float, "share of right answers"),
    Column("units", float, "share of units that stay"),
    Column("params", float, "share of parameters that stay"),
    Column("macs", float, "share of multiply-accumulate operations that stay"),
)

TRIAL_CURVES = Schema(
    (Column("number", int, "of the trial"), Column("seed", int, "of the reference samples"), *_POINT),
    "one rate of a trial, on the images of the search",
)

_CANDIDATE = (
    Column("candidate", str, "a criterion, or `optimised`: what the search found"),
    Column("criterion", str, "with its parameters"),
    Column("per_class", int, "reference samples of each class"),
    Column("main", bool, "whether it is a row of the comparison; the others differ in the number of samples"),
    Column("seed", int, "of the reference samples, and of the classes where some are drawn"),
)

MEASURED = Schema(
    (*_CANDIDATE, *_AREAS, Column("samples", int, "images"), Column("seconds", float, "it took", "s", timed=True)),
    "a candidate's curve in figures, on images that the search has not seen",
)

CURVES = Schema((*_CANDIDATE, *_POINT, Column("samples", int, "images")), "one rate of a candidate's curve")

FOR_PRUNING, FOR_PEOPLE = "best for pruning", "most faithful"
"""Settings whose heatmaps are shown."""

HEATMAPS = Schema(
    (
        Column("setting", str, f"`{FOR_PRUNING}` or, where faithfulness was searched for too, `{FOR_PEOPLE}`"),
        Column("number", int, "of its trial"),
        Column("composite", str, "its rules"),
        Column("image", int, "position among the images of the measurement"),
        Column("label", str, "true class"),
        Column("predicted", str, "class that the unpruned network says"),
        Column("pixels", str, "the image, as base64 PNG; with the first setting alone"),
        Column("relevance", str, "of the true class, as base64 PNG"),
    ),
    "one image, explained by one setting",
)

STORED = {
    "trials": TRIALS, "trial_curves": TRIAL_CURVES, "measured": MEASURED, "curves": CURVES, "heatmaps": HEATMAPS,
}  # fmt: skip
