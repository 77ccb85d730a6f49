"""Scores of all units of a network, by one criterion or several."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from secateur.attribution.failures import failures_told
from secateur.core.borrowing import borrowed, check_values
from secateur.core.errors import RequestError, SecateurError
from secateur.core.html import table_html
from secateur.core.modules import check_module
from secateur.core.progress import ProgressOption, reported
from secateur.criteria.aggregation import UnseenError, last, unmade, without_layers
from secateur.criteria.base import Criterion, SampleCriterion, get
from secateur.criteria.passes import Passes
from secateur.data import ReferenceSet
from secateur.models.checkpoint import check_finite
from secateur.structure import Structure
from secateur.structure.rewritten import bake_weights


@dataclass(frozen=True, eq=False, repr=False)
class Scores:
    """One score per unit of a structure; low means dispensable.

    Attributes:
        structure: the units.
        values: [U] float64, finite.
        criterion: name and parameters that differ from the defaults.
        standing: ⌊score · C⌋ is the number of the C units of its group that are removed before a unit, so that the
            scores themselves define what stays at a nominal ratio, see `secateur.criteria.kept_at`.

    Raises:
        RequestError: for values that are not finite, or not one per unit.
    """

    structure: Structure
    values: np.ndarray
    criterion: str
    standing: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.structure, Structure):
            raise RequestError(
                f"scores need the structure that secateur.trace returns, got {type(self.structure).__name__}"
            )
        given: object = self.values
        if isinstance(given, torch.Tensor):
            given = given.detach().cpu()
        try:
            values = np.asarray(given, np.float64)
        except (TypeError, ValueError) as error:
            raise RequestError(f"scores must be numbers, one per unit of the structure: {error}") from error
        if values.shape != (self.structure.num_units,):
            raise RequestError(
                f"scores must be one per unit of the structure, [{self.structure.num_units}], got shape "
                f"{list(values.shape)}; score the network from which the structure was traced"
            )
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            group = self.structure.groups[self.structure.group_of[bad[0]]]
            raise RequestError(f"{len(bad)} score(s) are not finite, first in layer '{group.name}'; give finite ones")
        object.__setattr__(self, "values", values)

    def group(self, name: str) -> np.ndarray:
        """Scores of the units of a layer's group, [units]."""
        return self.values[self.structure.group(name).units]

    def __repr__(self) -> str:
        low, middle, high = np.quantile(self.values, [0, 0.5, 1]) if len(self.values) else [np.nan] * 3
        return (
            f"Scores({self.criterion}: {len(self.values)} units in {len(self.structure.groups)} groups, "
            f"lowest {low:.3g}, median {middle:.3g}, highest {high:.3g})"
        )

    def _repr_html_(self) -> str:
        """Scores by group as HTML, for notebooks."""
        rows = []
        for group in self.structure.groups:
            low, middle, high = np.quantile(self.values[group.units], [0, 0.5, 1])
            rows.append((group.name, group.kind, group.size, low, middle, high))
        return table_html(("group", "kind", "units", "lowest", "median", "highest"), rows, repr(self))


@reported("scoring")
def score(
    model: nn.Module,
    structure: Structure,
    reference: ReferenceSet,
    criterion: str | Criterion = "lrp",
    *,
    centred: bool = False,
    batch_size: int = 64,
    progress: ProgressOption = True,
) -> Scores:
    """Score every unit of a network.

    Args:
        model: the network from which ``structure`` was traced.
        structure: the units of the network.
        reference: labelled samples.
        criterion: name (see `known`) or object.
        centred: see `Criterion.unit_scores`.
        batch_size: samples per pass.
        progress: how progress is reported, see `secateur.core.progress.ProgressOption`.

    Raises:
        RequestError: for NaN in the weights (naming the tensor) or an unknown criterion.
        SecateurError: when a score is not finite, naming the layer.
    """
    return score_each(model, structure, reference, [criterion], centred=centred, batch_size=batch_size)[0]


@reported("scoring by each criterion")
def score_each(
    model: nn.Module,
    structure: Structure,
    reference: ReferenceSet,
    criteria: Iterable[str | Criterion],
    *,
    centred: bool = False,
    batch_size: int = 64,
    progress: ProgressOption = True,
) -> list[Scores]:
    """Score by several criteria; those that need the same backward pass share it, see `score`.

    Example:
        >>> import torch
        >>> from secateur.structure import trace
        >>> net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> reference = ReferenceSet(torch.randn(6, 2), torch.arange(6) % 2, tuple(range(6)))
        >>> all_scores = score_each(net, trace(net, reference.inputs), reference, ["taylor", "grad"])
        >>> [scores.criterion for scores in all_scores]
        ['taylor', 'grad']
    """
    objects = [get(criterion) for criterion in criteria]
    check_module(model)
    _check_given(structure, reference)
    check_values(model, gradients=True)
    _check_same(model, structure)
    # the network is borrowed once: some criteria change weights temporarily, which no other thread may see
    with borrowed(model, prepare=False):
        check_finite(model)
        if structure.baked():
            model = bake_weights(copy.deepcopy(model), structure)  # units are scored by layers that have weights
        passes = Passes(model, reference, batch_size)
        with failures_told(model, reference.inputs, "the reference inputs"):
            values = [_values(criterion, structure, passes, centred) for criterion in objects]
        return [_checked(*pair) for pair in zip(objects, [structure] * len(values), values, strict=True)]


def _check_given(structure: object, reference: object) -> None:
    if not isinstance(structure, Structure):
        swapped = "; the structure comes before the reference" if isinstance(structure, ReferenceSet) else ""
        raise RequestError(f"a structure must be what secateur.trace returns, got {type(structure).__name__}{swapped}")
    check_reference(reference)


def check_reference(reference: object) -> None:
    """Refuse anything but a `ReferenceSet`, and say how to make one.

    Raises:
        RequestError: for anything else.
    """
    if not isinstance(reference, ReferenceSet):
        raise RequestError(
            f"reference samples must be a secateur.ReferenceSet, got {type(reference).__name__}; "
            "ReferenceSet.sample(dataset) draws them, ReferenceSet(inputs, targets, indices) takes tensors"
        )


def _check_same(model: nn.Module, structure: Structure) -> None:
    """Refuse the structure of another network, by the shapes of the weights that both have."""
    here = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}
    names = [layer.weight for layer in structure.layers]
    known = [name for name in names if name in here]
    # a computed weight has another name once it is a parameter
    if names and not known:
        raise RequestError(f"the structure is of another network: it has a weight '{names[0]}'; trace this one")
    for name in known:
        if structure.shapes[name] != tuple(here[name].shape):
            raise RequestError(
                f"the structure is of another network: its '{name}' has shape {list(structure.shapes[name])}, this "
                f"network's {list(here[name].shape)}; trace this one"
            )


def _values(criterion: Criterion, structure: Structure, passes: Passes, centred: bool) -> np.ndarray:
    """Scores in which units whose layers do not run, such as auxiliary heads for training, come last."""
    try:
        return _all_values(criterion, structure, passes, centred)
    except UnseenError as error:
        idle = [layer.name for layer in structure.layers if layer.name not in passes.running]
        if not set(error.layers) & set(idle):
            raise
    running = without_layers(structure, idle)
    lost = running.unread & unmade(running) & ~(structure.unread & unmade(structure))
    return last(_all_values(criterion, running, passes, centred), lost)


def _all_values(criterion: Criterion, structure: Structure, passes: Passes, centred: bool) -> np.ndarray:
    if isinstance(criterion, SampleCriterion):
        return criterion.scores_from(structure, passes, centred=centred)
    return criterion.unit_scores(
        passes.model, structure, passes.reference, centred=centred, batch_size=passes.batch_size
    )


def _checked(criterion: Criterion, structure: Structure, values: np.ndarray) -> Scores:
    values = np.asarray(values, np.float64)
    if values.shape != (structure.num_units,):
        raise SecateurError(
            f"criterion '{criterion.name}' gave scores of shape {values.shape} for {structure.num_units} units"
        )
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        group = structure.groups[structure.group_of[bad[0]]]
        raise SecateurError(
            f"criterion '{criterion.name}' gave non-finite scores for {len(bad)} unit(s), first in layer '{group.name}'"
        )
    described = repr(criterion) if _parametrised(criterion) else criterion.name
    return Scores(structure, values, described, criterion.standing)


def _parametrised(criterion: Criterion) -> bool:
    try:
        return criterion != type(criterion)()
    except TypeError:
        return True
