"""Composites, which choose a rule for each layer by its type and depth; and gradient methods.

Sources: Montavon et al. (2019) and Anders et al. (2021) for the CNN composites; Achtibat et al. (2024) for AttnLRP; Ali
et al. (2022) for CP-LRP; Zhang et al. (2018) for excitation backprop; Springenberg et al. (2015) for guided backprop;
Zeiler and Fergus (2014) for the deconvolutional network; Sundararajan et al. (2017) and Dhamdhere et al. (2019) for
integrated gradients and the conductance of units; Smilkov et al. (2017) for SmoothGrad; Hatefi et al. (2024) for rules
graded by depth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from secateur.attribution.rules import AlphaBeta, Epsilon, Flat, Gamma, PlusWeights, Rule, WSquare, ZBox, ZPlus
from secateur.core.errors import RequestError, check_count
from secateur.core.parameters import read_parameters, write_parameters
from secateur.core.registry import Registry

registry: Registry[Composite] = Registry("composite")

Softmax = Literal["attnlrp", "attnlrp-plus", "cp-lrp"]


@dataclass(frozen=True)
class LayerContext:
    """What a composite knows of a layer.

    Attributes:
        kind: ``convolution`` (plain or transposed) or ``linear``.
        first: whether the layer reads the network's input with no weighted layer before it.
        bounds: lowest and highest input value, None when unknown.
        depth: position among the weighted layers before the classifier in order of execution, 0 (first) to 1 (last);
            only for composites with ``by_depth``.
        classifier: whether it is one of the last layers, which read one vector per sample; only for composites with
            ``by_depth``.
    """

    kind: Literal["convolution", "linear"]
    first: bool
    bounds: tuple[float, float] | None = None
    depth: float = 0.0
    classifier: bool = False


@dataclass(frozen=True)
class IntegratedGradients:
    """Mean gradient on the straight path from ``baseline`` to the input, by the trapezoidal rule in ``steps`` steps."""

    steps: int = 20
    baseline: float = 0.0

    def __post_init__(self) -> None:
        check_count("steps of integrated gradients", self.steps)


@dataclass(frozen=True)
class SmoothGrad:
    """Mean over ``samples`` noisy inputs; ``noise``: standard deviation as a share of each input's range.

    The noise of a sample is seeded by its values: it does not depend on other samples, or on their order.
    """

    samples: int = 25
    noise: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("samples of SmoothGrad", self.samples)
        if self.noise < 0:
            raise RequestError(f"SmoothGrad needs noise >= 0, got {self.noise}")


@dataclass(frozen=True)
class Composite:
    """A named choice of rules.

    Attributes:
        name: name for records.
        choose: function that returns the rule of a weighted layer; None: the plain gradient everywhere.
        epsilon: stabiliser of norm layers and activations.
        by_depth: whether ``choose`` uses depth or classifier.
        softmax: ``attnlrp``: relevance also goes through the attention weights (softmax by its Taylor expansion, half
            of a product to each factor); ``attnlrp-plus``: the same with the z⁺-rule for the terms of that
            expansion; ``cp-lrp``: the attention weights are constants.
        activations: the backward pass of ReLU and similar functions in a plain gradient: ``guided`` passes positive
            gradients only, ``deconvnet`` depends on the sign of the gradient alone.
        gives: ``relevance`` (R = a·g) or the ``gradient`` g itself, for inputs and units alike.
        average: how several passes are averaged; None: one pass.
    """

    name: str
    choose: Callable[[LayerContext], Rule] | None
    epsilon: float = 1e-6
    by_depth: bool = False
    softmax: Softmax = "attnlrp"
    activations: Literal["plain", "guided", "deconvnet"] = "plain"
    gives: Literal["relevance", "gradient"] = "relevance"
    average: IntegratedGradients | SmoothGrad | None = None

    def __post_init__(self) -> None:
        if self.softmax not in get_args(Softmax):
            raise RequestError(f"unknown softmax rule '{self.softmax}'; known: {', '.join(get_args(Softmax))}")

    def __repr__(self) -> str:
        return f"Composite({self.name})"


def get(composite: str | Composite, **parameters: Any) -> Composite:
    """A composite by name, with its parameters; a composite object is returned as it is.

    A name may be followed by parameters, ``graded(low=z-plus, gamma=0.1)``, as composites are written in recipes and
    commands, and as their own names are.

    Raises:
        RequestError: for an unknown name or unknown parameters.

    Example:
        >>> get("epsilon-gamma-box", low=-3.0, high=3.0)
        Composite(epsilon-gamma-box(high=3.0, low=-3.0))
        >>> get("graded(gamma=0.1, low=z-plus)")
        Composite(graded(gamma=0.1, low=z-plus))
    """
    if isinstance(composite, Composite):
        if parameters:
            raise RequestError(f"parameters {sorted(parameters)} go with a composite's name, not with an object")
        return composite
    name, bracket, rest = composite.partition("(")
    if bracket:
        if not rest.rstrip().endswith(")"):
            raise RequestError(f"composite '{composite}' should read NAME(key=value, key=value)")
        given = read_parameters(rest.rstrip()[:-1], f"composite '{composite}'")
        if both := given.keys() & parameters.keys():
            raise RequestError(f"composite '{composite}': '{min(both)}' is given twice")
        parameters = given | parameters
    made = registry.create(name.strip(), **parameters)
    return replace(made, name=f"{name.strip()}({write_parameters(parameters)})") if parameters else made


def known() -> list[str]:
    """Names of all composites."""
    return list(registry)


@registry.register("epsilon")
def _epsilon(epsilon: float = 1e-6, softmax: Softmax = "attnlrp") -> Composite:
    rule = Epsilon(epsilon)
    return Composite("epsilon", lambda layer: rule, epsilon, softmax=softmax)


def _by_kind(name: str, convolution: Rule, linear: Rule, stabiliser: float, softmax: Softmax) -> Composite:
    return Composite(
        name, lambda layer: convolution if layer.kind == "convolution" else linear, stabiliser, softmax=softmax
    )


@registry.register("epsilon-plus")
def _epsilon_plus(
    epsilon: float = 1e-6, stabiliser: float = 1e-6, softmax: Softmax = "attnlrp", bias: bool = True
) -> Composite:
    """z⁺ for convolutions, ε for linear layers; without ``bias``, biases of convolutions get no relevance."""
    return _by_kind("epsilon-plus", ZPlus(stabiliser, bias), Epsilon(epsilon), stabiliser, softmax)


@registry.register("epsilon-plus-flat")
def _epsilon_plus_flat(
    epsilon: float = 1e-6, stabiliser: float = 1e-6, softmax: Softmax = "attnlrp", bias: bool = True
) -> Composite:
    return _with_first("epsilon-plus-flat", _epsilon_plus(epsilon, stabiliser, softmax, bias), Flat(stabiliser))


@registry.register("alpha2-beta1")
def _alpha2_beta1(
    epsilon: float = 1e-6, stabiliser: float = 1e-6, softmax: Softmax = "attnlrp", bias: bool = True
) -> Composite:
    """α2β1 for convolutions, ε for linear layers; without ``bias``, biases of convolutions get no relevance."""
    return _by_kind("alpha2-beta1", AlphaBeta(2, 1, stabiliser, bias), Epsilon(epsilon), stabiliser, softmax)


@registry.register("alpha2-beta1-flat")
def _alpha2_beta1_flat(
    epsilon: float = 1e-6, stabiliser: float = 1e-6, softmax: Softmax = "attnlrp", bias: bool = True
) -> Composite:
    return _with_first("alpha2-beta1-flat", _alpha2_beta1(epsilon, stabiliser, softmax, bias), Flat(stabiliser))


@registry.register("epsilon-gamma")
def _epsilon_gamma(
    gamma: float = 0.25, epsilon: float = 1e-6, stabiliser: float = 1e-6, softmax: Softmax = "attnlrp"
) -> Composite:
    return _by_kind("epsilon-gamma", Gamma(gamma, stabiliser), Epsilon(epsilon), stabiliser, softmax)


@registry.register("epsilon-gamma-box")
def _epsilon_gamma_box(
    low: float | None = None,
    high: float | None = None,
    gamma: float = 0.25,
    epsilon: float = 1e-6,
    stabiliser: float = 1e-6,
    softmax: Softmax = "attnlrp",
) -> Composite:
    rest = _epsilon_gamma(gamma, epsilon, stabiliser, softmax)

    def choose(layer: LayerContext) -> Rule:
        if not (layer.first and layer.kind == "convolution"):
            assert rest.choose is not None
            return rest.choose(layer)
        if low is not None and high is not None:
            return ZBox(low, high, stabiliser)
        if layer.bounds is None:
            raise RequestError("epsilon-gamma-box needs the inputs' range; give low= and high=")
        return ZBox(*layer.bounds, stabiliser)

    return replace(rest, name="epsilon-gamma-box", choose=choose)


@registry.register("excitation-backprop")
def _excitation_backprop(stabiliser: float = 1e-6) -> Composite:
    """The z⁺-rule everywhere: the probability that a winner walks back to a unit."""
    rule = ZPlus(stabiliser)
    return Composite("excitation-backprop", lambda layer: rule, stabiliser)


@registry.register("plus-weights")
def _plus_weights(stabiliser: float = 1e-6) -> Composite:
    """z⁺ by the sign of the weights alone, without biases, everywhere: the rule of the published 2-D toy study."""
    rule = PlusWeights(stabiliser)
    return Composite("plus-weights", lambda layer: rule, stabiliser)


@registry.register("attnlrp")
def _attnlrp(epsilon: float = 1e-6, gamma_convolution: float = 0.0, gamma_linear: float = 0.0) -> Composite:
    """ε everywhere, softmax by Taylor; with γ > 0 the γ-rule (published for ViT: 0.25 convolution, 0.05 linear)."""
    return _transformer("attnlrp", epsilon, gamma_convolution, gamma_linear, "attnlrp")


@registry.register("cp-lrp")
def _cp_lrp(epsilon: float = 1e-6, gamma_convolution: float = 0.0, gamma_linear: float = 0.0) -> Composite:
    """ε everywhere, attention weights as constants."""
    return _transformer("cp-lrp", epsilon, gamma_convolution, gamma_linear, "cp-lrp")


def _transformer(name: str, epsilon: float, convolution: float, linear: float, softmax: Softmax) -> Composite:
    rules: list[Rule] = [Gamma(gamma, epsilon) if gamma else Epsilon(epsilon) for gamma in (convolution, linear)]
    return _by_kind(name, rules[0], rules[1], epsilon, softmax)


_GRADED: dict[str, Callable[[float, float, str], Rule]] = {
    "epsilon": lambda gamma, stabiliser, kind: Epsilon(stabiliser),
    "alpha2-beta1": lambda gamma, stabiliser, kind: AlphaBeta(2, 1, stabiliser),
    "gamma": lambda gamma, stabiliser, kind: Gamma(gamma if kind == "convolution" else gamma / 5, stabiliser),
    "z-plus": lambda gamma, stabiliser, kind: ZPlus(stabiliser),
}


@registry.register("graded")
def _graded(
    low: str = "epsilon",
    middle: str = "epsilon",
    high: str = "epsilon",
    classifier: str = "epsilon",
    first: str | None = None,
    gamma: float = 0.25,
    stabiliser: float = 1e-6,
    softmax: Softmax = "attnlrp",
) -> Composite:
    """Rules by depth: first quarter, middle half and last quarter of the weighted layers, and the classifier.

    ``gamma`` holds for convolutions; linear layers take a fifth of it (0.25 and 0.05 as published). ``first`` (flat,
    w-square or z-box) is for the layer that reads the input.
    """
    parts = {"low": low, "middle": middle, "high": high, "classifier": classifier}
    for part, name in parts.items():
        if name not in _GRADED:
            raise RequestError(f"unknown rule '{name}' for '{part}'; known: {', '.join(_GRADED)}")
    if first not in (None, "flat", "w-square", "z-box"):
        raise RequestError(f"unknown rule '{first}' for 'first'; known: flat, w-square, z-box")
    rules = {
        (part, kind): _GRADED[name](gamma, stabiliser, kind)
        for part, name in parts.items()
        for kind in ("convolution", "linear")
    }

    def choose(layer: LayerContext) -> Rule:
        if layer.first and first is not None:
            return _first_rule(first, layer, stabiliser)
        depth = "low" if layer.depth < 0.25 else "middle" if layer.depth < 0.75 else "high"
        return rules["classifier" if layer.classifier else depth, layer.kind]

    return Composite("graded", choose, stabiliser, by_depth=True, softmax=softmax)


def _first_rule(name: str, layer: LayerContext, stabiliser: float) -> Rule:
    if name == "flat":
        return Flat(stabiliser)
    if name == "w-square":
        return WSquare(stabiliser)
    if layer.bounds is None:
        raise RequestError("the z^B-rule needs the inputs' range; give bounds=")
    return ZBox(*layer.bounds, stabiliser)


@registry.register("gradient")
def _gradient() -> Composite:
    """The plain gradient; that of a unit is summed over positions."""
    return Composite("gradient", None, gives="gradient")


@registry.register("gradient-input")
def _gradient_input() -> Composite:
    """Gradient times input; for units, gradient times activation."""
    return Composite("gradient-input", None)


@registry.register("integrated-gradients")
def _integrated_gradients(steps: int = 20, baseline: float = 0.0) -> Composite:
    """Integrated gradients; for units, their conductance, which adds up to the same in every layer all paths cross."""
    return Composite("integrated-gradients", None, average=IntegratedGradients(steps, baseline))


@registry.register("smoothgrad")
def _smoothgrad(samples: int = 25, noise: float = 0.1, seed: int = 0) -> Composite:
    """Gradient averaged over noisy inputs."""
    return Composite("smoothgrad", None, gives="gradient", average=SmoothGrad(samples, noise, seed))


@registry.register("guided-backprop")
def _guided_backprop() -> Composite:
    """A gradient whose positive parts alone pass each ReLU; other activations have their derivative."""
    return Composite("guided-backprop", None, activations="guided", gives="gradient")


@registry.register("deconvnet")
def _deconvnet() -> Composite:
    """A gradient rectified at each ReLU, whatever the sign of its input; other activations have their derivative."""
    return Composite("deconvnet", None, activations="deconvnet", gives="gradient")


def _with_first(name: str, composite: Composite, rule: Rule) -> Composite:
    inner = composite.choose
    assert inner is not None

    def choose(layer: LayerContext) -> Rule:
        return rule if layer.first else inner(layer)

    return replace(composite, name=name, choose=choose)
