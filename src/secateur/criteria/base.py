"""The base classes of criteria, and criteria by name.

A criterion's name and parameters are checked before PyTorch is loaded; therefore this module and those of the
families import PyTorch inside their functions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast, get_args

from secateur.attribution.composites import Composite
from secateur.attribution.composites import get as get_composite
from secateur.attribution.names import At, Start
from secateur.core.errors import RequestError
from secateur.core.parameters import read_parameters
from secateur.core.registry import Registry
from secateur.criteria.names import NORMALISATIONS, REDUCTIONS, check_known

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from secateur.criteria.passes import Passes
    from secateur.data import ReferenceSet
    from secateur.structure import Structure

_FILES = {
    "activation": ["activation"],
    "filters": ["fpgm", "lamp"],
    "gradient": ["grad", "sensitivity", "taylor"],
    "lrp": ["lrp"],
    "maps": ["apoz", "cap", "ocap"],
    "mixture": ["mixture"],
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
    """Computes one score per unit from a network and reference samples; units with the lowest scores are removed first.

    Subclasses are dataclasses whose fields are the criterion's parameters, and are registered with `register`.
    """

    name: ClassVar[str]
    equivariant: ClassVar[bool] = True
    """Whether scores are permuted with the channels; False for criteria that draw random numbers."""
    standing: ClassVar[bool] = False
    """Whether the integer part of score · C is a unit's standing among the C units of its group, see `Scores`."""

    strategy: ClassVar[str] = "per-layer"
    """How units are ranked unless a strategy is given: the one that was best on validation images (see the docs).

    ``per-cost`` suits scores that estimate a change of the loss; with norms it would empty whole layers."""

    quick: ClassVar[bool] = True
    """Whether scoring takes a few passes; Shapley values take one for each unit and permutation."""

    @property
    def asks_for(self) -> int | None:
        """Least number of reference samples; None: any number."""
        return None

    def seeded(self, seed: int) -> Self:
        """The same criterion with this seed if it draws random numbers, so that a study can repeat it.

        By default a dataclass's field ``seed`` is set, unless it has another value than its default; with
        ``seed: int | None = None`` any given number stays, 0 as well. A criterion that keeps its seed elsewhere
        overrides this method. One that does not draw random numbers returns itself.

        Args:
            seed: seed of the random numbers.

        Example:
            >>> get("random").seeded(3), get("random", seed=0).seeded(3), get("weight").seeded(3)
            (Random(seed=3), Random(seed=0), Weight(p=2, normalise=None))
        """
        this: Any = self  # subclasses are usually dataclasses
        for field in fields(this) if is_dataclass(this) else ():
            if field.name == "seed" and field.init and this.seed == field.default:
                return cast(Self, replace(this, seed=seed))
        return self

    @abstractmethod
    def unit_scores(
        self, model: nn.Module, structure: Structure, reference: ReferenceSet, *, centred: bool, batch_size: int
    ) -> np.ndarray:
        """Scores of all units, [U].

        Args:
            model: a network in any mode; its state must be restored.
            structure: structure of the network.
            reference: labelled samples.
            centred: measure deviations from a unit's mean activation, which is what is lost when the mean is
                compensated; criteria that do not use activations ignore it.
            batch_size: samples per pass; the scores must not depend on it.
        """


@dataclass(frozen=True)
class View:
    """Settings of a backward pass over the reference samples.

    Attributes:
        composite: rules, see `secateur.attribution.composites`; None: the plain gradient.
        start: start at the logits, see `secateur.attribution.attribute`.
        positions: how positions (space or tokens) are combined: ``sum`` or ``abs``.
    """

    composite: str | Composite | None
    start: Start
    positions: Literal["sum", "abs"] = "sum"


class SampleCriterion(Criterion):
    """A criterion that combines per-sample figures of one backward pass.

    Subclasses are dataclasses with the fields below, and define the pass in `view`.

    Attributes:
        what: ``relevance`` (a·g) or ``gradient`` (g) of the pass.
        reduce: reduction over samples, see `reduce_samples`.
        normalise: normalisation per layer, see `normalise_layers`.
        at: sum over the layers that read the unit (the effect of removing it) or over those that produce it.
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
            get_composite(view.composite)

    @abstractmethod
    def view(self) -> View:
        """The pass from which the figures come."""

    def unit_scores(
        self, model: nn.Module, structure: Structure, reference: ReferenceSet, *, centred: bool, batch_size: int
    ) -> np.ndarray:
        """See `Criterion.unit_scores`."""
        from secateur.criteria.passes import Passes

        return self.scores_from(structure, Passes(model, reference, batch_size), centred=centred)

    def scores_from(self, structure: Structure, passes: Passes, *, centred: bool) -> np.ndarray:
        """Scores from passes that several criteria may share, [U].

        Units that no layer reads with weights (dimensions within a head of queries and keys) are observed where they
        are produced, and units that no layer produces (columns of a position table) where they are read.
        """
        from secateur.criteria.aggregation import normalise_layers, reduce_samples, unmade

        if centred and self.view().positions == "abs":
            raise RequestError("positions='abs' cannot be centred; use positions='sum', or prune with centred=false")
        values = self._figures(structure, passes, self.at, centred, None)
        there, other = (structure.unread, "makers") if self.at == "readers" else (unmade(structure), "readers")
        if there.any():
            values[:, there] = self._figures(structure, passes, cast(At, other), centred, there)[:, there]
        return normalise_layers(structure, reduce_samples(values, self.reduce), self.normalise)

    def _figures(
        self, structure: Structure, passes: Passes, at: At, centred: bool, among: np.ndarray | None
    ) -> np.ndarray:
        """Per-sample figures, [N, U], of all units or of those in ``among``."""
        from secateur.criteria.aggregation import check_observed, sample_relevance, unobserved

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


def register(name: str) -> Callable[[type[Criterion]], type[Criterion]]:
    """Class decorator that registers a criterion under a name; the contract suite then tests it, too.

    Example:
        >>> import numpy as np
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
    """A criterion by name with its parameters; a criterion object is returned as it is.

    Raises:
        RequestError: for an unknown name or unknown parameters.
    """
    if isinstance(criterion, Criterion):
        if parameters:
            raise RequestError(f"parameters {sorted(parameters)} go with a criterion's name, not with an object")
        return criterion
    return _registry.create(criterion, **parameters)


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """Parse ``name:key=value,key=value``; a composite may have its own parameters, ``composite=NAME(key=value)``.

    Example:
        >>> parse("weight:p=1")
        ('weight', {'p': 1})
    """
    name, _, rest = text.partition(":")
    return name.strip(), read_parameters(rest, f"criterion '{text}'")


def known() -> list[str]:
    """Names of all registered criteria."""
    return list(_registry)
