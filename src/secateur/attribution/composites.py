"""Composites: which rule for which layer, chosen by the layer's type and depth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from secateur.attribution.rules import AlphaBeta, Epsilon, Flat, Gamma, Rule, ZBox, ZPlus
from secateur.core.errors import RequestError
from secateur.core.registry import Registry

registry: Registry[Composite] = Registry("composite")


@dataclass(frozen=True)
class LayerContext:
    """What a composite may look at.

    Attributes:
        kind: ``convolution`` or ``linear``.
        first: whether the layer reads the network's input with no weighted layer before it.
        index: 0, 1, ... in order of execution; ``count`` of weighted layers in all.
        bounds: lowest and highest input value, None when unknown.
    """

    kind: Literal["convolution", "linear"]
    first: bool
    index: int
    count: int
    bounds: tuple[float, float] | None = None


@dataclass(frozen=True)
class Composite:
    """A named choice of rules.

    Attributes:
        name: for records.
        choose: gives the rule of a layer.
        epsilon: stabiliser of norm layers and activations.
    """

    name: str
    choose: Callable[[LayerContext], Rule]
    epsilon: float = 1e-6

    def __repr__(self) -> str:
        return f"Composite({self.name})"


def get(composite: str | Composite, **parameters: Any) -> Composite:
    """A composite by name, with its parameters; a composite object passes.

    Raises:
        RequestError: for an unknown name or parameters it does not take.

    Example:
        >>> get("epsilon-gamma-box", low=-3.0, high=3.0)
        Composite(epsilon-gamma-box(high=3.0, low=-3.0))
    """
    if isinstance(composite, Composite):
        if parameters:
            raise RequestError(f"parameters {sorted(parameters)} go with a composite's name, not with an object")
        return composite
    made = registry.create(composite, **parameters)
    if not parameters:
        return made
    described = ", ".join(f"{key}={value}" for key, value in sorted(parameters.items()))
    return Composite(f"{composite}({described})", made.choose, made.epsilon)


@registry.register("epsilon")
def _epsilon(epsilon: float = 1e-6) -> Composite:
    return Composite("epsilon", lambda layer: Epsilon(epsilon), epsilon)


@registry.register("epsilon-plus")
def _epsilon_plus(epsilon: float = 1e-6, stabiliser: float = 1e-6) -> Composite:
    return Composite(
        "epsilon-plus",
        lambda layer: ZPlus(stabiliser) if layer.kind == "convolution" else Epsilon(epsilon),
        stabiliser,
    )


@registry.register("epsilon-plus-flat")
def _epsilon_plus_flat(epsilon: float = 1e-6, stabiliser: float = 1e-6) -> Composite:
    return _with_first("epsilon-plus-flat", _epsilon_plus(epsilon, stabiliser), Flat(stabiliser))


@registry.register("alpha2-beta1")
def _alpha2_beta1(epsilon: float = 1e-6, stabiliser: float = 1e-6) -> Composite:
    return Composite(
        "alpha2-beta1",
        lambda layer: AlphaBeta(2, 1, stabiliser) if layer.kind == "convolution" else Epsilon(epsilon),
        stabiliser,
    )


@registry.register("alpha2-beta1-flat")
def _alpha2_beta1_flat(epsilon: float = 1e-6, stabiliser: float = 1e-6) -> Composite:
    return _with_first("alpha2-beta1-flat", _alpha2_beta1(epsilon, stabiliser), Flat(stabiliser))


@registry.register("epsilon-gamma")
def _epsilon_gamma(gamma: float = 0.25, epsilon: float = 1e-6, stabiliser: float = 1e-6) -> Composite:
    return Composite(
        "epsilon-gamma",
        lambda layer: Gamma(gamma, stabiliser) if layer.kind == "convolution" else Epsilon(epsilon),
        stabiliser,
    )


@registry.register("epsilon-gamma-box")
def _epsilon_gamma_box(
    low: float | None = None,
    high: float | None = None,
    gamma: float = 0.25,
    epsilon: float = 1e-6,
    stabiliser: float = 1e-6,
) -> Composite:
    rest = _epsilon_gamma(gamma, epsilon, stabiliser)

    def choose(layer: LayerContext) -> Rule:
        if not (layer.first and layer.kind == "convolution"):
            return rest.choose(layer)
        if low is not None and high is not None:
            return ZBox(low, high, stabiliser)
        if layer.bounds is None:
            raise RequestError("epsilon-gamma-box needs the inputs' range; give low= and high=")
        return ZBox(*layer.bounds, stabiliser)

    return Composite("epsilon-gamma-box", choose, stabiliser)


@registry.register("graded")
def _graded(
    low: str = "epsilon",
    middle: str = "epsilon",
    high: str = "epsilon",
    classifier: str = "epsilon",
    gamma: float = 0.25,
    stabiliser: float = 1e-6,
) -> Composite:
    """Rules by depth: first quarter, middle half and last quarter of the convolutions' span, and linear layers."""
    rules: dict[str, Rule] = {
        "epsilon": Epsilon(stabiliser),
        "alpha2-beta1": AlphaBeta(2, 1, stabiliser),
        "gamma": Gamma(gamma, stabiliser),
        "z-plus": ZPlus(stabiliser),
    }
    for name in (low, middle, high, classifier):
        if name not in rules:
            raise RequestError(f"unknown rule '{name}'; known: {', '.join(rules)}")

    def choose(layer: LayerContext) -> Rule:
        if layer.kind == "linear":
            return rules[classifier]
        depth = layer.index / max(1, layer.count - 1)
        return rules[low if depth < 0.25 else middle if depth < 0.75 else high]

    return Composite("graded", choose, stabiliser)


def _with_first(name: str, composite: Composite, rule: Rule) -> Composite:
    def choose(layer: LayerContext) -> Rule:
        return rule if layer.first and layer.kind == "convolution" else composite.choose(layer)

    return Composite(name, choose, composite.epsilon)
