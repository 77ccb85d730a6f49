"""What a criterion is, and how units are scored by one or several."""

from __future__ import annotations

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, cast, get_args

import numpy as np
import torch
import yaml
from torch import nn

from secateur.attribution import Composite, Start, UnitStatistics, composites, running, unit_statistics
from secateur.attribution.layers import At
from secateur.core.borrowing import borrowed, check_values
from secateur.core.errors import RequestError, SecateurError
from secateur.core.registry import Registry
from secateur.criteria.aggregation import (
    NORMALISATIONS,
    REDUCTIONS,
    UnseenError,
    check_known,
    check_observed,
    last,
    normalise_layers,
    reduce_samples,
    sample_relevance,
    unmade,
    unobserved,
    without_layers,
)
from secateur.data import ReferenceSet
from secateur.models.checkpoint import check_finite
from secateur.structure import Structure
from secateur.structure.rewritten import bake_weights

_FILES = {
    "activation": ["activation"],
    "filters": ["fpgm", "lamp"],
    "gradient": ["grad", "sensitivity", "taylor"],
    "lrp": ["lrp"],
    "maps": ["apoz", "cap", "ocap"],
    "norm": ["bn-scale"],
    "parameters": ["hessian", "taylor-group"],
    "random": ["random"],
    "shapley": ["shapley"],
    "weight": ["weight"],
}
_registry: Registry[Criterion] = Registry(
    "criterion", {name: f"secateur.criteria.{file}" for file, names in _FILES.items() for name in names}
)


class Criterion(ABC):
    """Turns a network and reference samples into one score per unit; the lowest scores go first.

    Subclasses are dataclasses whose fields are the criterion's parameters, entered with `register`.
    """

    name: ClassVar[str]
    equivariant: ClassVar[bool] = True
    """Whether scores move along when channels are permuted; chance does not."""
    standing: ClassVar[bool] = False
    """Whether the whole part of score · C is a unit's standing among the C of its group, see `Scores`."""

    @property
    def asks_for(self) -> int | None:
        """Reference samples that it needs at least; None: it takes what there is."""
        return None

    @abstractmethod
    def unit_scores(
        self, model: nn.Module, structure: Structure, reference: ReferenceSet, *, centred: bool, batch_size: int
    ) -> np.ndarray:
        """Scores of all units, [U].

        Args:
            model: in any mode; it must come back as it was.
            structure: of the model.
            reference: labelled samples.
            centred: measure deviations from a unit's mean activation, which is what is lost when the mean is
                compensated; criteria that do not look at activations ignore it.
            batch_size: samples per pass; the scores must not depend on it.
        """


@dataclass(frozen=True)
class View:
    """What a backward pass over the reference samples looks at.

    Attributes:
        composite: rules, see `secateur.attribution.composites`; None: the plain gradient.
        start: at the logits, see `secateur.attribution.attribute`.
        positions: over space or tokens: ``sum`` or ``abs``.
    """

    composite: str | Composite | None
    start: Start
    positions: Literal["sum", "abs"] = "sum"


class Passes:
    """Per-sample statistics of one network on one reference set; each backward pass is made once."""

    def __init__(self, model: nn.Module, reference: ReferenceSet, batch_size: int) -> None:
        self.model, self.reference, self.batch_size = model, reference, batch_size
        self._found: dict[tuple[View, At, bool], dict[str, UnitStatistics]] = {}

    @cached_property
    def running(self) -> set[str]:
        """Layers that run on the reference samples."""
        layers = [name.removesuffix(".weight") for name, _ in self.model.named_parameters(remove_duplicate=False)]
        return running(self.model, (inputs for inputs, _ in self.reference.batches(self.batch_size)), layers)

    def check_running(self, layers: list[str]) -> None:
        """Raise `UnseenError` for layers that do not run."""
        idle = [layer for layer in layers if layer not in self.running] if layers else []
        if idle:
            raise UnseenError(idle)

    def __call__(self, view: View, at: At, constants: bool = False) -> dict[str, UnitStatistics]:
        """Statistics by layer, looked at where units are made or read.

        Args:
            view: the pass.
            at: ``makers`` or ``readers``.
            constants: also of layers that do not depend on the inputs; samples then go one by one.
        """
        if (view, at, constants) not in self._found:
            self._found[view, at, constants] = unit_statistics(
                self.model,
                self.reference.batches(1 if constants else self.batch_size),
                view.composite,
                start=view.start,
                bounds=self.reference.bounds,
                at=at,
                positions=view.positions,
                constants=constants,
            )
        return self._found[view, at, constants]


class SampleCriterion(Criterion):
    """A criterion that puts per-sample figures of one backward pass together.

    Subclasses are dataclasses with the fields below, and say which pass they look at.

    Attributes:
        what: ``relevance`` (a·g) or ``gradient`` (g) of the pass.
        reduce: over samples, see `reduce_samples`.
        normalise: per layer, see `normalise_layers`.
        at: sum over the layers that read the unit (what closing its gate takes away) or that make it.
    """

    what: ClassVar[Literal["relevance", "gradient"]] = "relevance"
    reduce: str
    normalise: str | None
    at: At

    def __post_init__(self) -> None:
        view = self.view()
        check_known("aggregation", self.reduce, REDUCTIONS)
        check_known("normalisation", self.normalise, NORMALISATIONS)
        check_known("place to look at units", self.at, ("makers", "readers"))
        check_known("treatment of positions", view.positions, ("sum", "abs"))
        check_known("start", view.start, get_args(Start))
        if not isinstance(view.composite, str | Composite | None):
            raise RequestError(f"a composite is a name or an object, got {view.composite!r}")
        if view.composite is not None:
            composites.get(view.composite)

    @abstractmethod
    def view(self) -> View:
        """The pass that the figures come from."""

    def unit_scores(
        self, model: nn.Module, structure: Structure, reference: ReferenceSet, *, centred: bool, batch_size: int
    ) -> np.ndarray:
        """See `Criterion.unit_scores`."""
        return self.scores_from(structure, Passes(model, reference, batch_size), centred=centred)

    def scores_from(self, structure: Structure, passes: Passes, *, centred: bool) -> np.ndarray:
        """Scores from passes that may have been made for another criterion, [U].

        Units that no layer reads with weights (places within a head that only queries and keys have) are looked at
        where they are made, and units that no layer makes (columns of a table of positions) where they are read.
        """
        if centred and self.view().positions == "abs":
            raise RequestError("positions='abs' cannot be centred; use positions='sum', or prune with centred=false")
        values = self._looked(structure, passes, self.at, centred, None)
        there, other = (structure.unread, "makers") if self.at == "readers" else (unmade(structure), "readers")
        if there.any():
            values[:, there] = self._looked(structure, passes, cast(At, other), centred, there)[:, there]
        return normalise_layers(structure, reduce_samples(values, self.reduce), self.normalise)

    def _looked(
        self, structure: Structure, passes: Passes, at: At, centred: bool, among: np.ndarray | None
    ) -> np.ndarray:
        """Per-sample figures, [N, U], of all units or those ``among`` them."""
        units = structure.made if at == "makers" else structure.read
        statistics = passes(self.view(), at)
        missing = unobserved(structure, units, statistics, among)
        passes.check_running(missing)
        if missing:
            # layers that do not depend on the inputs, such as those of position biases
            more = passes(self.view(), at, constants=True)
            statistics = {**statistics, **{name: more[name] for name in missing if name in more}}
            check_observed(structure, units, statistics, among)
        return sample_relevance(structure, statistics, self.what, centred, at)


@dataclass(frozen=True, eq=False)
class Scores:
    """One score per unit of a structure; low means dispensable.

    Attributes:
        structure: the units.
        values: [U] float64, finite.
        criterion: name and parameters that differ from the defaults.
        standing: ⌊score · C⌋ is how many of the C units of its group can go before a unit does, so that the scores
            themselves say what stays at a nominal ratio, see `secateur.criteria.kept_at`.

    Raises:
        RequestError: for values that are not finite, or not one per unit.
    """

    structure: Structure
    values: np.ndarray
    criterion: str
    standing: bool = False

    def __post_init__(self) -> None:
        given: object = self.values
        if isinstance(given, torch.Tensor):
            given = given.detach().cpu()
        values = np.asarray(given, np.float64)
        if values.shape != (self.structure.num_units,):
            raise RequestError(
                f"scores must be one per unit of the structure, [{self.structure.num_units}], got shape "
                f"{list(values.shape)}; score the network that the structure was traced from"
            )
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            group = self.structure.groups[self.structure.group_of[bad[0]]]
            raise RequestError(f"{len(bad)} score(s) are not finite, first in layer '{group.name}'; give finite ones")
        object.__setattr__(self, "values", values)

    def group(self, name: str) -> np.ndarray:
        """Scores of the units that a layer belongs to, [units]."""
        return self.values[self.structure.group(name).units]


def register(name: str) -> Callable[[type[Criterion]], type[Criterion]]:
    """Class decorator that makes a criterion known by name; it then joins the contract suite by itself.

    Example:
        >>> @register("example-constant")
        ... class Constant(Criterion):
        ...     def unit_scores(self, model, structure, reference, *, centred, batch_size):
        ...         return np.ones(structure.num_units)
        >>> get("example-constant").name
        'example-constant'
        >>> _registry.remove("example-constant")
    """

    def enter(cls: type[Criterion]) -> type[Criterion]:
        cls.name = name
        _registry.register(name)(cls)
        return cls

    return enter


register_criterion = register
"""Its name in the top package."""


def get(criterion: str | Criterion, **parameters: Any) -> Criterion:
    """A criterion by name with its parameters; an object passes.

    Raises:
        RequestError: for an unknown name or parameters it does not take.
    """
    if isinstance(criterion, Criterion):
        if parameters:
            raise RequestError(f"parameters {sorted(parameters)} go with a criterion's name, not with an object")
        return criterion
    return _registry.create(criterion, **parameters)


def with_seed(criterion: str, seed: int) -> Criterion:
    """A criterion by its text (see `parse`), drawn anew for a seed where it takes one and the text gives none.

    Example:
        >>> with_seed("random", 3), with_seed("random:seed=1", 3), with_seed("weight", 3)
        (Random(seed=3), Random(seed=1), Weight(p=2, normalise=None))
    """
    name, parameters = parse(criterion)
    if "seed" in inspect.signature(_registry.factory(name)).parameters:
        parameters = {"seed": seed} | parameters
    return get(name, **parameters)


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """Name and parameters of ``name:key=value,key=value``.

    Example:
        >>> parse("weight:p=1")
        ('weight', {'p': 1})
    """
    name, _, rest = text.partition(":")
    parameters: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals or key.strip() in parameters:
            raise RequestError(f"criterion '{text}': '{part}' should read key=value, each key once")
        try:
            parameters[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise RequestError(f"criterion '{text}': '{value}' is no value; quote it, or leave it out") from error
    return name.strip(), parameters


def known() -> list[str]:
    """Names of all registered criteria."""
    return list(_registry)


def score(
    model: nn.Module,
    structure: Structure,
    reference: ReferenceSet,
    criterion: str | Criterion = "lrp",
    *,
    centred: bool = False,
    batch_size: int = 64,
) -> Scores:
    """Score every unit of a network.

    Args:
        model: the network that ``structure`` was traced from.
        structure: its units.
        reference: labelled samples.
        criterion: name (see `known`) or object.
        centred: see `Criterion.unit_scores`.
        batch_size: samples per pass.

    Raises:
        RequestError: for NaN in the weights (naming the tensor) or an unknown criterion.
        SecateurError: when a score is not finite, naming the layer.
    """
    return score_each(model, structure, reference, [criterion], centred=centred, batch_size=batch_size)[0]


def score_each(
    model: nn.Module,
    structure: Structure,
    reference: ReferenceSet,
    criteria: Iterable[str | Criterion],
    *,
    centred: bool = False,
    batch_size: int = 64,
) -> list[Scores]:
    """Score by several criteria; those that look at the same backward pass share it, see `score`.

    Example:
        >>> import torch
        >>> from secateur.structure import trace
        >>> net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> reference = ReferenceSet(torch.randn(6, 2), torch.arange(6) % 2, tuple(range(6)))
        >>> found = score_each(net, trace(net, reference.inputs), reference, ["taylor", "grad"])
        >>> [scores.criterion for scores in found]
        ['taylor', 'grad']
    """
    chosen = [get(criterion) for criterion in criteria]
    check_values(model, gradients=True)
    # one loan for all of it: some criteria change weights for a while, and no thread may see them then
    with borrowed(model, prepare=False):
        check_finite(model)
        if structure.baked():
            model = bake_weights(copy.deepcopy(model), structure)  # units are scored by layers that have weights
        passes = Passes(model, reference, batch_size)
        return [_checked(criterion, structure, _values(criterion, structure, passes, centred)) for criterion in chosen]


def _values(criterion: Criterion, structure: Structure, passes: Passes, centred: bool) -> np.ndarray:
    """Scores; units of nothing but layers that do not run, such as auxiliary heads for training, come last."""
    try:
        return _all_values(criterion, structure, passes, centred)
    except UnseenError as error:
        idle = [layer.name for layer in structure.layers if layer.name not in passes.running]
        if not set(error.layers) & set(idle):
            raise
    left = without_layers(structure, idle)
    lost = left.unread & unmade(left) & ~(structure.unread & unmade(structure))
    return last(_all_values(criterion, left, passes, centred), lost)


def _all_values(criterion: Criterion, structure: Structure, passes: Passes, centred: bool) -> np.ndarray:
    if isinstance(criterion, SampleCriterion):
        return criterion.scores_from(structure, passes, centred=centred)
    return criterion.unit_scores(
        passes.model, structure, passes.reference, centred=centred, batch_size=passes.batch_size
    )


def _checked(criterion: Criterion, structure: Structure, found: np.ndarray) -> Scores:
    values = np.asarray(found, np.float64)
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
