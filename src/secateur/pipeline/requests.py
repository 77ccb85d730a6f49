"""Checks of a request before PyTorch is loaded: names, files, parameters, extras, the output folder.

A dry run and the work use the same functions, here and in `secateur.pipeline.jobs`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal, get_args

from secateur.attribution import composites
from secateur.core.errors import RequestError
from secateur.core.extras import check_installed
from secateur.core.files import check_writable
from secateur.core.names import did_you_mean
from secateur.criteria import get, parse
from secateur.data.checks import check_source
from secateur.models.records import brings_size
from secateur.models.settings import ModelSettings, check_model, fetched, has_random_weights
from secateur.pipeline.compare_settings import CompareSettings
from secateur.pipeline.recipe import Recipe
from secateur.pipeline.settings import PruneSettings
from secateur.selection.names import AUTO, STRATEGY_NAMES
from secateur.tracking import check_trackers

EXAMPLES: Mapping[str, str] = MappingProxyType(
    {
        "train": "secateur train --model resnet20 --data mnist5k --epochs 3",
        "prune": "secateur prune --model resnet20-cifar10 --data cifar10 --macs 0.5",
        "compare": "secateur compare --model resnet20-cifar10 --data cifar10 --criterion lrp --criterion weight",
        "explain": "secateur explain --model resnet20-cifar10 --data cifar10",
        "evaluate": "secateur evaluate --model resnet20-cifar10 --data cifar10",
    }
)
"""A complete request for each command."""


_DEVICES = ("auto", "cpu", "cuda", "mps", "xpu")


def check_request(recipe: Recipe, command: str, out: Path | None = None) -> None:
    """Refuse requests that are known to fail before data or network are opened; needs no PyTorch.

    Args:
        recipe: the request.
        command: ``train``, ``prune``, ``compare``, ``explain``, ``evaluate`` or ``demo``.
        out: folder for results; None: none are written.

    Raises:
        RequestError: naming the first error, with the remedy.
    """
    _check_named(recipe, command)
    check_inputs(recipe)
    check_trackers(recipe.tracking.trackers)
    chosen = recipe.data.classes is not None or fetched(recipe.model.arguments)
    if recipe.model.replace_head != "keep" and not chosen:
        raise RequestError(
            f"model.replace_head={recipe.model.replace_head} needs data.classes (--classes): which to keep"
        )
    if command in _OWN:
        _OWN[command](recipe)
    if command in ("prune", "compare", "explain"):
        check_trained(recipe.model)
    if out is not None:
        check_writable(out)


def check_inputs(recipe: Recipe) -> None:
    """Refuse a device, a network or a data source that is certainly wrong."""
    _check_device(recipe.device)
    check_model(recipe.model)
    check_source(recipe.data, sized=recipe.data.follow_network and brings_size(recipe.model))


def _check_named(recipe: Recipe, command: str) -> None:
    """Refuse a request without named data or network, so that defaults are not used by accident."""
    given = {
        "--data": "source" in recipe.data.model_fields_set,
        "--model": "name" in recipe.model.model_fields_set,
    }
    missing = " and ".join(option for option, there in given.items() if not there)
    if missing:
        raise RequestError(
            f"{command} needs {missing}, or a --recipe that names them; for example: {EXAMPLES[command]}"
        )


def _check_device(device: str) -> None:
    """Refuse unknown device names; whether this machine has the device is checked by PyTorch."""
    kind, _, index = device.partition(":")
    if kind not in _DEVICES or (index and not index.isdecimal()):
        hint = did_you_mean(kind, _DEVICES)
        raise RequestError(f"unknown device '{device}'{hint}; known: {', '.join(_DEVICES)}, cuda:1")


def check_trained(settings: ModelSettings) -> None:
    """Refuse a network that is known to have random weights, unless that is allowed."""
    if not settings.allow_untrained and has_random_weights(settings):
        raise untrained_error(settings.name)


def untrained_error(name: str, new_head: bool = False) -> RequestError:
    """The error for a network with random weights, or with a new head on trained weights."""
    if new_head:
        return RequestError(
            f"the weights of '{name}' are for other classes than the data's, and its new head would have random ones; "
            "train it first (secateur train, the same options) and give --weights FILE, or --allow-untrained if you "
            "mean it"
        )
    return RequestError(
        f"'{name}' would have random weights, of which nothing can be learned; give --weights FILE, a bundle folder or "
        "resnet20-cifar10 as --model, or --allow-untrained if you mean it"
    )


def _check_prune(recipe: Recipe) -> None:
    get(recipe.criterion.name, **recipe.criterion.parameters)
    check_settings(recipe.prune)
    _check_teacher(recipe)
    if recipe.prune.schedule == "iterative" and not recipe.finetune.epochs:
        raise RequestError("an iterative schedule trains between its steps; give --finetune EPOCHS of at least 1")
    if recipe.budget.share == 1:
        raise RequestError("a budget of 100 % leaves nothing to remove; give a share below 1")


def _check_teacher(recipe: Recipe) -> None:
    """Refuse a masked teacher for networks that are trained while they are pruned."""
    distillation = recipe.finetune.distillation
    if recipe.prune.schedule == "iterative" and distillation is not None and distillation.teacher == "masked":
        raise RequestError(
            "a masked teacher is as large as the pruned network, which an iterative schedule makes smaller step by "
            "step; set finetune.distillation.teacher=unpruned, or another schedule"
        )


def check_settings(settings: PruneSettings) -> None:
    """Refuse an unknown strategy, and a latency table that cannot be written."""
    known = (AUTO, *STRATEGY_NAMES)
    if settings.strategy not in known:
        hint = did_you_mean(settings.strategy, known)
        raise RequestError(f"unknown strategy '{settings.strategy}'{hint}; known: {', '.join(known)}")
    if settings.repair_samples is not None and settings.repair == "none":
        raise RequestError("prune.repair_samples are for repairs; set prune.repair to mean or refit, or leave them out")
    if settings.latency_table is not None:
        check_writable(Path(settings.latency_table).expanduser().parent)


def _check_compare(recipe: Recipe) -> None:
    check_compare_settings(recipe.compare, recipe.prune)
    _check_teacher(recipe)


def check_compare_settings(settings: CompareSettings, prune: PruneSettings) -> None:
    """Refuse unknown criteria, empty lists, budgets out of range, incompatible settings, and missing packages.

    Raises:
        RequestError: naming the setting.
    """
    check_settings(prune)
    for text in (*settings.variants.criteria, *settings.variants.blind):
        name, parameters = parse(text)
        get(name, **parameters)
    _check_lists(settings)
    if settings.variants.blind and not settings.variants.subsets:
        raise RequestError(
            "compare.variants.blind compares with scores on all classes; give compare.variants.subsets, or leave it out"
        )
    if settings.variants.blind and settings.variants.default and prune.schedule != "one-shot":
        raise RequestError(
            "class-blind scores are taken once; set prune.schedule=one-shot, or leave out compare.variants.blind"
        )
    if not settings.variants.published and not settings.variants.default:
        raise RequestError("compare.variants.published and compare.variants.default are both false; switch one on")
    if settings.targets.kind == "ratio" and settings.variants.default and prune.schedule != "one-shot":
        raise RequestError(
            "nominal ratios are reached in one shot; set compare.variants.default=false, or prune.schedule=one-shot"
        )
    if settings.timing.onnx_budgets and settings.timing.repeats:
        for package in ("onnx", "onnxscript", "onnxruntime"):
            check_installed(package, "onnx", "compare.timing.onnx_budgets")


def _check_lists(settings: CompareSettings) -> None:
    """Refuse lists that are empty or have duplicates, and budgets that are no shares or not among the others."""
    variants, targets = settings.variants, settings.targets
    lists = {
        "variants.criteria": variants.criteria,
        "targets.budgets": targets.budgets,
        "variants.seeds": variants.seeds,
    }
    for name, values in lists.items():
        if not values:
            raise RequestError(f"compare.{name} is empty; give at least one")
        if len(set(values)) < len(values):
            twice = next(value for value in values if values.count(value) > 1)
            raise RequestError(f"compare.{name} has {twice!r} twice; give each once")
    for share in targets.budgets:
        if not 0 < share < 1:
            raise RequestError(f"compare.targets.budgets must be shares in (0, 1), got {share}")
    some = {"retraining.budgets": settings.retraining.budgets, "timing.onnx_budgets": settings.timing.onnx_budgets}
    for name, shares in some.items():
        for share in shares or ():
            if share not in targets.budgets:
                raise RequestError(f"compare.{name} has {share}, which is not among compare.targets.budgets")


_OWN: Mapping[str, Callable[[Recipe], None]] = MappingProxyType(
    {"prune": _check_prune, "compare": _check_compare, "demo": _check_compare}
)


HEATMAP_COMPOSITE = "epsilon-plus-flat"
"""The composite with the clearest heatmaps of convolutional networks."""

Start = Literal["logit", "one", "contrast"]
"""Starts of explanations; not "loss", whose relevance is that of all classes at once."""


@dataclass(frozen=True)
class ExplainSettings:
    """Which images are explained, and how.

    Attributes:
        images: positions in the test split; none: the first ones of each class in turn.
        count: number of images, where none is named.
        per_class: test images of each class on which units are ranked; 0: no ranking.
        top: number of units of each class and layer.
        against: bundle of the pruned network.
        agreement_images: test images on which both networks are compared; 0: none.
        composite: composite of rules.
        start: start of relevance at the class.

    Raises:
        RequestError: for an unknown composite or start, or a missing bundle.
    """

    images: tuple[int, ...] = ()
    count: int = 8
    per_class: int = 10
    top: int = 5
    against: Path | None = None
    agreement_images: int = 500
    composite: str = HEATMAP_COMPOSITE
    start: Start = "logit"

    def __post_init__(self) -> None:
        composites.get(self.composite)
        if self.start not in get_args(Start):
            known = get_args(Start)
            hint = did_you_mean(self.start, known)
            raise RequestError(f"unknown start '{self.start}'{hint}; known: {', '.join(known)}")
        negative = [index for index in self.images if index < 0]
        if negative:
            raise RequestError(f"there is no test image {negative[0]}; they are counted from 0")
        if self.against is not None and not (self.against / "manifest.json").is_file():
            raise RequestError(f"'{self.against}' is not a bundle folder (no manifest.json); give what prune wrote")
